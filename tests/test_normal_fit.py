"""The Normal that the automatic guide begins as."""

import numpy as np
import pytest

from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, init_to_uniform, init_to_value

from numpyro_sumo import normal_fit
from numpyro_sumo.normal_fit import blank_fit, fit_normal

COVARIANCE = jnp.array([[1.0, 1.7, 0.2], [1.7, 4.0, 0.3], [0.2, 0.3, 0.25]])
APART = {"loading": 0.1**0.5 * np.eye(2), "noise": np.full(2, 0.9**0.5)}


def correlated():
    numpyro.sample("z", dist.MultivariateNormal(jnp.array([1.0, -2.0, 0.5]), COVARIANCE))


def fitted(model, *args, init_loc_fn=init_to_uniform):
    return fit_normal(model, init_loc_fn, args, {}, random.key(0))


def covariance_of(fit):
    within = fit["loading"] @ fit["loading"].T + jnp.diag(fit["noise"] ** 2)
    return within * fit["scale"] * fit["scale"][:, None]


def assert_apart(fit):
    for name, value in APART.items():
        np.testing.assert_allclose(fit[name], value, atol=1e-6)


def test_a_normal_posterior_is_found_with_its_covariances():
    fit = fitted(correlated)
    np.testing.assert_allclose(fit["loc"], [1.0, -2.0, 0.5], atol=0.02)
    np.testing.assert_allclose(covariance_of(fit), COVARIANCE, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fit["scale"] ** 2, jnp.diag(COVARIANCE), rtol=1e-3)


def test_auxiliary_normals_are_independent_given_the_coordinates():
    """As r(u | z) has it: the columns of diag(1/b) A are orthogonal, and b leaves a tenth."""
    fit = fitted(correlated)
    columns = fit["loading"] / fit["noise"][:, None]
    products = columns.T @ columns
    np.testing.assert_allclose(products, jnp.diag(jnp.diag(products)), atol=1e-3)
    assert jnp.diag(products).min() == pytest.approx(1 / 9, rel=1e-3)
    variances = jnp.sum(fit["loading"] ** 2, axis=1) + fit["noise"] ** 2
    np.testing.assert_allclose(variances, 1.0, rtol=1e-4)


def test_coordinates_without_covariances_stay_apart():
    normal = dist.Normal(jnp.array([3.0, -1.0]), jnp.array([0.2, 30.0])).to_event(1)
    fit = fitted(lambda: numpyro.sample("z", normal))
    assert_apart(fit)
    np.testing.assert_allclose(fit["scale"], [0.2, 30.0], rtol=0.1)


def test_where_hessians_mislead_mean_field_stays():
    """That of |z| is zero wherever it is looked at. E|z| = s √(2/π) gives the optimum of s."""
    fit = fitted(lambda: numpyro.sample("z", dist.Laplace(jnp.zeros(2), 1.0).to_event(1)))
    assert_apart(fit)
    np.testing.assert_allclose(fit["scale"], np.sqrt(np.pi / 2), rtol=0.15)


def test_precision_stays_positive_where_hessians_are_not():
    """Between the two modes of a mixture, from where the fit begins."""
    two = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.array([-3.0, 3.0]), 1.0)
    )

    def log_density(y, rng_key):
        return two.log_prob(y[0]) - 0.5 * (y[1] - 0.9 * y[0]) ** 2 / 0.19

    mean, precision = normal_fit._full_covariance(
        log_density, jnp.zeros(2), jnp.eye(2), random.key(0)
    )
    assert jnp.linalg.eigvalsh(precision)[0] > 0 and jnp.isfinite(mean).all()
    elbos = [
        normal_fit._elbo(log_density, *of, random.key(1))
        for of in ((mean, precision), (jnp.zeros(2), jnp.eye(2)))
    ]
    assert elbos[0] > elbos[1]


def test_steps_that_are_not_finite_are_not_taken():
    def log_density(y, rng_key):
        return jnp.where(y[0] < 2.5, -0.5 * (y**2).sum(), jnp.nan)

    mean, precision = normal_fit._full_covariance(
        log_density, jnp.zeros(2), 4.0 * jnp.eye(2), random.key(0)
    )
    np.testing.assert_allclose(precision, jnp.eye(2), atol=0.05)
    np.testing.assert_allclose(mean, 0.0, atol=0.05)


def test_a_likelihood_may_be_subsampled():
    """400 of 2,000 are seen at a time: precision 1 + 2,000 / 25."""
    x = jnp.asarray(np.random.default_rng(0).normal(1.0, 5.0, 2_000), jnp.float32)

    def sampled():
        a = numpyro.sample("a", dist.Normal())
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("data", 2_000, subsample_size=400) as seen:
            numpyro.sample("x", dist.Normal(a + b, 5.0), obs=x[seen])

    fit, n = fitted(sampled), 2_000 / 25
    posterior = jnp.linalg.inv(jnp.eye(2) + n)
    np.testing.assert_allclose(covariance_of(fit), posterior, atol=0.02)
    np.testing.assert_allclose(fit["loc"], n * x.mean() * posterior.sum(1), atol=0.05)


@pytest.mark.parametrize("largest", [1, 1_000])
def test_a_mean_field_fit_that_ran_away_is_not_begun_from(monkeypatch, largest):
    """With as many coordinates as that, the covariance is fitted all the same."""
    run, lost = SVI.run, {"auto_loc": jnp.full(3, jnp.nan), "auto_scale": jnp.ones(3)}
    monkeypatch.setattr(
        SVI, "run", lambda *args, **kwargs: run(*args, **kwargs)._replace(params=lost)
    )
    monkeypatch.setattr(normal_fit, "_LARGEST_FULL", largest)
    value = jnp.array([0.3, 0.4, 0.5])
    fit = fitted(correlated, init_loc_fn=init_to_value(values={"z": value}))
    if largest == 1:
        np.testing.assert_allclose(fit["loc"], value)
        np.testing.assert_array_equal(fit["scale"], 1.0)
    else:
        np.testing.assert_allclose(covariance_of(fit), COVARIANCE, rtol=1e-3, atol=1e-3)


def test_a_blank_has_the_shapes_of_a_fit():
    fit, blank = fitted(correlated), blank_fit(3)
    assert {name: value.shape for name, value in fit.items()} == {
        name: value.shape for name, value in blank.items()
    }
