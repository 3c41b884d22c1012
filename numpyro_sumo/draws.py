"""Evaluation of a random number of log-weights inside ``jit``, at the cost of what was drawn.

XLA needs static shapes. Here only *scalars* are padded to the largest possible count; the
log-weights themselves, which cost a run of model and guide each, are evaluated for the slots
(datum, draw) that were drawn, a chunk at a time, in a loop with a traced bound.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import lax, random
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
import jax.numpy as jnp


def evaluate_log_weights(
    log_weight: Callable[[jax.Array, jax.Array], Any],
    rng_key: jax.Array,
    counts: jax.Array,
    *,
    max_count: int,
    num_head: int,
    chunk_size: int,
    head_only: Collection[str] = (),
) -> Any:
    """Evaluates ``counts[i]`` log-weights for every datum i, and keeps each.

    Draw j of datum i has a key of its own, made from (i, j) alone: the numbers do not depend on
    ``num_head``, ``chunk_size`` or the other data's counts.

    The first ``num_head`` draws of every datum are evaluated together under ordinary automatic
    differentiation. The rest form one queue of slots, worked off ``chunk_size`` at a time; the
    backward pass goes over the queue once more and re-evaluates each chunk, so the memory needed is
    that of one chunk however many slots there are.

    :param log_weight: maps (datum, key), an int32 scalar and a key, to a pytree of arrays. May
        close over traced values, and is differentiable with respect to them. Traced once.
    :param rng_key: a key.
    :param counts: draws for each datum, integers ≤ ``max_count`` of shape ``(num_data,)``.
    :param max_count: the largest possible count.
    :param num_head: draws of each datum that are made whatever the counts.
    :param chunk_size: slots evaluated at a time in the loop.
    :param head_only: entries of a dict from ``log_weight`` that are wanted of the first draws
        alone; they have ``num_head`` rows, and cost nothing beyond.
    :return: the pytree of ``log_weight`` with leaves of shape ``(max_count, num_data, ...)``; rows
        from ``counts[i]`` on are not to be read.
    """
    head, tail, _ = _evaluate(
        lambda i, j, datum_key: log_weight(i, random.fold_in(datum_key, j)),
        rng_key,
        counts,
        num_head=num_head,
        keep=_EachSlot(num_head, max_count - num_head, frozenset(head_only)),
        chunk_size=chunk_size,
    )
    return head if tail is None else _appended(head, tail)


class LevelSums(NamedTuple):
    """What is kept of log-weights that come in blocks, 2 to the power of a level of them.

    All of it is relative to a reference, so that float32 sums of many keep their digits far from
    zero.

    :param log_sums: log of the sum of the weights in block 0 (row 0) and in blocks
        :math:`2^{k-1} … 2^k - 1` (row k), less the reference: leaves of shape
        ``(1 + max_level, num_data, ...)``. Rows beyond the datum's level are not to be read.
    :param bounds: sum of the blocks' bounds, each less the reference, over all blocks of a datum:
        leaves of shape ``(num_data, ...)``.
    :param reference: log of the sum of the weights in block 0, or 0 where that is not finite; no
        gradient flows through it. Leaves of shape ``(num_data, ...)``.
    """

    log_sums: Any
    bounds: Any
    reference: Any


def evaluate_levels(
    block: Callable[[jax.Array, jax.Array], tuple[Any, Any]],
    rng_key: jax.Array,
    levels: jax.Array,
    *,
    block_size: int,
    max_level: int,
    chunk_size: int,
    head_only: Collection[str] = (),
) -> LevelSums:
    """Evaluates ``2**levels[i]`` blocks of log-weights for every datum i, and keeps their sums.

    Memory is that of one chunk and of ``max_level`` scalars for each datum, and draws have the keys
    they have in :func:`evaluate_log_weights`.

    :param block: maps (datum, keys), keys of shape ``(block_size,)``, to a pair of pytrees of
        arrays, alike in structure: logarithms of the block's sum of weights, and its bounds.
    :param levels: integers in 1 … ``max_level`` of shape ``(num_data,)``.
    :param block_size: draws in a block.
    :param chunk_size: blocks evaluated at a time in the loop.
    :param head_only: entries of the dicts from ``block`` that are wanted of the first two blocks
        alone: log-sums of two rows, and no bounds but theirs.
    """

    def evaluate_block(i, b, datum_key):
        draws = b * block_size + jnp.arange(block_size, dtype=jnp.int32)
        return block(i, jax.vmap(partial(random.fold_in, datum_key))(draws))

    head, tail, reference = _evaluate(
        evaluate_block,
        rng_key,
        jnp.left_shift(1, levels),
        num_head=2,
        keep=_Levels(max_level - 1, frozenset(head_only)),
        chunk_size=chunk_size,
    )
    log_sums, bounds = jax.tree.map(jnp.subtract, head, (reference, reference))
    # The two blocks of the head are the first two levels.
    bounds = jax.tree.map(lambda head: head.sum(axis=0), bounds)
    if tail is not None:
        log_sums = _appended(log_sums, tail[0])
        bounds = _joined(jnp.add, bounds, tail[1])
    return LevelSums(log_sums, bounds, reference)


def _appended(head, tail):
    return _joined(lambda *rows: jnp.concatenate(rows), head, tail)


def _joined(join, head, tail):
    """Leaves of head and tail joined; those of head as they are where there are none of tail."""
    if not isinstance(head, dict):
        return jax.tree.map(join, head, tail)
    return {
        name: jax.tree.map(join, of_head, tail[name]) if name in tail else of_head
        for name, of_head in head.items()
    }


def _without(values, names):
    """A dict without some of its entries; anything else as it is."""
    return {n: v for n, v in values.items() if n not in names} if names else values


def _evaluate(evaluate_slot, rng_key, counts, *, num_head, keep, chunk_size):
    """The first slots of every datum as they are, what is kept of the others (or None), and what
    that is relative to."""
    data = jnp.arange(counts.shape[0], dtype=jnp.int32)
    datum_keys = jax.vmap(partial(random.fold_in, rng_key))(data)
    # What evaluate_slot closes over becomes explicit, keys and integers included: a custom
    # derivative cannot see through closures.
    traced, shape = jax.make_jaxpr(evaluate_slot, return_shape=True)(
        data[0], data[0], datum_keys[0]
    )
    operands, treedef = traced.consts, jax.tree.structure(shape)

    def evaluate(i, j, datum_key, operands):
        arguments = jax.tree.leaves((i, j, datum_key))
        leaves = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, operands))(*arguments)
        return treedef.unflatten(leaves)

    over_draws = jax.vmap(evaluate, in_axes=(None, 0, None, None))
    over_head = jax.vmap(over_draws, in_axes=(0, None, 0, None), out_axes=1)
    head = over_head(data, jnp.arange(num_head, dtype=jnp.int32), datum_keys, operands)
    reference = keep.reference(head)
    if keep.num_rows == 0:
        return head, None, reference

    def evaluate_relative(i, j, datum_key, operands):
        operands, reference = operands
        return keep.relative(evaluate(i, j, datum_key, operands), reference, i)

    operands = (operands, reference)
    inputs = (operands, datum_keys, counts)
    tail = _evaluate_queue(evaluate_relative, keep, chunk_size, num_head, *inputs)
    return head, tail, reference


class _Slots(NamedTuple):
    """Some slots of the queue: datum, draw, and whether the slot exists."""

    datum: jax.Array
    draw: jax.Array
    valid: jax.Array

    def mask(self, leaf, otherwise=0):
        """The leaf, and ``otherwise`` where the slot does not exist."""
        return jnp.where(self.valid.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, otherwise)


@dataclass(frozen=True)
class _EachSlot:
    """Keeps the value of every slot in a row of its own."""

    first: int
    num_rows: int
    head_only: frozenset[str]

    def reference(self, head):
        return None

    def relative(self, values, reference, datum):
        return _without(values, self.head_only)

    def nothing(self, shapes, num_data):
        shape = (self.num_rows, num_data)
        return jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape), leaf.dtype), shapes)

    def add(self, kept, values, slots):
        row = jnp.where(slots.valid, slots.draw - self.first, self.num_rows)
        write = lambda rows, value: rows.at[row, slots.datum].set(value, mode="drop")
        return jax.tree.map(write, kept, values)

    def pull_back(self, cotangents, kept, values, slots):
        row = slots.draw - self.first
        return jax.tree.map(lambda leaf: slots.mask(leaf[row, slots.datum]), cotangents)


@dataclass(frozen=True)
class _Levels:
    """Keeps log-sums of the blocks from the third on by level, and sums over all of them."""

    num_rows: int
    head_only: frozenset[str]

    def reference(self, head):
        first = jax.tree.map(lambda leaf: lax.stop_gradient(leaf[0]), head[0])
        return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0.0), first)

    def relative(self, values, reference, datum):
        here = jax.tree.map(lambda leaf: leaf[datum], _without(reference, self.head_only))
        values = tuple(_without(part, self.head_only) for part in values)
        return jax.tree.map(jnp.subtract, values, (here, here))

    def nothing(self, shapes, num_data):
        log_sums, bounds = shapes
        rows = lambda leaf: jnp.full((self.num_rows, num_data, *leaf.shape), -jnp.inf, leaf.dtype)
        sums = lambda leaf: jnp.zeros((num_data, *leaf.shape), leaf.dtype)
        return jax.tree.map(rows, log_sums), jax.tree.map(sums, bounds)

    def add(self, kept, values, slots):
        row = self._row(slots.draw)

        def add_log(log_sum, value):
            value = slots.mask(value, -jnp.inf)
            top = log_sum.at[row, slots.datum].max(value)
            shift = jnp.where(jnp.isneginf(top), 0.0, top)
            terms = jnp.exp(value - shift[row, slots.datum])
            return shift + jnp.log(jnp.exp(log_sum - shift).at[row, slots.datum].add(terms))

        add = lambda bound, value: bound.at[slots.datum].add(slots.mask(value))
        return jax.tree.map(add_log, kept[0], values[0]), jax.tree.map(add, kept[1], values[1])

    def pull_back(self, cotangents, kept, values, slots):
        row = self._row(slots.draw)

        def share(cotangent, log_sum, value):
            """The log-sum's derivative in one of its terms is that term's share."""
            log_share = jnp.where(jnp.isneginf(value), -jnp.inf, value - log_sum[row, slots.datum])
            return slots.mask(cotangent[row, slots.datum] * jnp.exp(log_share))

        whole = lambda cotangent: slots.mask(cotangent[slots.datum])
        of_log_sums = jax.tree.map(share, cotangents[0], kept[0], values[0])
        return of_log_sums, jax.tree.map(whole, cotangents[1])

    def _row(self, block):
        """Blocks 2 and 3 are level 2 and row 0, blocks 4 to 7 are level 3 and row 1, and so on."""
        return 30 - lax.clz(block)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _evaluate_queue(evaluate_slot, keep, chunk_size, num_head, operands, datum_keys, counts):
    lengths = jnp.maximum(counts - num_head, 0)
    evaluate = jax.vmap(evaluate_slot, in_axes=(0, 0, 0, None))

    def evaluate_chunk(state):
        index, kept = state
        slots = _slots(chunk_size, lengths, num_head, index)
        values = evaluate(slots.datum, slots.draw, datum_keys[slots.datum], operands)
        return index + 1, keep.add(kept, values, slots)

    shapes = jax.eval_shape(evaluate_slot, counts[0], counts[0], datum_keys[0], operands)
    not_done = lambda state: state[0] * chunk_size < jnp.sum(lengths)
    nothing = keep.nothing(shapes, counts.shape[0])
    return lax.while_loop(not_done, evaluate_chunk, (0, nothing))[1]


def _evaluate_queue_forward(
    evaluate_slot, keep, chunk_size, num_head, operands, datum_keys, counts
):
    inputs = (operands, datum_keys, counts)
    kept = _evaluate_queue(evaluate_slot, keep, chunk_size, num_head, *inputs)
    return kept, (inputs, kept)


def _evaluate_queue_backward(evaluate_slot, keep, chunk_size, num_head, residuals, cotangents):
    (operands, datum_keys, counts), kept = residuals
    lengths = jnp.maximum(counts - num_head, 0)
    leaves, treedef = jax.tree.flatten(operands)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, keep_it in zip(leaves, is_float) if keep_it]

    def with_floats(floats):
        floats = iter(floats)
        return treedef.unflatten(
            [next(floats) if keep_it else leaf for leaf, keep_it in zip(leaves, is_float)]
        )

    def add_chunk(state):
        index, gradients = state
        slots = _slots(chunk_size, lengths, num_head, index)

        def evaluate(floats):
            over_slots = jax.vmap(evaluate_slot, in_axes=(0, 0, 0, None))
            datum_key = datum_keys[slots.datum]
            return over_slots(slots.datum, slots.draw, datum_key, with_floats(floats))

        values, pull_back = jax.vjp(evaluate, floats)
        (chunk,) = pull_back(keep.pull_back(cotangents, kept, values, slots))
        return index + 1, jax.tree.map(jnp.add, gradients, chunk)

    not_done = lambda state: state[0] * chunk_size < jnp.sum(lengths)
    zeros = jax.tree.map(jnp.zeros_like, floats)
    gradients = iter(lax.while_loop(not_done, add_chunk, (0, zeros))[1])
    gradients = [next(gradients) if keep_it else None for keep_it in is_float]
    return treedef.unflatten(gradients), None, None


_evaluate_queue.defvjp(_evaluate_queue_forward, _evaluate_queue_backward)


def _slots(chunk_size, lengths, num_head, index):
    """Chunk ``index`` of the queue."""
    ends = jnp.cumsum(lengths)
    slot = index * chunk_size + jnp.arange(chunk_size)
    valid = slot < ends[-1]
    # Slots past the end repeat the last one: a sound draw, of which nothing is kept.
    slot = jnp.minimum(slot, ends[-1] - 1)
    datum = jnp.searchsorted(ends, slot, side="right").astype(jnp.int32)
    draw = num_head + (slot - (ends[datum] - lengths[datum])).astype(jnp.int32)
    return _Slots(datum, draw, valid)
