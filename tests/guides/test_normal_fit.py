"""The Normal that the automatic guide begins as."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.infer import SVI, init_to_uniform, init_to_value

from numpyro_sumo.guides import normal_fit
from numpyro_sumo.guides.normal_fit import fit_normal
from numpyro_sumo.guides.whitening import Whitening
from numpyro_sumo.programs.programs import Programs

COVARIANCE = jnp.array([[1.0, 1.7, 0.2], [1.7, 4.0, 0.3], [0.2, 0.3, 0.25]])


def correlated():
    numpyro.sample("z", dist.MultivariateNormal(jnp.array([1.0, -2.0, 0.5]), COVARIANCE))


def fitted(model, *args, init_loc_fn=init_to_uniform, full_covariance=True):
    options = {"init_loc_fn": init_loc_fn, "full_covariance": full_covariance}
    return fit_normal(random.key(0), Programs(model, None, args=args), **options).whitening


@pytest.fixture(scope="module")
def of_correlated():
    return fitted(correlated)


def covariance_of(fit):
    root = fit.root if fit.root.ndim == 2 else jnp.diag(fit.root)
    return root @ root.T


def assert_apart(fit, scales, rtol):
    np.testing.assert_allclose(covariance_of(fit), np.diag(np.square(scales)), rtol=rtol, atol=1e-6)


def test_a_normal_posterior_is_found_with_its_covariances(of_correlated):
    fit = of_correlated
    np.testing.assert_allclose(fit.loc, [1.0, -2.0, 0.5], atol=0.02)
    np.testing.assert_allclose(covariance_of(fit), COVARIANCE, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(jnp.triu(fit.root, 1), 0.0)
    assert jnp.diag(fit.root).min() > 0.0


def test_covariances_may_be_left_out():
    """Mean field has the variances given the others: the inverse of the precision's diagonal."""
    fit = fitted(correlated, full_covariance=False)
    assert fit.root.shape == (3,)
    expected = 1.0 / jnp.diag(jnp.linalg.inv(COVARIANCE))
    np.testing.assert_allclose(fit.root**2, expected, rtol=0.2)


@pytest.mark.parametrize("full, dim, expected", [(None, 100, True), (None, 101, False)])
def test_covariances_are_fitted_by_default_where_that_is_cheap(full, dim, expected):
    assert normal_fit.has_covariances(full, dim) == expected
    assert normal_fit.has_covariances(True, dim) and not normal_fit.has_covariances(False, dim)
    assert not normal_fit.has_covariances(True, 1_001)


def test_posterior_in_natural_units_is_found():
    """A regression whose coefficients are 50,000 and 1,300, the sds of which differ by 70."""
    rng = np.random.default_rng(0)
    height = rng.normal(66.0, 3.8, 200)
    design = np.column_stack([np.ones(200), height])
    earnings = design @ [-50_000.0, 1_300.0] + rng.normal(0.0, 18_000.0, 200)

    def regression():
        beta = numpyro.sample("beta", dist.ImproperUniform(constraints.real_vector, (), (2,)))
        sigma = numpyro.sample("sigma", dist.ImproperUniform(constraints.positive, (), ()))
        loc = jnp.asarray(design, jnp.float32) @ beta
        numpyro.sample("y", dist.Normal(loc, sigma).to_event(1), obs=jnp.float32(earnings))

    fit = jax.tree.map(np.float64, fitted(regression))
    unscaled = np.linalg.inv(design.T @ design)
    exact = unscaled @ design.T @ earnings
    variance = ((earnings - design @ exact) ** 2).sum() / 198
    sds = np.sqrt(variance * np.diag(unscaled))
    covariance = np.float64(covariance_of(fit))
    assert np.all(np.abs(fit.loc[:2] - exact) < 0.1 * sds)
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)[:2]), sds, rtol=0.05)
    correlation = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
    expected = unscaled[0, 1] / np.sqrt(unscaled[0, 0] * unscaled[1, 1])
    assert correlation == pytest.approx(expected, abs=1e-3)


def test_a_density_without_second_derivatives_has_no_covariances():
    """As one by a solver of differential equations, whose derivative is a rule of its own."""

    @jax.custom_vjp
    def solved(z):
        return jnp.linalg.inv(COVARIANCE) @ z

    solved.defvjp(lambda z: (solved(z), None), lambda _, g: (solved(g),))

    def ruled():
        z = numpyro.sample("z", dist.Normal(0.0, 10.0).expand([3]).to_event(1))
        numpyro.factor("energy", -0.5 * z @ solved(z))

    covariance = covariance_of(fitted(ruled))
    np.testing.assert_array_equal(covariance, jnp.diag(jnp.diag(covariance)))


def test_a_posterior_that_is_flat_but_for_rounding_has_a_finite_fit():
    def narrow():
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal())
        numpyro.sample("x", dist.Normal(a + b, 1e-4), obs=1.0)

    fit = fitted(narrow)
    assert all(jnp.isfinite(value).all() for value in fit)


def test_where_hessians_mislead_mean_field_stays():
    """That of |z| is zero wherever it is looked at. E|z| = s √(2/π) gives the optimum of s."""
    fit = fitted(lambda: numpyro.sample("z", dist.Laplace(jnp.zeros(2), 1.0).to_event(1)))
    assert_apart(fit, np.full(2, np.sqrt(np.pi / 2)), rtol=0.3)


def test_one_step_is_that_of_the_improved_rule(monkeypatch):
    """P + ρ G + ρ²/2 G P⁻¹ G with G = H − P, of a saddle; the mean goes 0.4 deviations."""
    hessian, start = jnp.diag(jnp.array([8.0, -2.0])), jnp.array([1.0, -1.0])
    monkeypatch.setattr(normal_fit, "_FULL_STEPS", 1)
    monkeypatch.setattr(normal_fit, "_FULL_RATES", (0.4, 0.4))
    mean, precision = normal_fit._full_covariance(
        lambda y, _: -0.5 * y @ hessian @ y, start, jnp.eye(2), random.key(0)
    )
    expected = [1.0 + 0.4 * 7.0 + 0.08 * 49.0, 1.0 - 0.4 * 3.0 + 0.08 * 9.0]
    np.testing.assert_allclose(precision, jnp.diag(jnp.array(expected)), rtol=1e-5)
    moved = 0.4 * jnp.array([-8.0, -2.0]) / 34.0**0.5
    np.testing.assert_allclose(mean, start + moved, rtol=1e-5)


def test_between_two_modes_the_elbo_grows():
    """Where Hessians are not positive definite, from where the fit begins."""
    two = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.array([-3.0, 3.0]), 1.0)
    )

    def log_density(y, rng_key):
        return two.log_prob(y[0]) - 0.5 * (y[1] - 0.9 * y[0]) ** 2 / 0.19

    @jax.jit
    def elbos():
        standard = jnp.zeros(2), jnp.eye(2)
        found = normal_fit._full_covariance(log_density, *standard, random.key(0))
        means, precisions = map(jnp.stack, zip(found, standard))
        roots = jnp.linalg.cholesky(jnp.linalg.inv(precisions))
        elbo = lambda *normal: normal_fit._elbo(log_density, Whitening(*normal), random.key(1))[0]
        return jax.vmap(elbo)(means, roots)

    of_found, of_standard = elbos()
    assert of_found > of_standard + 1.0


def test_steps_that_are_not_finite_are_not_taken():
    def log_density(y, rng_key):
        return -0.5 * (y**2).sum() * jnp.where(y[0] < 2.5, 1.0, jnp.nan)

    mean, precision = normal_fit._full_covariance(
        log_density, jnp.zeros(2), 4.0 * jnp.eye(2), random.key(0)
    )
    np.testing.assert_allclose(precision, jnp.eye(2), atol=0.05)
    np.testing.assert_allclose(mean, 0.0, atol=0.05)


def test_a_likelihood_may_be_subsampled():
    """100 of 500 are seen at a time: precision 1 + 500 / 2.5²."""
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 2.5, 500), jnp.float32)

    def sampled():
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("data", 500, subsample_size=100) as seen:
            numpyro.sample("x", dist.Normal(a + b, 2.5), obs=x[seen])

    fit, n = fitted(sampled), 500 / 2.5**2
    posterior = jnp.linalg.inv(jnp.eye(2) + n)
    np.testing.assert_allclose(covariance_of(fit), posterior, atol=0.02)
    np.testing.assert_allclose(fit.loc, n * x.mean() * posterior.sum(1), atol=0.05)


def test_a_mean_field_fit_that_ran_away_leaves_the_initial_values(monkeypatch):
    """Above the largest number of coordinates nothing else is fitted."""
    run, lost = SVI.run, {"auto_loc": jnp.full(3, jnp.nan), "auto_scale": jnp.ones(3)}
    monkeypatch.setattr(
        SVI, "run", lambda *args, **kwargs: run(*args, **kwargs)._replace(params=lost)
    )
    monkeypatch.setattr(normal_fit, "LARGEST_FULL", 1)
    value = jnp.array([0.3, 0.4, 0.5])
    fit = fitted(correlated, init_loc_fn=init_to_value(values={"z": value}))
    np.testing.assert_allclose(fit.loc, value)
    np.testing.assert_array_equal(fit.root, 1.0)
