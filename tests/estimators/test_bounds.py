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


def test_bound_of_no_weight_but_zeros_is_minus_infinity():
    assert float(importance_weighted_bound(jnp.full(3, -jnp.inf))) == -np.inf


def test_gradient_is_the_normalised_weights():
    log_weights = np.random.default_rng(1).normal(size=(6, 2))
    gradient = jax.grad(lambda rows: importance_weighted_bound(rows).sum())(
        jnp.asarray(log_weights)
    )
    weights = np.exp(log_weights)
    np.testing.assert_allclose(gradient, weights / weights.sum(axis=0), atol=1e-6)
