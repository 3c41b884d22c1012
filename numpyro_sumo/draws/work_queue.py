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
    :param first_chunk: slots at the start of the queue that are evaluated together, once: what
        their derivative needs is kept.
    :param chunk_size: slots that are evaluated together after that, once more on the way back.
    :param sharding: along which axis of which mesh a chunk is split over devices; None leaves it
        whole.
    """

    num_head: int
    first_chunk: int
    chunk_size: int
    sharding: NamedSharding | None

    def split(self, tree: Any) -> Any:
        """The arrays, split over devices along their leading axis."""
        if self.sharding is None:
            return tree
        num_devices = self.sharding.mesh.shape[self.sharding.spec[0]]

        def split(leaf):
            # Outside jit JAX has no way to split what does not divide.
            if leaf.shape[0] % num_devices and not isinstance(leaf, jax.core.Tracer):
                return leaf
            return lax.with_sharding_constraint(leaf, self.sharding)

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

    The backward pass goes over the queue once more and, but for the first chunk, evaluates it
    again, so that memory is that of two chunks however many slots there are.

    :param evaluate: maps (draw, datum's key, constants, what is known of the datum) to values.
        Closes over nothing that is traced: a custom derivative could not see it.
    :param keep: what is done with the values; see ``kept``.
    :param constants: a pytree of arrays.
    :param of_data: a pytree of arrays with a leading axis of data.
    :param datum_keys: shape ``(num_data,)``, as are ``counts``.
    """
    return _forward(evaluate, keep, layout, constants, of_data, datum_keys, counts)[0]


def _forward(evaluate, keep, layout, constants, of_data, datum_keys, counts):
    lengths = jnp.maximum(counts - layout.num_head, 0)
    first = jax.tree.map(lambda leaf: leaf[0], (datum_keys, of_data))
    shapes = jax.eval_shape(evaluate, counts[0], first[0], constants, first[1])
    kept = keep.nothing(shapes, counts.shape[0])
    floats, with_floats = _floats_of((constants, of_data))
    first_values = pull_back_first = None
    if layout.first_chunk:
        slots = _slots(layout, lengths, None)
        evaluate_first = lambda floats: _evaluate_chunk(
            evaluate, slots, *with_floats(floats), datum_keys
        )
        first_values, pull_back_first = jax.vjp(evaluate_first, floats)
        kept = keep.add(kept, first_values, slots)

    def work_chunk(state):
        index, kept = state
        slots = _slots(layout, lengths, index)
        values = _evaluate_chunk(evaluate, slots, constants, of_data, datum_keys)
        return index + 1, keep.add(kept, values, slots)

    _, kept = lax.while_loop(_not_done(layout, lengths), work_chunk, (0, kept))
    inputs = (constants, of_data, datum_keys, lengths)
    return kept, (inputs, kept, first_values, pull_back_first)


def _backward(evaluate, keep, layout, residuals, cotangents):
    (constants, of_data, datum_keys, lengths), kept, first_values, pull_back_first = residuals
    floats, with_floats = _floats_of((constants, of_data))

    def add_chunk(state):
        index, gradients = state
        slots = _slots(layout, lengths, index)
        values, pull_back = jax.vjp(
            lambda floats: _evaluate_chunk(evaluate, slots, *with_floats(floats), datum_keys),
            floats,
        )
        (of_chunk,) = pull_back(keep.pull_back(cotangents, kept, values, slots))
        return index + 1, jax.tree.map(jnp.add, gradients, of_chunk)

    gradients = jax.tree.map(jnp.zeros_like, floats)
    if layout.first_chunk:
        slots = _slots(layout, lengths, None)
        (gradients,) = pull_back_first(keep.pull_back(cotangents, kept, first_values, slots))
    _, gradients = lax.while_loop(_not_done(layout, lengths), add_chunk, (0, gradients))
    return *with_floats(gradients, others=False), None, None


work_off.defvjp(_forward, _backward)


def _floats_of(tree):
    """The leaves that have derivatives, and what puts others in their places.

    Of the leaves that have none the second keeps the values, or leaves nothing.
    """
    leaves, treedef = jax.tree.flatten(tree)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]

    def with_floats(floats, others=True):
        floats = iter(floats)
        return treedef.unflatten(
            next(floats) if has_derivative else (leaf if others else None)
            for leaf, has_derivative in zip(leaves, is_float)
        )

    return [leaf for leaf, keep_it in zip(leaves, is_float) if keep_it], with_floats


def _evaluate_chunk(evaluate, slots, constants, of_data, datum_keys):
    datum_key, of_datum = jax.tree.map(lambda leaf: leaf[slots.datum], (datum_keys, of_data))
    over_slots = jax.vmap(evaluate, in_axes=(0, 0, None, 0))
    return over_slots(slots.draw, datum_key, constants, of_datum)


def _not_done(layout, lengths):
    return lambda state: layout.first_chunk + state[0] * layout.chunk_size < jnp.sum(lengths)


def _slots(layout, lengths, index):
    """Chunk ``index`` of the queue after the first; the first for None."""
    size = layout.first_chunk if index is None else layout.chunk_size
    start = 0 if index is None else layout.first_chunk + index * layout.chunk_size
    ends = jnp.cumsum(lengths)
    slot = start + layout.split(jnp.arange(size))
    valid = slot < ends[-1]
    # Slots past the end repeat the last one: a sound draw, of which nothing is kept.
    slot = jnp.maximum(jnp.minimum(slot, ends[-1] - 1), 0)
    datum = jnp.searchsorted(ends, slot, side="right", method="scan_unrolled").astype(jnp.int32)
    datum = jnp.minimum(datum, len(lengths) - 1)
    draw = layout.num_head + (slot - (ends[datum] - lengths[datum])).astype(jnp.int32)
    return Slots(datum, draw, valid)
