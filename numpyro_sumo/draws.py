"""Evaluation of a random number of log-weights inside ``jit``, at the cost of what was drawn.

XLA needs static shapes. Here only *scalars* are padded to the largest possible count; the
log-weights themselves, which cost a run of model and guide each, are evaluated for the slots
(datum, draw) that were drawn, a chunk at a time, in a loop with a traced bound.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

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
) -> Any:
    """Evaluates ``counts[i]`` log-weights for every datum i.

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
    :return: the pytree of ``log_weight`` with leaves of shape ``(max_count, num_data, ...)``; rows
        from ``counts[i]`` on are not to be read.
    """
    num_data = counts.shape[0]
    data = jnp.arange(num_data, dtype=jnp.int32)
    datum_keys = jax.vmap(partial(random.fold_in, rng_key))(data)
    # What log_weight closes over becomes explicit, keys and integers included: a custom derivative
    # cannot see through closures.
    traced, shape = jax.make_jaxpr(log_weight, return_shape=True)(data[0], datum_keys[0])
    operands, treedef = traced.consts, jax.tree.structure(shape)

    def evaluate_slot(i, j, datum_key, operands):
        arguments = jax.tree.leaves((i, random.fold_in(datum_key, j)))
        leaves = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, operands))(*arguments)
        return treedef.unflatten(leaves)

    over_draws = jax.vmap(evaluate_slot, in_axes=(None, 0, None, None))
    over_head = jax.vmap(over_draws, in_axes=(0, None, 0, None), out_axes=1)
    head = over_head(data, jnp.arange(num_head, dtype=jnp.int32), datum_keys, operands)
    if num_head == max_count:
        return head
    tail = _evaluate_queue(
        evaluate_slot, chunk_size, max_count - num_head, num_head, operands, datum_keys, counts
    )
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), head, tail)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _evaluate_queue(evaluate_slot, chunk_size, num_rows, num_head, operands, datum_keys, counts):
    lengths = jnp.maximum(counts - num_head, 0)
    slots_of = partial(_slots, chunk_size, lengths)
    evaluate = jax.vmap(evaluate_slot, in_axes=(0, 0, 0, None))

    def evaluate_chunk(state):
        index, buffers = state
        datum, row, valid = slots_of(index)
        values = evaluate(datum, row + num_head, datum_keys[datum], operands)
        row = jnp.where(valid, row, num_rows)
        write = lambda buffer, rows: buffer.at[row, datum].set(rows, mode="drop")
        return index + 1, jax.tree.map(write, buffers, values)

    slot = jax.eval_shape(evaluate_slot, counts[0], counts[0], datum_keys[0], operands)
    shape = (num_rows, *counts.shape)
    buffers = jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape), leaf.dtype), slot)
    not_done = lambda state: state[0] * chunk_size < jnp.sum(lengths)
    return lax.while_loop(not_done, evaluate_chunk, (0, buffers))[1]


def _evaluate_queue_forward(
    evaluate_slot, chunk_size, num_rows, num_head, operands, datum_keys, counts
):
    inputs = (operands, datum_keys, counts)
    return _evaluate_queue(evaluate_slot, chunk_size, num_rows, num_head, *inputs), inputs


def _evaluate_queue_backward(evaluate_slot, chunk_size, num_rows, num_head, inputs, cotangents):
    operands, datum_keys, counts = inputs
    lengths = jnp.maximum(counts - num_head, 0)
    leaves, treedef = jax.tree.flatten(operands)
    is_float = [jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in leaves]
    floats = [leaf for leaf, keep in zip(leaves, is_float) if keep]

    def with_floats(floats):
        floats = iter(floats)
        return treedef.unflatten(
            [next(floats) if keep else leaf for leaf, keep in zip(leaves, is_float)]
        )

    def add_chunk(state):
        index, gradients = state
        datum, row, valid = _slots(chunk_size, lengths, index)

        def values(floats):
            evaluate = jax.vmap(evaluate_slot, in_axes=(0, 0, 0, None))
            return evaluate(datum, row + num_head, datum_keys[datum], with_floats(floats))

        def read(cotangent):
            rows = cotangent[row, datum]
            return jnp.where(valid.reshape(-1, *[1] * (rows.ndim - 1)), rows, 0)

        _, pullback = jax.vjp(values, floats)
        (chunk,) = pullback(jax.tree.map(read, cotangents))
        return index + 1, jax.tree.map(jnp.add, gradients, chunk)

    not_done = lambda state: state[0] * chunk_size < jnp.sum(lengths)
    zeros = jax.tree.map(jnp.zeros_like, floats)
    gradients = iter(lax.while_loop(not_done, add_chunk, (0, zeros))[1])
    gradients = [next(gradients) if keep else None for keep in is_float]
    return treedef.unflatten(gradients), None, None


_evaluate_queue.defvjp(_evaluate_queue_forward, _evaluate_queue_backward)


def _slots(chunk_size, lengths, index):
    """The datum and the row of each slot in chunk ``index`` of the queue, and whether it exists."""
    ends = jnp.cumsum(lengths)
    slot = index * chunk_size + jnp.arange(chunk_size)
    valid = slot < ends[-1]
    # Slots past the end repeat the last one: a sound draw, of which nothing is kept.
    slot = jnp.minimum(slot, ends[-1] - 1)
    datum = jnp.searchsorted(ends, slot, side="right").astype(jnp.int32)
    row = (slot - (ends[datum] - lengths[datum])).astype(jnp.int32)
    return datum, row, valid
