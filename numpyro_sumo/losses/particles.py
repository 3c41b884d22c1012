"""The log-weights of a loss in one view or two: which gradient goes to which program."""

from typing import Any

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro_sumo.programs.per_datum import PerDatumWeights
from numpyro_sumo.ragged.particle import PATH, Particle, stop_gradient_where_zero


def model_key(key: jax.Array) -> jax.Array:
    """Derive the model's key from a draw's key by fold_in(key, 2³² − 1).

    That number is larger than any draw's index. XLA removes it if the model draws nothing.
    """
    return random.fold_in(key, 2**32 - 1)


def plain_particle(weights: PerDatumWeights) -> Particle:
    """Log-weights with one view; where a weight is zero the gradient need not be finite."""
    return Particle(
        lambda i, key, _, detached: weights.weigh(
            i, model_key(key), weights.propose(i, key), detached=detached
        )
    )


def joint_particle(weights: PerDatumWeights, scale: jax.Array) -> Particle:
    """Log-weights with one view, differentiable in all that model and guide depend on."""

    def weigh(i: jax.Array, key: jax.Array, _: None, detached: bool) -> jax.Array:
        proposal, at = weights.propose(i, key), stop_gradient(scale)[i]
        log_weight = weights.weigh(
            i, model_key(key), stop_gradient(proposal), scale=at, detached=True
        )
        live = stop_gradient_where_zero(log_weight > -jnp.inf, proposal, weights.spread)
        return weights.weigh(i, model_key(key), live, scale=scale[i])

    return Particle(weigh)


def split_particle(
    weights: PerDatumWeights, scale: jax.Array, view: str, *, detach_args: bool
) -> Particle:
    """Log-weights with two views: MODEL, and ``view`` for the guide's parameters."""

    def propose(i: jax.Array, key: jax.Array) -> dict[str, Any]:
        score_free = view == PATH
        proposal = weights.propose(i, key, score_free=score_free, detach_args=detach_args)
        return {view: proposal}

    def weigh(i: jax.Array, key: jax.Array, proposal: Any, detached: bool) -> jax.Array:
        at = (stop_gradient(scale) if detached else scale)[i]
        return weights.weigh(i, model_key(key), proposal, scale=at, detached=detached)

    return Particle(weigh, propose, weights.spread)
