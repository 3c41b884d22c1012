"""The importance-weighted bound against a naive formula in float64."""

import numpy as np
import pytest

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators import importance_weighted_bound

SHAPES = {"one_weight": (1,), "vector": (7,), "batch": (5, 3), "two_batch_dims": (4, 2, 3)}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_bound_is_log_of_the_mean_weight(shape):
    log_weights = np.random.default_rng(0).normal(size=shape)
    bound = importance_weighted_bound(jnp.asarray(log_weights))
    assert bound.shape == shape[1:]
    np.testing.assert_allclose(bound, np.log(np.mean(np.exp(log_weights), axis=0)), atol=1e-6)


@pytest.mark.parametrize("offset", [-1000.0, 1000.0])
def test_bound_moves_with_an_offset_that_overflows_the_weights(offset):
    log_weights = np.array([0.0, 1.0, -2.0])
    expected = np.log(np.mean(np.exp(log_weights))) + offset
    assert float(importance_weighted_bound(jnp.asarray(log_weights + offset))) == pytest.approx(
        expected, abs=1e-4
    )


def test_weights_of_zero_count_in_the_mean():
    log_weights = jnp.array([-jnp.inf, 0.0, -jnp.inf, 0.0])
    value, gradient = jax.value_and_grad(importance_weighted_bound)(log_weights)
    assert float(value) == pytest.approx(np.log(0.5), abs=1e-6)
    np.testing.assert_allclose(gradient, [0.0, 0.5, 0.0, 0.5], atol=1e-6)


def test_bound_of_weights_that_are_all_zero_is_minus_infinity():
    assert float(importance_weighted_bound(jnp.full(3, -jnp.inf))) == -np.inf


def test_gradient_is_the_normalised_weights():
    log_weights = np.random.default_rng(1).normal(size=(6, 2))
    gradient = jax.grad(lambda rows: importance_weighted_bound(rows).sum())(
        jnp.asarray(log_weights)
    )
    weights = np.exp(log_weights)
    np.testing.assert_allclose(gradient, weights / weights.sum(axis=0), atol=1e-6)


@pytest.mark.parametrize("num_zeros", [0, 2])
def test_score_free_derivative_is_the_first_less_the_second(num_zeros):
    """∂F/∂ℓ_i − ∂²F/∂ℓ_i², by automatic differentiation of a plain formula."""
    finite = jnp.asarray(np.random.default_rng(2).normal(size=5))
    naive = lambda rows: jnp.log(jnp.exp(rows).sum() / (5 + num_zeros))
    score_free = lambda rows: importance_weighted_bound(rows, score_free=True)

    @jax.jit
    def found_and_expected(finite):
        log_weights = jnp.concatenate([finite, jnp.full(num_zeros, -jnp.inf)])
        expected = jax.grad(naive)(finite) - jnp.diag(jax.hessian(naive)(finite))
        return jax.value_and_grad(score_free)(log_weights), (naive(finite), expected)

    (value, gradient), (expected_value, expected) = found_and_expected(finite)
    np.testing.assert_allclose(gradient[:5], expected, atol=1e-6)
    np.testing.assert_array_equal(gradient[5:], 0.0)
    assert float(value) == pytest.approx(float(expected_value), abs=1e-6)


def test_score_free_derivative_where_every_weight_is_zero_is_zero():
    score_free = lambda rows: importance_weighted_bound(rows, score_free=True)
    value, gradient = jax.value_and_grad(score_free)(jnp.full(3, -jnp.inf))
    assert float(value) == -np.inf
    np.testing.assert_array_equal(gradient, 0.0)


@pytest.mark.parametrize("score_free", [False, True])
@pytest.mark.parametrize("others", [[0.3, 1.0], [-np.inf, -np.inf], [np.inf, 0.3]])
def test_bound_over_an_infinite_weight_is_infinite_with_no_gradient(others, score_free):
    """Other data keep their bound and their gradient."""
    log_weights = np.array([[np.inf, *others], [0.5, 0.3, 1.0]]).T
    bound = lambda rows: importance_weighted_bound(rows, score_free=score_free)
    values, pull_back = jax.vjp(bound, jnp.asarray(log_weights))
    (gradient,) = pull_back(jnp.ones(2))
    alone, pull_back_alone = jax.vjp(bound, jnp.asarray(log_weights[:, 1]))
    np.testing.assert_allclose(values, [np.inf, alone], rtol=1e-6)
    np.testing.assert_array_equal(gradient[:, 0], 0.0)
    np.testing.assert_allclose(gradient[:, 1], pull_back_alone(jnp.array(1.0))[0], rtol=1e-6)
