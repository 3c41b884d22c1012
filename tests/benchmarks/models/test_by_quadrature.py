import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import norm, poisson

import jax.numpy as jnp

from benchmarks.models.by_quadrature import BENIGN, COUNTS, EFFECTS, ERRORS, MODELS, RADII


def test_evidence_of_eight_schools_is_that_of_draws_from_the_prior():
    """The effects are integrated in closed form, mu and tau are drawn from the prior."""
    rng = np.random.default_rng(0)
    mu, tau = 5.0 * rng.normal(size=(400_000, 1)), 5.0 * np.abs(rng.standard_cauchy((400_000, 1)))
    log_likelihood = norm.logpdf(EFFECTS, mu, np.hypot(ERRORS, tau)).sum(axis=1)
    likelihood = np.exp(log_likelihood + 31.0)
    relative_error = likelihood.std() / likelihood.mean() / 400_000**0.5
    expected = logsumexp(log_likelihood) - np.log(400_000)
    for name in ("eight_schools", "eight_schools_non_centred"):
        assert abs(MODELS[name].log_evidence({}) - expected) < 4.0 * relative_error < 0.02


def test_evidence_of_the_logistic_regression_is_that_of_importance_sampling():
    rng = np.random.default_rng(1)
    draws = np.array([0.65, -3.64]) + 0.5 * rng.normal(size=(20_000, 2))
    signs = 2.0 * BENIGN - 1.0
    logits = draws[:, :1] + draws[:, 1:] * RADII
    log_weights = -np.logaddexp(0.0, -signs * logits).sum(axis=1)
    log_weights += norm.logpdf(draws, 0.0, 3.0).sum(axis=1)
    log_weights -= norm.logpdf(draws, [0.65, -3.64], 0.5).sum(axis=1)
    weights = np.exp(log_weights - log_weights.max())
    error = weights.std() / weights.mean() / 20_000**0.5
    expected = logsumexp(log_weights) - np.log(20_000)
    assert abs(MODELS["logistic"].log_evidence({}) - expected) < 4.0 * error < 0.1


def test_evidence_of_the_counts_is_that_of_adaptive_quadrature():
    loc, scale = 0.4, 1.3
    density = lambda z, count: norm.pdf(z, loc, scale) * poisson.pmf(count, np.exp(z))
    each = [quad(density, -9.0, 7.0, args=(n,), points=[np.log(n + 0.5)])[0] for n in COUNTS]
    found = MODELS["counts"].log_evidence({"loc": jnp.array(loc), "scale": jnp.array(scale)})
    assert found == pytest.approx(np.log(each).sum(), abs=1e-4)
