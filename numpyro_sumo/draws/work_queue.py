"""A queue of slots (datum, draw), as many as were drawn, worked off a chunk at a time."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding


class Slots(NamedTuple):
    """Some slots of the queue: datum, draw, and whether the slot exists."""

    datum: jax.Array
    draw: jax.Array
    valid: jax.Array

    def mask(self, leaf, otherwise=0):
        """The leaf, and ``otherwise`` where the slot does not exist."""
        return jnp.where(self.valid.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, otherwise)


class Layout(NamedTuple):
    """How a queue is cut up: of no consequence for the numbers.

    :param num_head: draws of each datum that are not in the queue.
    :param chunk_size: slots that are evaluated together.
    :param sharding: along which axis of which mesh a chunk is split over devices; None leaves it
        whole.
    """

    num_head: int
    chunk_size: int
    sharding: NamedSharding | None

    def split(self, tree: Any) -> Any:
        """The arrays, split over devices along their leading axis."""
        if self.sharding is None:
            return tree
        split = partial(lax.with_sharding_constraint, shardings=self.sharding)
        return jax.tree.map(split, tree)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def work_off(
    evaluate: Callable[..., Any],
    keep: Any,
    layout: Layout,
    constants: Any,
    of_data: Any,
    datum_keys: jax.Array,
    counts: jax.Array,
) -> Any:
    """What is kept of all draws beyond the head.

    The backward pass goes over the queue once more and evaluates each chunk again, so that memory
    is that of one chunk however many slots there are.

    :param evaluate: maps (draw, datum's key, constants, what is known of the datum) to values.
        Closes over nothing that is traced: a custom derivative could not see it.
    :param keep: what is done with the values; see ``kept``.
    :param constants: a pytree of arrays.
    :param of_data: a pytree of arrays with a leading axis of data.
    :param datum_keys: shape ``(num_data,)``, as are ``counts``.
    """
    lengths = jnp.maximum(counts - layout.num_head, 0)

    def work_chunk(state):
        index, kept = state
        slots = _slots(layout, lengths, index)
        values = _evaluate_chunk(evaluate, slots, constants, of_data, datum_keys)
        return index + 1, keep.add(kept, values, slots)

    first = jax.tree.map(lambda leaf: leaf[0], (datum_keys, of_data))
    shapes = jax.eval_shape(evaluate, counts[0], first[0], constants, first[1])
    nothing = keep.nothing(shapes, counts.shape[0])
    return lax.while_loop(_not_done(layout, lengths), work_chunk, (0, nothing))[1]


def _forward(evaluate, keep, layout, *inputs):
    kept = work_off(evaluate, keep, layout, *inputs)
    return kept, (inputs, kept)


def _backward(evaluate, keep, layout, residuals, cotangents):
    (constants, of_data, datum_keys, counts), kept = residuals
    lengths = jnp.maximum(counts - layout.num_head, 0)
    leaves, treedef = jax.tree.flatten((constants, of_data))
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, keep_it in zip(leaves, is_float) if keep_it]

    def with_floats(floats):
        floats = iter(floats)
        return treedef.unflatten(
            [next(floats) if keep_it else leaf for leaf, keep_it in zip(leaves, is_float)]
        )

    def add_chunk(state):
        index, gradients = state
        slots = _slots(layout, lengths, index)
        values, pull_back = jax.vjp(
            lambda floats: _evaluate_chunk(evaluate, slots, *with_floats(floats), datum_keys),
            floats,
        )
        (of_chunk,) = pull_back(keep.pull_back(cotangents, kept, values, slots))
        return index + 1, jax.tree.map(jnp.add, gradients, of_chunk)

    zeros = jax.tree.map(jnp.zeros_like, floats)
    gradients = lax.while_loop(_not_done(layout, lengths), add_chunk, (0, zeros))[1]
    gradients = iter(gradients)
    gradients = treedef.unflatten([next(gradients) if keep_it else None for keep_it in is_float])
    return *gradients, None, None


work_off.defvjp(_forward, _backward)


def _evaluate_chunk(evaluate, slots, constants, of_data, datum_keys):
    datum_key, of_datum = jax.tree.map(lambda leaf: leaf[slots.datum], (datum_keys, of_data))
    over_slots = jax.vmap(evaluate, in_axes=(0, 0, None, 0))
    return over_slots(slots.draw, datum_key, constants, of_datum)


def _not_done(layout, lengths):
    return lambda state: state[0] * layout.chunk_size < jnp.sum(lengths)


def _slots(layout, lengths, index):
    """Chunk ``index`` of the queue."""
    ends = jnp.cumsum(lengths)
    slot = index * layout.chunk_size + layout.split(jnp.arange(layout.chunk_size))
    valid = slot < ends[-1]
    # Slots past the end repeat the last one: a sound draw, of which nothing is kept.
    slot = jnp.minimum(slot, ends[-1] - 1)
    datum = jnp.searchsorted(ends, slot, side="right", method="scan_unrolled").astype(jnp.int32)
    draw = layout.num_head + (slot - (ends[datum] - lengths[datum])).astype(jnp.int32)
    return Slots(datum, draw, valid)
