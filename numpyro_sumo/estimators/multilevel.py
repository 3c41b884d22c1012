"""Multilevel estimates: unbiased like the roulette, with finite variance at finite cost."""

import math
from typing import Any

import jax
from jax import lax
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro_sumo.stopping_times import StoppingTime

from .control_variate import expected_increment, log_ratio_of
from .log_sums import log_add


def multilevel(
    log_sums: jax.Array,
    mean_bound: jax.Array,
    levels: jax.Array,
    block_size: int,
    stopping_time: StoppingTime,
    *,
    generating: jax.Array | None = None,
) -> jax.Array:
    r"""The multilevel estimate from blocks of m draws, :math:`2^K` of them.

    .. math::
        I_0 + \sum_{k=1}^{K} \frac{\Delta_k}{P(K \ge k)}, \qquad
        \Delta_k = L_{2^k m} - \tfrac12 \big( L'_{2^{k-1} m} + L''_{2^{k-1} m} \big)

    :math:`I_0` is the mean of :math:`L_m` over all blocks drawn; :math:`L'` and :math:`L''` are the
    bounds over the first and second half of the draws of :math:`L_{2^k m}`. Halves cancel to first
    order, so that :math:`\Delta_k^2` falls as :math:`4^{-k}`. Unbiased for
    :math:`E[L_{2^c m}]`, c being the largest possible level.

    :param log_sums: logarithms of sums of weights, in nats, shape ``(1 + c, *batch)``: of block 0,
        then of blocks :math:`2^{k-1} … 2^k - 1` for k = 1 … c. Rows from 1 + K on are never read.
    :param mean_bound: :math:`I_0`, in nats, shape ``batch``.
    :param levels: K, integers that broadcast to ``batch``.
    :param block_size: m, without the generating draw.
    :param stopping_time: the distribution that K was drawn from.
    :param generating: log-weight of the draw that generated x, shape ``batch``, or None: add this
        weight to every bound, including both halves. The series then starts from an upper bound.
    :return: the estimate, shape ``batch``, in nats; ±inf where :math:`I_0` is.

    **Reference:** Shi and Cornish 2021, *On multilevel Monte Carlo unbiased gradient estimation for
    deep latent variable models*.

    >>> import jax.numpy as jnp
    >>> from numpyro_sumo.estimators import multilevel
    >>> from numpyro_sumo.stopping_times import GeometricTail
    >>> log_weights = jnp.log(jnp.array([1.0, 3.0]))  # two blocks of one draw
    >>> tail = GeometricTail(0.6, max_level=1)
    >>> round(float(multilevel(log_weights, log_weights.mean(), jnp.array(1), 1, tail)), 4)  # log 2
    0.6931
    """
    cap = stopping_time.cap
    is_infinite = jnp.isposinf(mean_bound)
    mean_bound = jnp.where(is_infinite, 0.0, mean_bound)
    log_sums = jnp.where(is_infinite, 0.0, log_sums)
    empty = jnp.isneginf(mean_bound)
    # Relative to the first bound, so that float32 keeps its digits far from zero.
    reference = stop_gradient(jnp.where(empty, 0.0, mean_bound))
    k = jnp.arange(1, cap + 1)
    drawn = k.reshape(-1, *[1] * mean_bound.ndim) <= levels
    rows = jnp.where(empty | ~drawn, 0.0, log_sums[1:] - reference)
    first = jnp.where(empty, 0.0, log_sums[0] - reference)
    if generating is None:
        expected = jnp.zeros((cap, *first.shape), first.dtype)
    else:
        generating = jnp.where(empty, 0.0, generating - reference)
        fresh_counts = block_size * 2.0 ** (k - 1).reshape(-1, *[1] * first.ndim)
        log_ratio = log_ratio_of(generating, first - math.log(block_size))
        expected = expected_increment(log_ratio, fresh_counts, fresh_counts)

    def add_level(carry: Any, level: Any) -> tuple[Any, None]:
        so_far, tail = carry
        second, size, drawn, weight, expected = level
        if generating is None:
            residual = _log_cosh(0.5 * (second - so_far))
        else:
            one, other = jnp.logaddexp(generating, so_far), jnp.logaddexp(generating, second)
            # log-sum of the first half plus log(1 + e^(second - one)) is that of both halves.
            whole = one + jax.nn.softplus(second - one)
            residual = whole - 0.5 * (one + other) - size - expected
        tail = tail + expected + jnp.where(drawn, weight * residual, 0.0)
        so_far = jnp.where(drawn, log_add(so_far, second), so_far)
        return (so_far, tail), None

    half_counts = block_size * 2.0 ** (k - 1) + (generating is not None)
    sizes = jnp.log((half_counts + block_size * 2.0 ** (k - 1)) / half_counts)
    as_rows = lambda values: jnp.asarray(values, first.dtype)
    xs = (rows, as_rows(sizes), drawn, as_rows(1.0 / stopping_time.survival), expected)
    (_, tail), _ = lax.scan(add_level, (first, jnp.zeros_like(first)), xs)
    return jnp.where(is_infinite, jnp.inf, jnp.where(empty, -jnp.inf, mean_bound + tail))


def _log_cosh(x: jax.Array) -> jax.Array:
    """log cosh x = log((e^a + e^b)/2) − (a + b)/2 with x = (a − b)/2.

    For small x use log1p(2 sinh²(x/2)): rounding in x then enters squared, before division by
    P(K ≥ k).
    """
    small = jnp.abs(x) < 1.0
    near = jnp.log1p(2.0 * jnp.sinh(0.5 * jnp.where(small, x, 0.0)) ** 2)
    far = jnp.logaddexp(x, -x) - math.log(2.0)
    return jnp.where(small, near, far)
