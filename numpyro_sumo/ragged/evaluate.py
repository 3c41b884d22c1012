"""Evaluation of a random number of log-weights inside ``jit``, at the cost of what was drawn.

XLA needs static shapes. Log-weights, which cost a run of model and guide each, are evaluated for
the slots (datum, block of draws) that were drawn, a chunk at a time, in a loop with a traced bound.
Only scalars are padded to the largest possible count, never evaluations of the model.

The gradient is the sum over slots of the estimate's derivative in the log-weight times the gradient
of the log-weight. The backward pass evaluates each chunk again, in any order, and adds its terms.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax import lax, random
import jax.numpy as jnp

from .chunk import (
    Operands,
    Plan,
    Steps,
    cotangent_of,
    evaluate_chunk,
    floats_of,
    gradients,
    linearized,
)
from .hoisting import hoist
from .particle import MODEL, Particle, any_of
from .queue import Accumulator, Chunk, Layout, Queue, Slots
from .rows import Rows


def evaluate_ragged(
    rng_key: jax.Array,
    particle: Particle,
    queue: Queue,
    accumulator: Accumulator,
    generating: dict[str, jax.Array] | None = None,
) -> dict[str, Any]:
    """Evaluates ``queue.counts[i]`` blocks of log-weights for every datum i, and accumulates them.

    The key of draw j of datum i depends on (i, j) only, so log-weights do not depend on the layout
    or on the other data's counts. Memory is that of the accumulator's state and two chunks.

    :param particle: its steps may close over traced values, and are differentiable in them.
    :param generating: {view: log-weights of the draws that generated the data, ``(num_data, …)``}.
    :return: {view: what the accumulator's ``finalize`` returns}.
    """
    data, datum_keys, fix_datum = _data(rng_key, len(queue.counts))
    propose = particle.propose or (lambda i, key: {})
    proposing = hoist(fix_datum(propose), data[0], datum_keys[0])
    known = any_of(proposing.values)

    def weigh(i: Any, draw: Any) -> jax.Array:
        key, proposal = draw
        return particle.weigh(i, key, jax.tree.map(_known_integers, known, proposal), False)

    shapes = jax.tree.map(_shape_of, known)
    weighing = hoist(fix_datum(weigh), data[0], (datum_keys[0], shapes))
    steps = Steps(proposing.of_draw, weighing.of_draw, particle.spread, shapes)
    operands = Operands(
        tuple((step.constants, jax.vmap(step.of_datum)(data)) for step in (proposing, weighing)),
        datum_keys,
        queue,
    )
    views = (MODEL, *proposing.values)
    return _evaluate(Plan(steps, accumulator, queue.layout, views), operands, generating or {})


def evaluate_fixed(
    rng_key: jax.Array, particle: Particle, num_data: int, layout: Layout
) -> dict[str, jax.Array]:
    """Evaluates ``layout.num_fixed`` log-weights of every datum, under ordinary differentiation.

    :return: {view: log-weights of shape ``(num_fixed, num_data, …)``}, with the keys that
        :func:`evaluate_ragged` gives them.
    """
    data, datum_keys, fix_datum = _data(rng_key, num_data)
    views = hoist(fix_datum(particle.views), data[0], datum_keys[0])
    of_data = jax.vmap(views.of_datum)(data)

    def evaluate_row(j: jax.Array) -> dict[str, jax.Array]:
        """Draw j of every datum."""
        draw = lambda key, of_datum: views.of_draw(
            random.fold_in(key, j), views.constants, of_datum
        )
        if num_data == 1:
            # An axis of length one under all operations of model and guide costs them a tenth.
            return jax.tree.map(lambda leaf: leaf[None], draw(datum_keys[0], of_data))
        return jax.vmap(draw)(*layout.shard((datum_keys, of_data)))

    rows = jnp.arange(layout.num_fixed, dtype=jnp.int32)
    return jax.vmap(evaluate_row)(layout.shard(rows) if num_data == 1 else rows)


def evaluate_rows(
    rng_key: jax.Array, particle: Particle, counts: jax.Array, layout: Layout, rows: Rows
) -> dict[str, jax.Array]:
    """Log-weights in rows, by view; without a queue if all of them are fixed and fit together."""
    num_fixed, num_data = layout.num_fixed, len(counts)
    if rows.num_rows <= num_fixed and not layout.splits_first(num_fixed * num_data):
        return evaluate_fixed(rng_key, particle, num_data, layout)
    return evaluate_ragged(rng_key, particle, Queue.of(counts, layout), rows)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _evaluate(plan: Plan, operands: Operands, generating: dict[str, jax.Array]) -> Any:
    first = evaluate_chunk(plan, operands, operands.queue.first_slots())
    return _finalized(plan, _all_chunks(plan, operands, generating, first))


def _all_chunks(
    plan: Plan, operands: Operands, generating: dict[str, jax.Array], first: Chunk
) -> Any:
    """The accumulator's state after the first chunk and all chunks of the loop."""
    one = any_of(generating)  # its views have the same values
    num_chunks = operands.queue.num_chunks

    def add_chunk(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        index, state = carry
        chunk = evaluate_chunk(plan, operands, operands.queue.slots(index))
        return index + 1, plan.accumulator.update(state, chunk, one)

    state = plan.accumulator.init(first, len(operands.datum_keys), one)
    start = (jnp.zeros_like(num_chunks), state)
    return lax.while_loop(lambda carry: carry[0] < num_chunks, add_chunk, start)[1]


def _finalized(plan: Plan, state: Any) -> dict[str, Any]:
    return {view: plan.accumulator.finalize(state, view) for view in plan.views}


def _forward(plan: Plan, operands: Operands, generating: dict[str, jax.Array]) -> Any:
    slots = operands.queue.first_slots()
    pull_back = None
    if plan.layout.splits_first(len(slots.datum)):
        first = evaluate_chunk(plan, operands, slots)
    else:
        first, pull_back = linearized(plan, operands, slots, plan.views)
    state = _all_chunks(plan, operands, generating, first)
    return _finalized(plan, state), (operands, generating, state, first, pull_back)


def _backward(plan: Plan, residuals: Any, cotangents: dict[str, Any]) -> Any:
    operands, generating, state, first, pull_back_first = residuals
    queue = operands.queue

    def of_chunk(slots: Slots, views: tuple[str, ...]) -> Any:
        chunk, pull_back = linearized(plan, operands, slots, views)
        return gradients(plan, pull_back, chunk, (cotangents, state, generating), views)

    add = partial(jax.tree.map, jnp.add)
    # The other views have no derivative beyond the fixed draws.
    views = tuple(view for view in plan.views if view not in plan.accumulator.fixed_only)
    num_chunks = queue.num_chunks
    if pull_back_first is None:
        parts = plan.layout.parts(first.slots)
        add_part = lambda total, slots: (add(total, of_chunk(slots, plan.views)), None)
        of_steps = [list(map(jnp.zeros_like, floats_of(step))) for step in operands.steps]
        start = (*of_steps, jax.tree.map(jnp.zeros_like, generating))
        total, _ = lax.scan(add_part, start, parts)
    else:
        of_first = cotangents, state, generating
        total = gradients(plan, pull_back_first, first, of_first, plan.views)

    def add_chunk(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        index, total = carry
        return index + 1, add(total, of_chunk(queue.slots(index), views))

    start = (jnp.zeros_like(num_chunks), total)
    _, total = lax.while_loop(lambda carry: carry[0] < num_chunks, add_chunk, start)
    *of_steps, of_generating = total
    steps = tuple(map(cotangent_of, operands.steps, of_steps))
    return Operands(steps, None, None), of_generating  # type: ignore[arg-type]


_evaluate.defvjp(_forward, _backward)


def _data(rng_key: jax.Array, num_data: int) -> tuple[jax.Array, jax.Array, Callable[..., Any]]:
    """Indices and keys of the data, both of shape ``(num_data,)``, and a wrapper of functions.

    It makes the index a constant if num_data = 1, so that ``hoist`` computes its values once.
    """
    data = jnp.arange(num_data, dtype=jnp.int32)
    datum_keys = jax.vmap(partial(random.fold_in, rng_key))(data)
    if num_data > 1:
        return data, datum_keys, lambda function: function
    return data, datum_keys, lambda function: lambda i, draw: function(data[0], draw)


def _shape_of(leaf: Any) -> Any:
    """The shape and type of an array, and over which mesh axes it differs."""
    return jax.eval_shape(lambda: leaf) if isinstance(leaf, jax.Array) else leaf


def _known_integers(known: Any, leaf: jax.Array) -> jax.Array:
    """Integers that depend on no draw (plate indices, for instance) as their known values."""
    is_known = isinstance(known, jax.Array) and jnp.issubdtype(known.dtype, jnp.integer)
    return known if is_known else leaf
