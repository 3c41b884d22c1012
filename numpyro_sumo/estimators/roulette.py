"""The Russian-roulette tail that removes the bias of an importance-weighted bound."""

import math

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
    r"""The roulette estimate begun from the bound over the first m = ``num_particles`` draws.

    .. math::
        L_m + \sum_{j=1}^{K} \frac{L_{m+j} - L_{m+j-1}}{P(K \ge j)}

    Unbiased for :math:`E[L_{m + \mathrm{cap}}]`, cap being the largest possible stopping time.
    Its variance with respect to a tail like 1/k is not finite as cap grows, because
    :math:`E[(L_{k+1} - L_k)^2]` falls only as :math:`1/k^2`.

    Differentiable in reverse mode only, for it goes no further than the longest stopping time.

    :param log_weights: log-weights, shape ``(m + cap, *batch)``, in nats. Rows from m + K on are
        never read, whatever they hold.
    :param num_particles: m, the draws that are always made.
    :param stopping_times: K, integers that broadcast to ``batch``.
    :param stopping_time: the distribution that K was drawn from.
    :param num_generating: leading rows that are not exchangeable with the rest and stay in their place.
    :param rotations: number of rotations of the other rows' order to average over. Given K, those
        rows are exchangeable, so the mean stays what it was and the variance falls.
    :return: the estimate, shape ``batch``, in nats; −inf where the first m weights are all zero,
        and +inf where a weight that was drawn is infinite.

    **Reference:** Luo et al. 2020, *SUMO*, eq. (5).

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

    counts = num_particles + jnp.arange(cap, dtype=log_weights.dtype)
    inverse_survival = jnp.asarray(1.0 / stopping_time.survival, log_weights.dtype)
    log_sum = jnp.full_like(reference, math.log(num_particles))
    times = jnp.broadcast_to(stopping_times, log_sum.shape)
    rows = log_weights[num_particles:]
    tail = _weighted_surprise(inverse_survival, counts, log_sum, rows, reference, expected, times)
    estimate = jnp.where(all_zero, -jnp.inf, first_bound + tail + total)
    estimate = jnp.where(is_infinite, jnp.inf, estimate)
    return estimate.mean(axis=0) if rotations > 1 else estimate


def increment(log_sum: jax.Array, log_weight: jax.Array, num_before: jax.Array) -> jax.Array:
    r"""What one more draw adds to the importance-weighted bound.

    .. math::
        \log \frac{S + w}{n + 1} - \log \frac{S}{n}

    :param log_sum: log S, of the weights so far, in nats.
    :param log_weight: log w, of the draw that comes, in nats.
    :param num_before: n, how many weights S is of.
    :return: in nats, broadcast.
    """
    log_ratio = log_weight - log_sum
    # Of a weight near the mean of those before it little is left: (nw/S - 1) / (n + 1), which
    # must not come out of a difference, for it may be multiplied by millions.
    from_mean = log_ratio + jnp.log(num_before)
    near = jnp.log1p(jnp.expm1(jnp.minimum(from_mean, 1.0)) / (num_before + 1))
    return jnp.where(from_mean < 1.0, near, jax.nn.softplus(log_ratio) - jnp.log1p(1 / num_before))


@jax.custom_vjp
def _weighted_surprise(inverse_survival, counts, log_sum, rows, reference, expected, times):
    """Increments of the bound beyond what is expected of them, each by its weight, summed.

    Loops go as far as the longest stopping time, and no further: automatic differentiation of a
    scan over all rows costs thirty times as much. They write over the rows that they have read:
    first each draw's share of the sum so far, then its derivative.

    :param counts: how many draws come before each, shape ``(cap,)``.
    :param log_sum: logarithm of the sum of the first weights, less the reference.
    :param rows: log-weights of the draws that follow.
    :param reference: what they are taken relative to.
    :param expected: expected increments, or None.
    :param times: stopping times, of the shape of ``log_sum``.
    """
    inputs = (inverse_survival, counts, log_sum, rows, reference, expected, times)
    return _weighted_surprise_forward(*inputs)[0]


def _weighted_surprise_forward(inverse_survival, counts, log_sum, rows, reference, expected, times):
    def add_increment(state):
        j, log_sum, tail, rows = state
        drawn = j < times
        log_weight = jnp.where(drawn, rows[j] - reference, -jnp.inf)
        added = increment(log_sum, log_weight, counts[j])
        surprise = added - (0.0 if expected is None else expected[j])
        tail = tail + jnp.where(drawn, inverse_survival[j] * surprise, 0.0)
        rows = _with_row(rows, jax.nn.sigmoid(log_weight - log_sum), j)
        return j + 1, log_sum + added + jnp.log1p(1.0 / counts[j]), tail, rows

    longest = jnp.max(times)
    start = (0, log_sum, jnp.zeros_like(log_sum), rows)
    *_, tail, shares_drawn = lax.while_loop(lambda state: state[0] < longest, add_increment, start)
    return tail, (inverse_survival, shares_drawn, expected, times)


def _weighted_surprise_backward(residuals, cotangent):
    inverse_survival, shares, expected, times = residuals
    longest = jnp.max(times)

    def take_increment(state):
        j, of_log_sum, of_rows = state
        of_row = of_rows[j] * (inverse_survival[j] * cotangent + of_log_sum)
        # The increment falls with the sum so far by as much as it rises with the draw.
        return j - 1, of_log_sum - of_row, _with_row(of_rows, of_row, j)

    as_rows = lambda leaf: leaf.reshape(-1, *[1] * times.ndim)
    row = as_rows(jnp.arange(len(shares)))
    start = (longest - 1, jnp.zeros_like(cotangent), jnp.where(row < longest, shares, 0.0))
    _, of_log_sum, of_rows = lax.while_loop(lambda state: state[0] >= 0, take_increment, start)
    of_expected = None
    if expected is not None:
        of_expected = jnp.where(row < times, -as_rows(inverse_survival) * cotangent, 0.0)
    # The reference takes from every row what it takes from the sum.
    return None, None, of_log_sum, of_rows, of_log_sum, of_expected, None


_weighted_surprise.defvjp(_weighted_surprise_forward, _weighted_surprise_backward)


def _with_row(rows, row, j):
    """The rows with another in place j; a scatter would copy them all."""
    return lax.dynamic_update_index_in_dim(rows, row, j, 0)


def _rotate(log_weights, num_draws, num_generating, rotations):
    """Rotations of the drawn rows, evenly spaced: shape ``(draws, rotations, *batch)``."""
    generating, fresh = log_weights[:num_generating], log_weights[num_generating:]
    row = jnp.arange(fresh.shape[0]).reshape(-1, *[1] * (fresh.ndim - 1))
    num_fresh = jnp.broadcast_to(num_draws - num_generating, fresh.shape[1:])

    def rotated(index):
        source = (row + (index * num_fresh) // rotations) % num_fresh
        # Rows that were not drawn stay where they are, to be passed over as before.
        source = jnp.where(row < num_fresh, source, row)
        return jnp.concatenate([generating, jnp.take_along_axis(fresh, source, axis=0)])

    return jax.vmap(rotated, out_axes=1)(jnp.arange(rotations))
