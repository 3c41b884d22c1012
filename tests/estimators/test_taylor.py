"""Derivatives by the chain rule beside those of JAX."""

import numpy as np

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators.taylor import (
    compose,
    exponential,
    logarithm,
    num_coefficients,
    num_params_of,
    parameters,
    symmetric,
)


def inner(delta):
    """Two functions of three parameters."""
    return jnp.stack([1.5 + delta[0] * delta[1], 2.0 + jnp.sin(delta[2]) + delta[0] ** 2])


def outer(x):
    return jnp.log(x[0] ** 2 + x[0] * x[1])


def assert_derivatives(found, function):
    value, jacobian, expected_hessian = jax.jit(
        lambda zero: (function(zero), jax.jacobian(function)(zero), jax.hessian(function)(zero))
    )(jnp.zeros(3))
    np.testing.assert_allclose(found[0], value, rtol=1e-6)
    np.testing.assert_allclose(np.moveaxis(found[1:4], 0, -1), jacobian, 1e-6)
    hessian = symmetric(np.moveaxis(np.asarray(found[4:]), 0, -1))
    np.testing.assert_allclose(hessian, expected_hessian, rtol=1e-5, atol=1e-6)


def test_composition_of_functions_has_the_derivatives_of_jax():
    of_inner = jax.jit(lambda: compose(inner, parameters(3)))()
    assert_derivatives(of_inner, inner)
    of_outer = jax.jit(lambda of_inner: compose(outer, of_inner))(of_inner)
    assert_derivatives(of_outer, lambda delta: outer(inner(delta)))


def test_exponentials_and_logarithms_are_compositions():
    of_inner = compose(inner, parameters(3))
    np.testing.assert_allclose(exponential(of_inner), compose(jnp.exp, of_inner), rtol=1e-6)
    np.testing.assert_allclose(logarithm(of_inner), compose(jnp.log, of_inner), rtol=1e-6)
    np.testing.assert_allclose(logarithm(exponential(of_inner)), of_inner, atol=1e-5)


def test_number_of_parameters_follows_from_the_coefficients():
    for number in range(30):
        assert num_params_of(num_coefficients(number)) == number
