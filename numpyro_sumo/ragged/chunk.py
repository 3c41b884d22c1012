"""One chunk of slots: its log-weights, and its part of the gradient."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro_sumo._compat import vary_over, varying_axes

from .particle import MODEL, any_of, shared_cotangent
from .queue import Accumulator, Chunk, Layout, Queue, Slots


class Steps(NamedTuple):
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


class Plan(NamedTuple):
    """What is static in an evaluation."""

    steps: Steps
    accumulator: Accumulator
    layout: Layout
    views: tuple[str, ...]


class Operands(NamedTuple):
    """The arrays that log-weights are computed from.

    :param steps: for each of the two steps its constants and, with a leading axis, values of data.
    :param datum_keys: shape ``(num_data,)``.
    """

    steps: tuple[Any, ...]
    datum_keys: jax.Array
    queue: Queue


def evaluate_chunk(plan: Plan, operands: Operands, slots: Slots) -> Chunk:
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


def linearized(
    plan: Plan, operands: Operands, slots: Slots, views: tuple[str, ...]
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
        return {view: floats_of(proposals[view]) for view in views[1:]}, any_of(proposals)

    def weigh(floats: list[jax.Array], draws: list[jax.Array]) -> jax.Array:
        inputs = _with_floats(of_weigh, floats)
        return _over_draws(plan.steps.weigh, split, (keys, _with_floats(proposal, draws)), inputs)

    _, pull_propose, proposal = jax.vjp(propose, floats_of(of_propose), has_aux=True)
    log_weights, pull_weigh = jax.vjp(weigh, floats_of(of_weigh), floats_of(proposal))
    return Chunk(plan.layout.gather(log_weights), slots), (pull_propose, pull_weigh)


def gradients(
    plan: Plan, pull_back: Any, chunk: Chunk, of_all: tuple[Any, ...], views: tuple[str, ...]
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


def _scaled(steps: Steps, factors: jax.Array, of_proposal: list[jax.Array]) -> list[jax.Array]:
    """Cotangents of proposals, each times the factor of its draw; zero where the factor is."""

    def scale(factor: jax.Array, of_draw: list[jax.Array]) -> list[jax.Array]:
        spread = jax.tree.leaves(steps.spread(factor, steps.proposal))
        pairs = zip(spread, jax.tree.leaves(steps.proposal))
        times = lambda f, leaf: jnp.where(f == 0.0, 0.0, f * leaf).astype(leaf.dtype)
        return list(map(times, [f for f, like in pairs if _is_float(like)], of_draw))

    return jax.vmap(jax.vmap(scale))(factors, of_proposal)


def _keys(layout: Layout, operands: Operands, slots: Slots) -> jax.Array:
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


def floats_of(tree: Any) -> list[Any]:
    """The leaves that have derivatives."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _with_floats(tree: Any, floats: list[jax.Array]) -> Any:
    """The tree with other arrays in the places of its floats."""
    others = iter(floats)
    return jax.tree.map(lambda leaf: next(others) if _is_float(leaf) else leaf, tree)


def cotangent_of(tree: Any, of_floats: list[jax.Array]) -> Any:
    """The cotangent of a tree, from those of its floats; integers and keys have none."""
    others = iter(of_floats)
    return jax.tree.map(lambda leaf: next(others) if _is_float(leaf) else None, tree)
