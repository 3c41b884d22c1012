"""The multilevel estimate: exact enumeration, its formula, zero weights."""

import itertools

import numpy as np
import pytest

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators import multilevel
from numpyro_sumo.stopping_times import GeometricTail

BLOCK = 3
TAIL = GeometricTail(0.6, max_level=2)
GENERATING = {"from_below": None, "from_above": 0.9}
every_start = pytest.mark.parametrize("generating", GENERATING.values(), ids=GENERATING.keys())


def fixed_blocks(num_blocks, seed=0):
    return 1.5 * np.random.default_rng(seed).normal(size=(num_blocks, BLOCK))


def bound(log_weights, generating=None):
    """Log of the mean weight, the generating draw's among them."""
    rows = np.ravel(log_weights)
    rows = rows if generating is None else np.append(rows, generating)
    return np.logaddexp.reduce(rows) - np.log(len(rows))


def summaries(blocks, level, cap, generating=None):
    """What the estimate is a function of: log-sums by level, and the mean bound of a block."""
    log_sums = np.full(1 + cap, np.nan)
    log_sums[0] = np.logaddexp.reduce(blocks[0])
    for k in range(1, level + 1):
        log_sums[k] = np.logaddexp.reduce(np.ravel(blocks[2 ** (k - 1) : 2**k]))
    return log_sums, np.mean([bound(block, generating) for block in blocks[: 2**level]])


def naive_estimate(blocks, level, tail, generating=None):
    """The formula, one level after the other."""
    estimate = np.mean([bound(block, generating) for block in blocks[: 2**level]])
    for k in range(1, level + 1):
        half = 2 ** (k - 1)
        halves = bound(blocks[:half], generating) + bound(blocks[half : 2 * half], generating)
        increment = bound(blocks[: 2 * half], generating) - 0.5 * halves
        estimate += increment / tail.survival[k - 1]
    return estimate


@jax.jit
def estimates_over(log_sums, mean_bounds, levels):
    return multilevel(log_sums, mean_bounds, levels, BLOCK, TAIL)


@jax.jit
def estimates_from_above(log_sums, mean_bounds, levels, generating):
    return multilevel(log_sums, mean_bounds, levels, BLOCK, TAIL, generating=generating)


@jax.jit
def estimates_and_gradients(*arguments):
    """At level 2; the gradients are those of the sum of the estimates."""
    function = lambda log_sums, mean_bounds, generating: estimates_from_above(
        log_sums, mean_bounds, jnp.array(2), generating
    )
    found, pull_back = jax.vjp(function, *arguments)
    return found, pull_back(jnp.ones_like(found))


def estimates(orders, generating):
    """For every order of the blocks (rows) and every level: estimates and probabilities."""
    cases = [(blocks, level) for blocks in orders for level in range(1, TAIL.cap + 1)]
    log_sums, mean_bounds = zip(*(summaries(b, level, TAIL.cap, generating) for b, level in cases))
    levels = np.array([level for _, level in cases])
    arguments = np.transpose(log_sums), np.array(mean_bounds), levels
    if generating is None:
        got = estimates_over(*arguments)
    else:
        got = estimates_from_above(*arguments, np.full(len(cases), generating))
    return got, TAIL.probabilities[levels - 1]


@every_start
def test_mean_over_levels_and_orders_is_the_bound_over_all_draws(generating):
    """Exact: blocks are exchangeable, so every order of them is as likely as any other."""
    blocks = fixed_blocks(4)
    orders = [blocks[list(order)] for order in itertools.permutations(range(4))]
    with jax.enable_x64(True):
        got, probabilities = estimates(orders, generating)
    mean = np.dot(probabilities, got) / len(orders)
    assert mean == pytest.approx(bound(blocks, generating), abs=1e-9)
    # which is not what a bound over one block gives
    assert abs(np.mean([bound(block, generating) for block in blocks]) - mean) > 0.01


def test_estimate_is_the_formula_at_every_level():
    orders = [fixed_blocks(4, seed) for seed in range(5)]
    with jax.enable_x64(True):
        got, _ = estimates(orders, None)
    expected = [naive_estimate(blocks, level, TAIL) for blocks in orders for level in (1, 2)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_equal_fresh_weights_beside_the_generating_draw_give_one_estimate_at_every_level():
    """The control variate is then the whole increment, so that nothing is left to the level."""
    blocks = np.full((4, BLOCK), -0.3)
    with jax.enable_x64(True):
        got, _ = estimates([blocks], 0.9)
    np.testing.assert_allclose(got, bound(blocks, 0.9), rtol=1e-12)
    naive = [naive_estimate(blocks, level, TAIL, 0.9) for level in (1, 2)]
    assert abs(naive[0] - naive[1]) > 0.01


def test_rows_beyond_the_level_are_not_read_and_have_no_gradient():
    log_sums, mean_bound = summaries(fixed_blocks(2), 1, TAIL.cap)
    function = lambda log_sums: multilevel(log_sums, mean_bound, jnp.array(1), BLOCK, TAIL)
    value, gradient = jax.jit(jax.value_and_grad(function))(jnp.asarray(log_sums))
    assert np.isfinite(value)
    assert gradient[2] == 0.0 and np.all(gradient[:2] != 0.0)


def test_far_from_zero_the_increments_keep_their_digits():
    """Estimates shift with the log-weights, at float32's resolution of the shift and no worse."""
    orders = [fixed_blocks(4, seed) for seed in range(20)]
    near, far = (
        estimates([blocks + shift for blocks in orders], None)[0] for shift in (0.0, -4096.0)
    )
    np.testing.assert_allclose(np.asarray(far) + 4096.0, near, atol=4e-3)


def test_block_of_zero_weights_makes_the_estimate_minus_infinity_with_no_gradient():
    """The mean of its bound is −∞, and so is that of any estimate which begins from it."""
    log_sums = jnp.array([-jnp.inf, 0.4, 0.7])

    def function(log_sums):
        return multilevel(log_sums, jnp.mean(log_sums[:2]), jnp.array(2), BLOCK, TAIL)

    value, gradient = jax.jit(jax.value_and_grad(function))(log_sums)
    assert value == -np.inf
    np.testing.assert_array_equal(gradient[1:], 0.0)


def test_block_of_zero_weights_beside_the_generating_draw_is_a_finite_estimate():
    blocks = fixed_blocks(4)
    blocks[0] = -np.inf
    with jax.enable_x64(True):
        got, _ = estimates([blocks], 0.9)
    expected = [naive_estimate(blocks, level, TAIL, 0.9) for level in (1, 2)]
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_two_blocks_of_zero_weights_beside_the_generating_draw_have_a_finite_gradient():
    log_sums = jnp.array([-jnp.inf, -jnp.inf, 0.7])

    def function(log_sums, generating):
        mean_bound = generating - jnp.log(1.0 + BLOCK)
        return multilevel(log_sums, mean_bound, jnp.array(2), BLOCK, TAIL, generating=generating)

    value, gradients = jax.jit(jax.value_and_grad(function, (0, 1)))(log_sums, 0.9)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(gradient)) for gradient in gradients)
    assert gradients[0][2] != 0.0


@pytest.mark.parametrize("place", [0, 1, 2, [0, 2], [1, 2], "generating"])
@pytest.mark.parametrize("log_sum", [np.inf, np.nan])
def test_infinite_weight_makes_the_estimate_infinite_with_no_gradient(log_sum, place):
    """The weight is in block 0, in a level or of the generating draw: the mean bound is infinite.

    The log-sum of a level may be NaN then. The other datum keeps its estimate and its gradient.
    """
    log_sums, generating = np.tile([[0.3], [0.4], [0.7]], 2), np.array([0.9, 0.9])
    mean_bound = np.array([np.inf, 0.5])
    if place == "generating":
        generating[0] = np.inf
    else:
        log_sums[place, 0] = log_sum

    values, gradients = estimates_and_gradients(log_sums, mean_bound, generating)
    alone = estimates_from_above(*(leaf[..., 1] for leaf in (log_sums, mean_bound)), 2, 0.9)
    np.testing.assert_allclose(values, [np.inf, alone], rtol=1e-6)
    for gradient in gradients:
        np.testing.assert_array_equal(gradient[..., 0], 0.0)
        assert np.all(np.isfinite(gradient[..., 1]) & (gradient[..., 1] != 0.0))
