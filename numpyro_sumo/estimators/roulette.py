"""The Russian-roulette tail that removes the bias of an importance-weighted bound."""

import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from numpyro_sumo.stopping_times import StoppingTime

from .bounds import importance_weighted_bound
from .control_variate import expected_increment, log_ratio_of


def russian_roulette(
    log_weights: jax.Array,
    num_particles: int,
    stopping_times: jax.Array,
    stopping_time: StoppingTime,
    *,
    num_generating: int = 0,
    rotations: int = 1,
) -> jax.Array:
    r"""The roulette estimate, which adds increments to the bound over the first m draws.

    .. math::
        L_m + \sum_{j=1}^{K} \frac{L_{m+j} - L_{m+j-1}}{P(K \ge j)}

    Unbiased for :math:`E[L_{m + c}]`, c being the largest possible stopping time. With
    P(K ≥ k) = 1/k its variance grows without bound as c grows, because
    :math:`E[(L_{k+1} - L_k)^2]` falls only as :math:`1/k^2`.

    Differentiable in reverse mode only: the loop stops at the longest stopping time.

    :param log_weights: in nats, shape ``(m + c, *batch)``; rows from m + K on are never read.
    :param num_particles: m, the draws that are always made.
    :param stopping_times: K, integers that broadcast to ``batch``.
    :param stopping_time: the distribution that K was drawn from.
    :param num_generating: number of leading rows, not exchangeable with the rest and not rotated.
    :param rotations: number of rotations of the other rows' order to average over. Given K, those
        rows are exchangeable, so the mean is unchanged and the variance falls.
    :return: the estimate, shape ``batch``, in nats; −inf where the first m weights are all zero,
        and +inf where a weight that was drawn is infinite.

    **Reference:** Luo et al. 2020, *SUMO*, eq. (6).

    >>> import jax.numpy as jnp
    >>> from numpyro_sumo.estimators import russian_roulette
    >>> from numpyro_sumo.stopping_times import ReciprocalTail
    >>> tail = ReciprocalTail(knee=2, decay=0.0)           # K is 1 or 2, with probability ½ each
    >>> log_weights = jnp.log(jnp.array([1.0, 3.0, 2.0]))  # L₁ = 0, L₂ = L₃ = log 2
    >>> round(float(russian_roulette(log_weights, 1, jnp.array(2), tail)), 4)
    0.6931
    """
    if rotations > 1:
        num_draws = num_particles + stopping_times
        log_weights = _rotate(log_weights, num_draws, num_generating, rotations)
    num_rows = num_particles + stopping_times
    row = jnp.arange(len(log_weights)).reshape(-1, *[1] * (log_weights.ndim - 1))
    is_infinite = jnp.any(jnp.isposinf(log_weights) & (row < num_rows), axis=0)
    log_weights = jnp.where(is_infinite, 0.0, log_weights)
    first_bound = importance_weighted_bound(log_weights[:num_particles])
    all_zero = jnp.isneginf(first_bound)
    # Relative to the first bound, so that float32 keeps its digits far from zero.
    reference = jnp.where(all_zero, 0.0, first_bound)

    cap = stopping_time.cap
    expected, total = None, jnp.zeros(())
    if num_generating not in (0, num_particles):
        generating = importance_weighted_bound(log_weights[:num_generating]) + math.log(
            num_generating
        )
        fresh = importance_weighted_bound(log_weights[num_generating:num_particles])
        log_ratio, num_fresh = log_ratio_of(generating, fresh), num_particles - num_generating
        row = jnp.arange(cap).reshape(-1, *[1] * reference.ndim)
        expected = expected_increment(log_ratio, num_fresh + row, 1)
        total = expected_increment(log_ratio, num_fresh, cap)

    terms = _Terms(
        jnp.asarray(1.0 / stopping_time.survival, log_weights.dtype),
        num_particles + jnp.arange(cap, dtype=log_weights.dtype),
        log_weights[num_particles:],
        reference,
        expected,
        jnp.broadcast_to(stopping_times, reference.shape),
    )
    tail = _weighted_residual(terms)
    estimate = jnp.where(all_zero, -jnp.inf, first_bound + tail + total)
    estimate = jnp.where(is_infinite, jnp.inf, estimate)
    return estimate.mean(axis=0) if rotations > 1 else estimate


def _increment(from_bound: jax.Array, num_before: jax.Array) -> jax.Array:
    """Change log((n + e^x) / (n + 1)) of the bound over n draws, in nats, when one is added.

    It is no difference of logarithms: 1/P(K ≥ j) would amplify the rounding error.

    :param from_bound: x, the log-weight of the added draw minus the bound, in nats.
    :param num_before: n.
    """
    # From e^60 on the other draws do not change the sum, and the increment has slope 1.
    beyond = jnp.maximum(from_bound - 60.0, 0.0)
    return jnp.log1p(jnp.expm1(jnp.minimum(from_bound, 60.0)) / (num_before + 1)) + beyond


class _Terms(NamedTuple):
    """Inputs of the weighted sum of increments.

    :param inverse_survival: 1 / P(K ≥ j), shape ``(cap,)``.
    :param counts: how many draws come before each, of that shape.
    :param rows: log-weights of the draws that follow, shape ``(cap, *batch)``, in nats.
    :param reference: the bound over the draws before, shape ``batch``, in nats.
    :param expected: expected increments, of the shape of ``rows``, or None.
    :param times: stopping times, shape ``batch``.
    """

    inverse_survival: jax.Array
    counts: jax.Array
    rows: jax.Array
    reference: jax.Array
    expected: jax.Array | None
    times: jax.Array


@jax.custom_vjp
def _weighted_residual(terms: _Terms) -> jax.Array:
    """Sum over j ≤ K of (increment − expected increment) / P(K ≥ j).

    The loops stop at the longest K: automatic differentiation of a scan over all rows costs thirty
    times as much. They read and write different arrays, for XLA would otherwise copy all rows in
    every iteration.
    """
    return _weighted_residual_forward(terms)[0]


def _weighted_residual_forward(terms: _Terms) -> tuple[jax.Array, _Terms]:
    def add_increment(state: Any) -> Any:
        j, bound, tail, shares = state
        drawn, num_before = j < terms.times, terms.counts[j]
        # The bound is relative to the reference, so that float32 keeps its digits far from zero.
        from_bound = jnp.where(drawn, terms.rows[j] - terms.reference, -jnp.inf) - bound
        added = _increment(from_bound, num_before)
        residual = added - (0.0 if terms.expected is None else terms.expected[j])
        tail = tail + jnp.where(drawn, terms.inverse_survival[j] * residual, 0.0)
        share = 1.0 / (1.0 + num_before * jnp.exp(-from_bound))
        return j + 1, bound + added, tail, _with_row(shares, share, j)

    longest = jnp.max(terms.times)
    of_batch = jnp.zeros_like(terms.reference)
    start = jnp.zeros_like(longest), of_batch, of_batch, jnp.zeros_like(terms.rows)
    *_, tail, shares = lax.while_loop(lambda state: state[0] < longest, add_increment, start)
    return tail, terms._replace(rows=shares)


def _weighted_residual_backward(terms: _Terms, cotangent: jax.Array) -> tuple[_Terms]:
    """The cotangents; the rows of the residuals hold each draw's share of the sum."""
    longest = jnp.max(terms.times)

    def take_increment(state: Any) -> Any:
        j, of_bound, of_rows = state
        of_row = terms.rows[j] * (terms.inverse_survival[j] * cotangent + of_bound)
        # The increment's derivatives in the bound and in the log-weight are opposite numbers.
        return j - 1, of_bound - of_row, _with_row(of_rows, of_row, j)

    as_rows = lambda leaf: leaf.reshape(-1, *[1] * terms.times.ndim)
    start = longest - 1, jnp.zeros_like(cotangent), jnp.zeros_like(terms.rows)
    _, of_bound, of_rows = lax.while_loop(lambda state: state[0] >= 0, take_increment, start)
    of_expected = None
    if terms.expected is not None:
        row = as_rows(jnp.arange(len(terms.rows)))
        of_expected = jnp.where(
            row < terms.times, -as_rows(terms.inverse_survival) * cotangent, 0.0
        )
    nothing: Any = None
    return (_Terms(nothing, nothing, of_rows, of_bound, of_expected, nothing),)


_weighted_residual.defvjp(_weighted_residual_forward, _weighted_residual_backward)


def _with_row(rows: jax.Array, row: jax.Array, j: jax.Array) -> jax.Array:
    """The rows with row j replaced; a scatter would copy them all."""
    return lax.dynamic_update_index_in_dim(rows, row, j, 0)


def _rotate(
    log_weights: jax.Array, num_draws: jax.Array, num_generating: int, rotations: int
) -> jax.Array:
    """Rotations of the drawn rows, evenly spaced: shape ``(draws, rotations, *batch)``."""
    generating, fresh = log_weights[:num_generating], log_weights[num_generating:]
    row = jnp.arange(fresh.shape[0]).reshape(-1, *[1] * (fresh.ndim - 1))
    num_fresh = jnp.broadcast_to(num_draws - num_generating, fresh.shape[1:])

    def rotated(index: jax.Array) -> jax.Array:
        source = (row + (index * num_fresh) // rotations) % num_fresh
        # Rows that were not drawn are not rotated and never read.
        source = jnp.where(row < num_fresh, source, row)
        return jnp.concatenate([generating, jnp.take_along_axis(fresh, source, axis=0)])

    return jax.vmap(rotated, out_axes=1)(jnp.arange(rotations))
