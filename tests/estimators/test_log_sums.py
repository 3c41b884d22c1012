"""Logarithms of sums: the value, and the derivative where both terms are zero."""

import numpy as np

import jax

from numpyro_sumo.estimators.log_sums import log_add


def test_sum_is_that_of_logaddexp_with_its_derivative():
    value, gradient = jax.value_and_grad(log_add)(1.0, 1.0)
    assert float(value) == np.float32(1.0 + np.log(2.0))
    assert gradient == 0.5


def test_zero_added_to_a_number_leaves_it_alone():
    value, gradient = jax.value_and_grad(log_add, argnums=(0, 1))(0.3, -np.inf)
    assert float(value) == np.float32(0.3)
    assert [float(slope) for slope in gradient] == [1.0, 0.0]


def test_sum_of_two_zeros_has_no_derivative():
    value, gradient = jax.value_and_grad(log_add)(-np.inf, -np.inf)
    assert (value, gradient) == (-np.inf, 0.0)
