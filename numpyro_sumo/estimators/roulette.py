"""The Russian-roulette tail that removes the bias of an importance-weighted bound."""

import math

import jax
from jax import lax
import jax.numpy as jnp

from numpyro_sumo.stopping_times import StoppingTime

from .bounds import importance_weighted_bound
from .expected import expected_increments


def russian_roulette(
    log_weights: jax.Array,
    num_particles: int,
    stopping_times: jax.Array,
    stopping_time: StoppingTime,
    *,
    num_given: int = 0,
    rotations: int = 1,
) -> jax.Array:
    r"""The roulette estimate begun from the bound over the first m = ``num_particles`` draws.

    .. math::
        L_m + \sum_{j=1}^{K} \frac{L_{m+j} - L_{m+j-1}}{P(K \ge j)}

    Unbiased for :math:`E[L_{m + \mathrm{cap}}]`, cap being the largest possible stopping time.
    Its variance with respect to a tail like 1/k is not finite as cap grows, because
    :math:`E[(L_{k+1} - L_k)^2]` falls only as :math:`1/k^2`.

    :param log_weights: log-weights, shape ``(m + cap, *batch)``, in nats. Rows from m + K on are
        never read, whatever they hold.
    :param num_particles: m, the draws that are always made.
    :param stopping_times: K, integers that broadcast to ``batch``.
    :param stopping_time: the distribution that K was drawn from.
    :param num_given: leading rows that are not exchangeable with the rest and stay in their place.
    :param rotations: number of rotations of the other rows' order to average over. Given K, those
        rows are exchangeable, so the mean stays what it was and the variance falls.
    :return: the estimate, shape ``batch``, in nats; −inf where the first m weights are all zero.

    **Reference:** Luo et al. 2020, *SUMO*, eq. (5).

    >>> import jax.numpy as jnp
    >>> from numpyro_sumo.estimators import russian_roulette
    >>> from numpyro_sumo.stopping_times import ReciprocalTail
    >>> tail = ReciprocalTail(knee=2, decay=0.0)           # K is 1 or 2, with probability ½ each
    >>> log_weights = jnp.log(jnp.array([1.0, 3.0, 2.0]))  # L₁ = 0, L₂ = L₃ = log 2
    >>> float(russian_roulette(log_weights, 1, jnp.array(2), tail))
    0.6931471824645996
    """
    if rotations > 1:
        num_draws = num_particles + stopping_times
        log_weights = _rotate(log_weights, num_draws, num_given, rotations)
    first_bound = importance_weighted_bound(log_weights[:num_particles])
    all_zero = jnp.isneginf(first_bound)
    # Relative to the first bound, so that float32 keeps its digits far from zero.
    reference = jnp.where(all_zero, 0.0, first_bound)
    log_sum = jnp.full_like(reference, math.log(num_particles))

    cap = stopping_time.cap
    if num_given in (0, num_particles):
        expected = jnp.zeros((cap, *log_sum.shape), log_sum.dtype)
    else:
        given = importance_weighted_bound(log_weights[:num_given]) + math.log(num_given)
        fresh = importance_weighted_bound(log_weights[num_given:num_particles])
        fresh_counts = num_particles - num_given + jnp.arange(cap + 1)
        expected = expected_increments(given, fresh, fresh_counts)

    def add_increment(carry, draw):
        log_sum, tail = carry
        j, log_weight, inverse_survival, expected = draw
        drawn = j <= stopping_times
        # log(S + w) - log S, without ever subtracting two large bounds from each other
        growth = jax.nn.softplus(jnp.where(drawn, log_weight, -jnp.inf) - log_sum)
        surprise = growth - jnp.log1p(1.0 / (num_particles + j - 1)) - expected
        tail = tail + expected + jnp.where(drawn, inverse_survival * surprise, 0.0)
        return (log_sum + growth, tail), None

    j = jnp.arange(1, cap + 1, dtype=log_weights.dtype)
    inverse_survival = jnp.asarray(1.0 / stopping_time.survival, log_weights.dtype)
    draws = (j, log_weights[num_particles:] - reference, inverse_survival, expected)
    (_, tail), _ = lax.scan(add_increment, (log_sum, jnp.zeros_like(log_sum)), draws)
    estimate = jnp.where(all_zero, -jnp.inf, first_bound + tail)
    return estimate.mean(axis=0) if rotations > 1 else estimate


def _rotate(log_weights, num_draws, num_given, rotations):
    """Rotations of the drawn rows, evenly spaced: shape ``(draws, rotations, *batch)``."""
    given, fresh = log_weights[:num_given], log_weights[num_given:]
    row = jnp.arange(fresh.shape[0]).reshape(-1, *[1] * (fresh.ndim - 1))
    num_fresh = jnp.broadcast_to(num_draws - num_given, fresh.shape[1:])

    def rotated(index):
        source = (row + (index * num_fresh) // rotations) % num_fresh
        # Rows that were not drawn stay where they are, to be passed over as before.
        source = jnp.where(row < num_fresh, source, row)
        return jnp.concatenate([given, jnp.take_along_axis(fresh, source, axis=0)])

    return jax.vmap(rotated, out_axes=1)(jnp.arange(rotations))
