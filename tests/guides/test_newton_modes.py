"""Modes by Newton's method, and their Laplace approximations."""

import numpy as np

import jax
import jax.numpy as jnp

from numpyro_sumo.guides.newton_modes import newton_modes

SCALES = np.array([1e-4, 1.0, 3e4])
CORRELATIONS = np.array([[1.0, 0.9, -0.5], [0.9, 1.0, -0.4], [-0.5, -0.4, 1.0]])
LOC = np.array([0.3, -2.0, 6e4])


def log_normal(z):
    y = (z - jnp.asarray(LOC, z.dtype)) / jnp.asarray(SCALES, z.dtype)
    return -0.5 * y @ jnp.asarray(np.linalg.inv(CORRELATIONS), z.dtype) @ y


def test_a_normal_s_mean_and_covariance_are_found_whatever_the_units():
    modes = jax.jit(lambda starts: newton_modes(log_normal, starts))(jnp.array([[2.0, -1.0, 0.5]]))
    np.testing.assert_allclose((modes.loc[0] - LOC) / SCALES, 0.0, atol=5e-3)
    root = np.asarray(modes.root[0], np.float64) / SCALES[:, None]
    np.testing.assert_allclose(root @ root.T, CORRELATIONS, atol=1e-3)


def test_a_saddle_is_left_and_each_start_finds_its_own_mode():
    """Modes at ±2 in the first coordinate, with a saddle between them."""

    def log_density(z):
        return -((z[0] ** 2 - 4.0) ** 2) / 8.0 - 0.5 * (z[1] - z[0]) ** 2

    starts = jnp.array([[-0.3, -0.2], [0.3, 0.2]])
    modes = jax.jit(lambda starts: newton_modes(log_density, starts))(starts)
    np.testing.assert_allclose(modes.loc, [[-2.0, -2.0], [2.0, 2.0]], atol=0.02)
    hessian = np.array([[4.0 + 1.0, -1.0], [-1.0, 1.0]])
    for root in modes.root:
        np.testing.assert_allclose(root @ root.T, np.linalg.inv(hessian), rtol=0.05, atol=0.01)


def test_a_start_outside_of_the_support_stays_where_it_is():
    log_density = lambda z: jnp.where(z[0] > 0.0, -(z[0] ** 2), -jnp.inf) + 2.0 * z[0]
    modes = newton_modes(log_density, jnp.array([[-1.0]]))
    np.testing.assert_array_equal(modes.loc, [[-1.0]])
