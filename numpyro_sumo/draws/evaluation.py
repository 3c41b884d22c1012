"""Evaluation of a random number of log-weights inside ``jit``, at the cost of what was drawn.

XLA needs static shapes. Here only *scalars* are padded to the largest possible count; the
log-weights themselves, which cost a run of model and guide each, are evaluated for the slots
(datum, draw) that were drawn, a chunk at a time, in a loop with a traced bound.
"""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import random
import jax.numpy as jnp
from jax.sharding import NamedSharding

from .kept import EachSlot, Levels
from .stages import in_stages
from .work_queue import Layout, work_off


def evaluate_log_weights(
    log_weight: Callable[[jax.Array, jax.Array], Any],
    rng_key: jax.Array,
    counts: jax.Array,
    *,
    max_count: int,
    num_head: int,
    chunk_size: int,
    first_chunk: int = 0,
    head_only: Collection[str] = (),
    sharding: NamedSharding | None = None,
) -> Any:
    """Evaluates ``counts[i]`` log-weights for every datum i, and keeps each.

    Draw j of datum i has a key of its own, made from (i, j) alone: the numbers do not depend on
    ``num_head``, ``chunk_size`` or the other data's counts.

    The first ``num_head`` draws of every datum are evaluated together under ordinary automatic
    differentiation. The rest form one queue of slots. Its first ``first_chunk`` are evaluated
    together as well; the others are worked off ``chunk_size`` at a time, and the backward pass goes
    over them once more and re-evaluates each chunk, so that the memory needed does not depend on
    how many slots there are.

    :param log_weight: maps (datum, key), an int32 scalar and a key, to a pytree of arrays. May
        close over traced values, and is differentiable with respect to them. Traced once.
    :param rng_key: a key.
    :param counts: draws for each datum, integers ≤ ``max_count`` of shape ``(num_data,)``.
    :param max_count: the largest possible count.
    :param num_head: draws of each datum that are made whatever the counts.
    :param chunk_size: slots evaluated at a time in the loop.
    :param first_chunk: slots evaluated before it.
    :param sharding: splits the head and each chunk over the devices along one axis of a mesh: slots
        and not data, so that none waits for another's long stopping time.
    :param head_only: entries of a dict from ``log_weight`` that are wanted of the first draws
        alone; they have ``num_head`` rows, and cost nothing beyond.
    :return: the pytree of ``log_weight`` with leaves of shape ``(max_count, num_data, ...)``; rows
        from ``counts[i]`` on are not to be read.
    """
    head, tail, _ = _evaluate(
        lambda i, j, datum_key: log_weight(i, random.fold_in(datum_key, j)),
        rng_key,
        counts,
        layout=Layout(num_head, first_chunk, chunk_size, sharding),
        keep=EachSlot(num_head, max_count - num_head, frozenset(head_only)),
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
    first_chunk: int = 0,
    head_only: Collection[str] = (),
    sharding: NamedSharding | None = None,
) -> LevelSums:
    """Evaluates ``2**levels[i]`` blocks of log-weights for every datum i, and keeps their sums.

    Memory is that of two chunks and of ``max_level`` scalars for each datum, and draws have the
    keys they have in :func:`evaluate_log_weights`.

    :param block: maps (datum, keys), keys of shape ``(block_size,)``, to a pair of pytrees of
        arrays, alike in structure: logarithms of the block's sum of weights, and its bounds.
    :param levels: integers in 1 … ``max_level`` of shape ``(num_data,)``.
    :param block_size: draws in a block.
    :param chunk_size: blocks evaluated at a time in the loop; likewise ``first_chunk``.
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
        layout=Layout(2, first_chunk, chunk_size, sharding),
        keep=Levels(max_level - 1, frozenset(head_only)),
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


def _evaluate(evaluate_slot, rng_key, counts, *, layout, keep):
    """The first slots of every datum as they are, what is kept of the others (or None), and what
    that is relative to."""
    data = jnp.arange(counts.shape[0], dtype=jnp.int32)
    datum_keys = jax.vmap(partial(random.fold_in, rng_key))(data)
    alone = len(data) == 1
    # What depends on an only datum is the same for all draws.
    slot = lambda i, draw: evaluate_slot(data[0] if alone else i, *draw)
    constants, of_datum, of_draw = in_stages(slot, data[0], (data[0], datum_keys[0]))
    of_data = jax.vmap(of_datum)(data)

    def evaluate_row(j):
        """Draw j of every datum."""
        if alone:
            # An axis of length one under all that model and guide do would cost them a tenth.
            values = of_draw((j, datum_keys[0]), constants, [leaf[0] for leaf in of_data])
            return jax.tree.map(lambda leaf: leaf[None], values)
        over_data = jax.vmap(lambda key, of_datum: of_draw((j, key), constants, of_datum))
        return over_data(*layout.split((datum_keys, of_data)))

    rows = jnp.arange(layout.num_head, dtype=jnp.int32)
    head = jax.vmap(evaluate_row)(layout.split(rows) if alone else rows)
    reference = keep.reference(head)
    if keep.num_rows == 0:
        return head, None, reference

    def evaluate_relative(j, datum_key, constants, of_datum):
        of_datum, reference = of_datum
        return keep.relative(of_draw((j, datum_key), constants, of_datum), reference)

    inputs = (constants, (of_data, reference), datum_keys, counts)
    tail = work_off(evaluate_relative, keep, layout, *inputs)
    return head, tail, reference
