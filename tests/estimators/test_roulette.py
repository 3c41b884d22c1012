"""The roulette tail: exact enumeration of K, precision, zero weights, rotations."""

from functools import partial
import itertools

import numpy as np
import pytest

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators import importance_weighted_bound, russian_roulette
from numpyro_sumo.stopping_times import ReciprocalTail

TAILS = {
    "paper": ReciprocalTail(),
    "stops_at_the_knee": ReciprocalTail(knee=20, decay=0.0),
}
every_tail = pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())

SHORT = ReciprocalTail(knee=3, decay=0.0)


def fixed_log_weights(count, seed=0):
    return 1.5 * np.random.default_rng(seed).normal(size=count)


def naive_bound(log_weights, k):
    return np.logaddexp.reduce(log_weights[:k]) - np.log(k)


def naive_estimate(log_weights, m, stopping_time, tail):
    """L_m + Σ_j (L_{m+j} − L_{m+j−1}) / P(K ≥ j), one term after the other, in float64."""
    log_weights = np.asarray(log_weights, np.float64)
    bounds = [naive_bound(log_weights, k) for k in range(m, m + stopping_time + 1)]
    return bounds[0] + np.sum(np.diff(bounds) / tail.survival[:stopping_time])


def at_every_stopping_time(log_weights, m, tail, num_generating=0):
    """The estimates at K = 1 … cap over one and the same vector of log-weights."""
    batch = jnp.broadcast_to(log_weights[:, None], (len(log_weights), tail.cap))
    return russian_roulette(
        batch, m, jnp.arange(1, tail.cap + 1), tail, num_generating=num_generating
    )


def with_two_particles(log_weights, stopping_time, num_generating=0, rotations=1):
    return russian_roulette(
        log_weights, 2, stopping_time, SHORT, num_generating=num_generating, rotations=rotations
    )


def mean_over_stopping_times(log_weights, m, tail, num_generating=0):
    return jnp.dot(tail.probabilities, at_every_stopping_time(log_weights, m, tail, num_generating))


OPTIONS = ("num_generating", "rotations")
estimate = jax.jit(with_two_particles, static_argnames=OPTIONS)


@partial(jax.jit, static_argnames=OPTIONS)
def estimates_and_gradient(log_weights, stopping_times, **options):
    """Of a batch; the gradient is that of the sum of the estimates."""
    estimate_all = lambda rows: with_two_particles(rows, stopping_times, **options)
    estimates, pull_back = jax.vjp(estimate_all, log_weights)
    return estimates, pull_back(jnp.ones_like(estimates))[0]


value_and_gradient = jax.jit(jax.value_and_grad(with_two_particles), static_argnames=OPTIONS)
SETTING = ("m", "tail", "num_generating")
estimates_for_every_stopping_time = jax.jit(at_every_stopping_time, static_argnames=SETTING)
mean_and_gradient = jax.jit(jax.value_and_grad(mean_over_stopping_times), static_argnames=SETTING)


@every_tail
@pytest.mark.parametrize("m", [1, 8])
def test_estimate_is_the_formula_at_every_stopping_time(m, tail):
    log_weights = fixed_log_weights(m + tail.cap)
    with jax.enable_x64(True):
        estimates = estimates_for_every_stopping_time(log_weights, m=m, tail=tail)
    expected = [naive_estimate(log_weights, m, k, tail) for k in range(1, tail.cap + 1)]
    np.testing.assert_allclose(estimates, expected, rtol=1e-8)


@every_tail
@pytest.mark.parametrize("num_generating", [0, 1])
@pytest.mark.parametrize("m", [1, 8])
def test_enumerated_stopping_times_average_to_the_bound_at_the_cap(m, num_generating, tail):
    log_weights = fixed_log_weights(m + tail.cap)
    with jax.enable_x64(True):
        estimates = estimates_for_every_stopping_time(
            log_weights, m=m, tail=tail, num_generating=num_generating
        )
        mean = np.dot(tail.probabilities, estimates)
    assert mean == pytest.approx(naive_bound(log_weights, m + tail.cap), abs=1e-6)


def test_enumerated_gradients_average_to_that_of_the_bound_at_the_cap():
    tail = ReciprocalTail()
    log_weights = fixed_log_weights(4 + tail.cap)
    with jax.enable_x64(True):
        _, gradient = mean_and_gradient(log_weights, m=4, tail=tail)
    weights = np.exp(log_weights)
    np.testing.assert_allclose(gradient, weights / weights.sum(), atol=1e-8)


@pytest.mark.parametrize("offset", [0.0, -1000.0, 1000.0])
def test_float32_enumeration_averages_to_the_bound_at_the_cap_whatever_the_offset(offset):
    tail = ReciprocalTail()
    log_weights = np.float32(np.round(fixed_log_weights(8 + tail.cap) * 1024) / 1024)
    estimates = estimates_for_every_stopping_time(log_weights + np.float32(offset), m=8, tail=tail)
    assert estimates.dtype == np.float32
    mean = np.dot(tail.probabilities, np.float64(estimates))
    expected = naive_bound(np.float64(log_weights), 8 + tail.cap) + offset
    assert mean == pytest.approx(expected, abs=5e-4)


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_float32_estimates_move_with_an_offset(offset):
    """The log-weights are exact in float32 at either place, so only the arithmetic can err."""
    tail = ReciprocalTail(decay=0.0)
    log_weights = np.float32(np.round(fixed_log_weights(8 + tail.cap) * 1024) / 1024)
    estimates = estimates_for_every_stopping_time(log_weights + np.float32(offset), m=8, tail=tail)
    expected = [naive_estimate(log_weights, 8, k, tail) for k in range(1, tail.cap + 1)]
    np.testing.assert_allclose(np.float64(estimates) - offset, expected, atol=5e-4)


@pytest.mark.parametrize("stopping_time", [1, 2, 3])
def test_weights_of_zero_give_the_limit_of_small_weights(stopping_time):
    inf = np.inf
    log_weights = np.array([-inf, 0.3, -inf, 1.0, -inf])
    value, gradient = value_and_gradient(log_weights, stopping_time)
    nearly_zero = np.where(np.isinf(log_weights), -50.0, log_weights)
    expected = naive_estimate(nearly_zero, 2, stopping_time, SHORT)
    assert float(value) == pytest.approx(expected, abs=1e-5)
    _, expected_gradient = value_and_gradient(nearly_zero, stopping_time)
    np.testing.assert_allclose(gradient, expected_gradient, atol=1e-5)


@pytest.mark.parametrize("stopping_time", [1, 3])
def test_first_weights_all_zero_give_minus_infinity_and_finite_gradients(stopping_time):
    log_weights = jnp.array([-jnp.inf, -jnp.inf, 0.0, 1.0, 2.0])
    value, gradient = value_and_gradient(log_weights, stopping_time)
    assert float(value) == -np.inf
    assert np.all(np.isfinite(gradient))


def test_rotations_of_nothing_but_zero_weights_give_minus_infinity_and_finite_gradients():
    value, gradient = value_and_gradient(jnp.full(5, -jnp.inf), 3, rotations=2)
    assert float(value) == -np.inf
    assert np.all(np.isfinite(gradient))


@pytest.mark.parametrize("zero", [0, 1])
def test_zero_weight_beside_the_generating_one_keeps_the_mean_and_finite_gradients(zero):
    log_weights = fixed_log_weights(5)
    log_weights[zero] = -np.inf
    value, gradient = mean_and_gradient(log_weights, m=2, tail=SHORT, num_generating=1)
    assert float(value) == pytest.approx(naive_bound(log_weights, 5), abs=1e-5)
    weights = np.exp(log_weights)
    np.testing.assert_allclose(gradient, weights / weights.sum(), atol=1e-5)


def test_datum_without_weight_leaves_the_others_alone():
    log_weights = fixed_log_weights(5)
    batch = jnp.stack([jnp.asarray(log_weights), jnp.full(5, -jnp.inf)], axis=1)
    first_of_batch = lambda rows: with_two_particles(rows, jnp.array([2, 2]))[0]
    gradient = jax.jit(jax.grad(first_of_batch))(batch)
    estimates = estimate(batch, np.array([2, 2]))
    assert float(estimates[0]) == pytest.approx(naive_estimate(log_weights, 2, 2, SHORT), abs=1e-5)
    assert float(estimates[1]) == -np.inf
    _, alone = value_and_gradient(log_weights, 2)
    np.testing.assert_allclose(gradient[:, 0], alone, atol=1e-6)


@pytest.mark.parametrize("rows", [0, 1, 2, 3, [0, 1], [0, 3], [2, 3]])
@pytest.mark.parametrize("rotations", [1, 2])
@pytest.mark.parametrize("num_generating", [0, 1])
def test_infinite_weights_that_were_drawn_give_infinity_with_no_gradient(
    num_generating, rotations, rows
):
    """The datum beside it keeps its estimate and its gradient."""
    finite = fixed_log_weights(5)
    log_weights = np.stack([finite, finite], axis=1)
    log_weights[rows, 0] = np.inf
    options = {"num_generating": num_generating, "rotations": rotations}
    values, gradient = estimates_and_gradient(log_weights, np.array([2, 2]), **options)
    alone, gradient_alone = value_and_gradient(finite, 2, **options)
    np.testing.assert_allclose(values, [np.inf, alone], rtol=1e-5)
    np.testing.assert_array_equal(gradient[:, 0], 0.0)
    np.testing.assert_allclose(gradient[:, 1], gradient_alone, rtol=1e-4, atol=1e-6)


def test_infinite_weight_after_first_weights_of_zero_gives_infinity_with_no_gradient():
    log_weights = jnp.array([-jnp.inf, -jnp.inf, 0.0, jnp.inf, 2.0])
    value, gradient = value_and_gradient(log_weights, 2)
    assert value == np.inf
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("row", [0, 1, 2, 3])
@pytest.mark.parametrize("rotations", [1, 2])
def test_drawn_weight_that_is_not_a_number_gives_not_a_number(row, rotations):
    log_weights = fixed_log_weights(5)
    log_weights[row] = np.nan
    assert np.isnan(estimate(log_weights, 2, rotations=rotations))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("rotations", [1, 3])
def test_rows_not_drawn_matter_neither_to_value_nor_to_gradient(garbage, rotations):
    log_weights = fixed_log_weights(5)
    expected_value, expected_gradient = value_and_gradient(log_weights, 1, rotations=rotations)
    log_weights[3:] = garbage
    value, gradient = value_and_gradient(log_weights, 1, rotations=rotations)
    assert float(value) == float(expected_value)
    np.testing.assert_array_equal(gradient, expected_gradient)
    np.testing.assert_array_equal(gradient[3:], 0.0)


def test_each_datum_has_a_stopping_time_of_its_own():
    log_weights = np.stack([fixed_log_weights(5, seed) for seed in range(3)], axis=1)
    estimates = estimate(log_weights, np.array([3, 1, 2]))
    expected = [naive_estimate(log_weights[:, i], 2, k, SHORT) for i, k in enumerate([3, 1, 2])]
    np.testing.assert_allclose(estimates, expected, atol=1e-5)


ROTATIONS = {
    "two": (2, 0),
    "as_many_as_drawn": (4, 0),
    "more_than_drawn": (7, 0),
    "two_with_one_generating": (2, 1),
    "as_many_as_fresh_with_one_generating": (3, 1),
}


@pytest.mark.parametrize("rotations, num_generating", ROTATIONS.values(), ids=ROTATIONS.keys())
def test_rotated_estimate_is_the_mean_over_rolled_vectors(rotations, num_generating):
    m, stopping_time = 2, 2
    log_weights = fixed_log_weights(m + SHORT.cap)
    num_fresh = m + stopping_time - num_generating
    fresh = log_weights[num_generating : m + stopping_time]
    rolled = [np.roll(fresh, -(i * num_fresh // rotations)) for i in range(rotations)]
    not_drawn = np.full(SHORT.cap - stopping_time, np.nan)
    expected = np.mean(
        [
            estimate(
                np.concatenate([log_weights[:num_generating], row, not_drawn]),
                stopping_time,
                num_generating=num_generating,
            )
            for row in rolled
        ]
    )
    rotated = estimate(
        log_weights, stopping_time, num_generating=num_generating, rotations=rotations
    )
    assert float(rotated) == pytest.approx(expected, abs=1e-5)
    assert float(
        estimate(log_weights, stopping_time, num_generating=num_generating)
    ) != pytest.approx(expected, abs=1e-2)


def test_rotations_are_of_each_datum_s_own_draws():
    log_weights = np.stack([fixed_log_weights(5, seed) for seed in range(2)], axis=1)
    together = estimate(log_weights, np.array([1, 3]), rotations=2)
    apart = [estimate(log_weights[:, i], k, rotations=2) for i, k in enumerate([1, 3])]
    np.testing.assert_allclose(together, apart, rtol=1e-6)


@pytest.mark.parametrize("rotations", [2, 5])
@pytest.mark.parametrize("num_generating", [0, 1])
@pytest.mark.parametrize("stopping_time", [2, 3])
def test_rotations_leave_the_mean_alone_and_lower_the_variance(
    stopping_time, num_generating, rotations
):
    """Exact: every vector of draws from a two-point distribution, weighted by its probability.

    A generating first row has a distribution of its own, here a point.
    """
    values, chances = np.array([-1.0, 2.0]), np.array([0.7, 0.3])
    num_fresh = 2 + SHORT.cap - num_generating
    choices = np.array(list(itertools.product([0, 1], repeat=num_fresh)))
    probabilities = chances[choices].prod(axis=1)
    log_weights = np.concatenate(
        [np.full((num_generating, len(choices)), 0.5), values[choices].T], axis=0
    )

    def moments(rotations):
        estimates = estimate(
            log_weights, stopping_time, num_generating=num_generating, rotations=rotations
        )
        mean = np.dot(probabilities, estimates)
        return mean, np.dot(probabilities, (estimates - mean) ** 2)

    with jax.enable_x64(True):
        (plain_mean, plain_variance), (mean, variance) = moments(1), moments(rotations)
    assert mean == pytest.approx(plain_mean, abs=1e-12)
    assert variance < 0.999 * plain_variance


def test_estimate_begins_from_the_bound():
    """A tail of equal weights adds nothing where the first draws' mean weight is the same."""
    log_weights = jnp.log(jnp.array([1.0, 3.0, 2.0, 2.0, 2.0]))
    for stopping_time in (1, 2, 3):
        assert float(estimate(log_weights, stopping_time)) == pytest.approx(
            float(importance_weighted_bound(log_weights[:2])), abs=1e-6
        )


@pytest.mark.parametrize("m", [1, 200])
def test_an_increment_is_exact_to_rounding_at_every_size_of_the_added_weight(m):
    """Small increments are not differences of logarithms, and large ones do not overflow."""
    added = np.array([-200.0, -50.0, -1.0, -1e-4, 1e-4, 1.0, 5.0, 59.9, 60.1, 100.0, 500.0])
    log_weights = jnp.concatenate([jnp.zeros((m, len(added))), jnp.asarray(added)[None]])
    only_one = ReciprocalTail(knee=1, decay=0.0)
    got = jax.jit(lambda rows: russian_roulette(rows, m, jnp.ones(len(added), int), only_one))(
        log_weights
    )
    large = np.log1p(m * np.exp(-np.maximum(added, 5.0))) + added - np.log(m + 1)
    exact = np.where(added < 5.0, np.log1p(np.expm1(np.minimum(added, 5.0)) / (m + 1)), large)
    np.testing.assert_allclose(got, exact, rtol=1e-6)
