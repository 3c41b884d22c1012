"""Evaluation of a random number of log-weights inside ``jit``, at the cost of what was drawn.

XLA needs static shapes. Log-weights, which cost a run of model and guide each, are evaluated for
the slots (datum, block of draws) that were drawn, a chunk at a time, in a loop with a traced bound.
Only scalars are padded to the largest possible count, never evaluations of the model.

The gradient is the sum over slots of the estimate's derivative in the log-weight times the gradient
of the log-weight. The backward pass evaluates each chunk again, in any order, and adds its terms.
"""

from collections.abc import Callable
from functools import partial
import math
from typing import Any, NamedTuple

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro_sumo._compat import vary_over, varying_axes

from .hoisting import hoist
from .particle import MODEL, Particle, any_of, shared_cotangent
from .queue import Accumulator, Chunk, Layout, Queue, Slots


def evaluate_ragged(
    rng_key: jax.Array,
    particle: Particle,
    counts: jax.Array,
    layout: Layout,
    accumulator: Accumulator,
    generating: dict[str, jax.Array] | None = None,
) -> dict[str, Any]:
    """Evaluates ``counts[i]`` blocks of log-weights for every datum i, and accumulates them.

    The key of draw j of datum i depends on (i, j) only, so log-weights do not depend on the layout
    or on the other data's counts. Memory is that of the accumulator's state and two chunks.

    :param particle: its steps may close over traced values, and are differentiable in them.
    :param counts: integers of shape ``(num_data,)``.
    :param generating: {view: log-weights of the draws that generated the data, ``(num_data, …)``}.
    :return: {view: what the accumulator's ``finalize`` returns}.
    """
    data, datum_keys, fix_datum = _data(rng_key, counts)
    propose = particle.propose or (lambda i, key: {})
    proposing = hoist(fix_datum(propose), data[0], datum_keys[0])
    known = any_of(proposing.values)

    def weigh(i: Any, draw: Any) -> jax.Array:
        key, proposal = draw
        return particle.weigh(i, key, jax.tree.map(_known_integers, known, proposal), False)

    shapes = jax.tree.map(_shape_of, known)
    weighing = hoist(fix_datum(weigh), data[0], (datum_keys[0], shapes))
    steps = _Steps(proposing.of_draw, weighing.of_draw, particle.spread, shapes)
    operands = _Operands(
        tuple((step.constants, jax.vmap(step.of_datum)(data)) for step in (proposing, weighing)),
        datum_keys,
        Queue.of(counts, layout),
    )
    views = (MODEL, *proposing.values)
    return _evaluate(_Plan(steps, accumulator, layout, views), operands, generating or {})


def evaluate_fixed(
    rng_key: jax.Array, particle: Particle, num_data: int, layout: Layout
) -> dict[str, jax.Array]:
    """Evaluates ``layout.num_fixed`` log-weights of every datum, under ordinary differentiation.

    :return: {view: log-weights of shape ``(num_fixed, num_data, …)``}, with the keys that
        :func:`evaluate_ragged` gives them.
    """
    data, datum_keys, fix_datum = _data(rng_key, jnp.zeros(num_data))
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


class _Steps(NamedTuple):
    """The two steps of a particle for one draw; they close over nothing that is traced.

    :param propose: maps (key, constants, values of the datum) to {view: proposal}.
    :param weigh: maps ((key, proposal), constants, values of the datum) to a log-weight.
    :param spread: see :class:`.Particle`.
    :param proposal: shapes and types of one, or None.
    """

    propose: Callable[..., dict[str, Any]]
    weigh: Callable[..., jax.Array]
    spread: Callable[[jax.Array, Any], Any]
    proposal: Any


class _Plan(NamedTuple):
    """What is static in an evaluation."""

    steps: _Steps
    accumulator: Accumulator
    layout: Layout
    views: tuple[str, ...]


class _Operands(NamedTuple):
    """The arrays that log-weights are computed from.

    :param steps: for each of the two steps its constants and, with a leading axis, values of data.
    :param datum_keys: shape ``(num_data,)``.
    """

    steps: tuple[Any, ...]
    datum_keys: jax.Array
    queue: Queue


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _evaluate(plan: _Plan, operands: _Operands, generating: dict[str, jax.Array]) -> Any:
    first = operands.queue.first_slots(plan.layout)
    return _finalized(plan, _all_chunks(plan, operands, generating, _chunk(plan, operands, first)))


def _all_chunks(
    plan: _Plan, operands: _Operands, generating: dict[str, jax.Array], first: Chunk
) -> Any:
    """The accumulator's state after the first chunk and all chunks of the loop."""
    one = any_of(generating)  # its views have the same values
    num_chunks = operands.queue.num_chunks(plan.layout)

    def add_chunk(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        index, state = carry
        chunk = _chunk(plan, operands, operands.queue.slots(plan.layout, index))
        return index + 1, plan.accumulator.update(state, chunk, one)

    state = plan.accumulator.init(first, len(operands.datum_keys), one)
    start = (jnp.zeros_like(num_chunks), state)
    return lax.while_loop(lambda carry: carry[0] < num_chunks, add_chunk, start)[1]


def _finalized(plan: _Plan, state: Any) -> dict[str, Any]:
    return {view: plan.accumulator.finalize(state, view) for view in plan.views}


def _forward(plan: _Plan, operands: _Operands, generating: dict[str, jax.Array]) -> Any:
    slots = operands.queue.first_slots(plan.layout)
    pull_back = None
    if plan.layout.splits_first(len(slots.datum)):
        first = _chunk(plan, operands, slots)
    else:
        first, pull_back = _linearized(plan, operands, slots, plan.views)
    state = _all_chunks(plan, operands, generating, first)
    return _finalized(plan, state), (operands, generating, state, first, pull_back)


def _backward(plan: _Plan, residuals: Any, cotangents: dict[str, Any]) -> Any:
    operands, generating, state, first, pull_back_first = residuals
    layout, queue = plan.layout, operands.queue

    def gradients(slots: Slots, views: tuple[str, ...]) -> Any:
        chunk, pull_back = _linearized(plan, operands, slots, views)
        return _gradients(plan, pull_back, chunk, (cotangents, state, generating), views)

    add = partial(jax.tree.map, jnp.add)
    # The other views have no derivative beyond the fixed draws.
    views = tuple(view for view in plan.views if view not in plan.accumulator.fixed_only)
    num_chunks = queue.num_chunks(layout)
    if pull_back_first is None:
        parts = layout.parts(first.slots)
        add_part = lambda total, slots: (add(total, gradients(slots, plan.views)), None)
        of_steps = [list(map(jnp.zeros_like, _floats(step))) for step in operands.steps]
        start = (*of_steps, jax.tree.map(jnp.zeros_like, generating))
        total, _ = lax.scan(add_part, start, parts)
    else:
        of_first = cotangents, state, generating
        total = _gradients(plan, pull_back_first, first, of_first, plan.views)

    def add_chunk(carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
        index, total = carry
        return index + 1, add(total, gradients(queue.slots(layout, index), views))

    start = (jnp.zeros_like(num_chunks), total)
    _, total = lax.while_loop(lambda carry: carry[0] < num_chunks, add_chunk, start)
    *of_steps, of_generating = total
    steps = tuple(map(_cotangent, operands.steps, of_steps))
    return _Operands(steps, None, None), of_generating  # type: ignore[arg-type]


_evaluate.defvjp(_forward, _backward)


def _chunk(plan: _Plan, operands: _Operands, slots: Slots) -> Chunk:
    """Log-weights of slots; in parts if there are too many of them."""
    layout = plan.layout

    def evaluate(slots: Slots) -> jax.Array:
        slots = layout.shard(slots)
        keys = _keys(layout, operands, slots)
        of_propose, of_weigh = operands.steps
        proposals = _over_draws(plan.steps.propose, slots, keys, of_propose)
        draws = keys, any_of(proposals)
        return layout.gather(_over_draws(plan.steps.weigh, slots, draws, of_weigh))

    num_slots = len(slots.datum)
    if not layout.splits_first(num_slots):
        return Chunk(evaluate(slots), slots)
    parts = lax.map(evaluate, layout.parts(slots))
    return Chunk(parts.reshape(-1, *parts.shape[2:])[:num_slots], slots)


def _linearized(
    plan: _Plan, operands: _Operands, slots: Slots, views: tuple[str, ...]
) -> tuple[Chunk, Any]:
    """Log-weights of slots, and functions that pull cotangents back through each of the steps."""
    split = plan.layout.shard(slots)
    of_propose, of_weigh = operands.steps
    keys = _keys(plan.layout, operands, split)

    def propose(floats: list[jax.Array]) -> tuple[dict[str, list[jax.Array]], Any]:
        inputs = _with_floats(of_propose, floats)
        proposals = _over_draws(plan.steps.propose, split, keys, inputs)
        # Under shard_map cotangents differ between devices as the log-weights do.
        proposals = vary_over(proposals, varying_axes(operands))
        return {view: _floats(proposals[view]) for view in views[1:]}, any_of(proposals)

    def weigh(floats: list[jax.Array], draws: list[jax.Array]) -> jax.Array:
        inputs = _with_floats(of_weigh, floats)
        return _over_draws(plan.steps.weigh, split, (keys, _with_floats(proposal, draws)), inputs)

    _, pull_propose, proposal = jax.vjp(propose, _floats(of_propose), has_aux=True)
    log_weights, pull_weigh = jax.vjp(weigh, _floats(of_weigh), _floats(proposal))
    return Chunk(plan.layout.gather(log_weights), slots), (pull_propose, pull_weigh)


def _gradients(
    plan: _Plan, pull_back: Any, chunk: Chunk, of_all: tuple[Any, ...], views: tuple[str, ...]
) -> Any:
    """Gradient contribution of one chunk: of inputs of both steps, and of ``generating``.

    :param of_all: cotangents by view, the final state and the generating draws' log-weights.
    """
    cotangents, state, generating = of_all
    of_log_weights, of_generating = {}, jax.tree.map(jnp.zeros_like, generating)
    for view in views:
        generating_weight = generating.get(view)
        here = plan.accumulator.vjp(cotangents[view], state, chunk, view, generating_weight)
        of_log_weights[view] = here[0]
        if generating_weight is not None:
            of_generating[view] = here[1]
    pull_propose, pull_weigh = pull_back
    of_log_weights = plan.layout.shard(of_log_weights)
    others = [view for view in views if view != MODEL]
    if math.prod(chunk.log_weights.shape[2:]) == 1:
        # One backward pass serves all views, each with its own factor.
        shared, ratios = shared_cotangent(of_log_weights)
        of_weigh, of_proposal = pull_weigh(shared)
        by_view = {view: _scaled(plan.steps, ratios[view], of_proposal) for view in others}
    else:
        # Elements of a log-weight may depend on each other's draws: there is no such factor.
        of_weigh, _ = pull_weigh(of_log_weights[MODEL])
        positive = (chunk.log_weights > -jnp.inf).astype(chunk.log_weights.dtype)
        by_view = {
            view: _scaled(plan.steps, positive, pull_weigh(of_log_weights[view])[1])
            for view in others
        }
    return *pull_propose(by_view), of_weigh, of_generating


def _scaled(steps: _Steps, factors: jax.Array, of_proposal: list[jax.Array]) -> list[jax.Array]:
    """Cotangents of proposals, each times the factor of its draw; zero where the factor is."""

    def scale(factor: jax.Array, of_draw: list[jax.Array]) -> list[jax.Array]:
        spread = jax.tree.leaves(steps.spread(factor, steps.proposal))
        pairs = zip(spread, jax.tree.leaves(steps.proposal))
        times = lambda f, leaf: jnp.where(f == 0.0, 0.0, f * leaf).astype(leaf.dtype)
        return list(map(times, [f for f, like in pairs if _is_float(like)], of_draw))

    return jax.vmap(jax.vmap(scale))(factors, of_proposal)


def _data(rng_key: jax.Array, counts: jax.Array) -> tuple[jax.Array, jax.Array, Callable[..., Any]]:
    """Indices and keys of the data, both of shape ``(num_data,)``, and a wrapper of functions.

    It makes the index a constant if num_data = 1, so that ``hoist`` computes its values once.
    """
    data = jnp.arange(len(counts), dtype=jnp.int32)
    datum_keys = jax.vmap(partial(random.fold_in, rng_key))(data)
    if len(data) > 1:
        return data, datum_keys, lambda function: function
    return data, datum_keys, lambda function: lambda i, draw: function(data[0], draw)


def _shape_of(leaf: Any) -> Any:
    """The shape and type of an array, and over which mesh axes it differs."""
    return jax.eval_shape(lambda: leaf) if isinstance(leaf, jax.Array) else leaf


def _known_integers(known: Any, leaf: jax.Array) -> jax.Array:
    """Integers that depend on no draw (plate indices, for instance) as their known values."""
    is_known = isinstance(known, jax.Array) and jnp.issubdtype(known.dtype, jnp.integer)
    return known if is_known else leaf


def _keys(layout: Layout, operands: _Operands, slots: Slots) -> jax.Array:
    """The key of each draw, shape ``(slots, block_size)``."""
    draws = slots.block[:, None] * layout.block_size + jnp.arange(layout.block_size)
    over_block = jax.vmap(random.fold_in, in_axes=(None, 0))
    return jax.vmap(over_block)(operands.datum_keys[slots.datum], draws)


def _over_draws(function: Callable[..., Any], slots: Slots, draws: Any, inputs: Any) -> Any:
    """A function of (draw, constants, values of the datum) at every draw of every slot."""
    constants, of_data = inputs
    of_slots = jax.tree.map(slots.take, of_data)
    if jax.tree.leaves(draws)[0].shape[1] > 1:
        function = jax.vmap(function, in_axes=(0, None, None))
        return jax.vmap(function, in_axes=(0, None, 0))(draws, constants, of_slots)
    # An axis of length one under all operations of model and guide costs them a tenth.
    only = jax.tree.map(lambda leaf: leaf[:, 0], draws)
    values = jax.vmap(function, in_axes=(0, None, 0))(only, constants, of_slots)
    return jax.tree.map(lambda leaf: leaf[:, None], values)


def _is_float(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))


def _floats(tree: Any) -> list[Any]:
    """The leaves that have derivatives."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _with_floats(tree: Any, floats: list[jax.Array]) -> Any:
    """The tree with other arrays in the places of its floats."""
    others = iter(floats)
    return jax.tree.map(lambda leaf: next(others) if _is_float(leaf) else leaf, tree)


def _cotangent(tree: Any, of_floats: list[jax.Array]) -> Any:
    """The cotangent of a tree, from those of its floats; integers and keys have none."""
    others = iter(of_floats)
    return jax.tree.map(lambda leaf: next(others) if _is_float(leaf) else None, tree)
