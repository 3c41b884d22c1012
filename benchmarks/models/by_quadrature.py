"""Common models, small enough to compute log p(x) by quadrature, each with an AutoGuide."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import reparam
from numpyro.infer import autoguide
from numpyro.infer.reparam import LocScaleReparam

from benchmarks.funnel.models import target


class QuadratureModel(NamedTuple):
    """A model without arguments whose log-evidence is computed by quadrature.

    :param title: its name in reports.
    :param make_guide: maps the model to a guide.
    :param log_evidence: maps the values of the model's param sites to log p(x), in nats.
    """

    title: str
    model: Callable
    make_guide: Callable
    log_evidence: Callable[[dict], float]


# z ~ N(0, 1) and x | z ~ N(z, 1) in each of 20 dimensions.

GAUSSIAN_DATA = np.linspace(-3.0, 3.0, 20)


def gaussian():
    """A latent and an observation in each of 20 dimensions."""
    z = numpyro.sample("z", dist.Normal().expand([20]).to_event(1))
    numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=jnp.asarray(GAUSSIAN_DATA))


def _gaussian_evidence(params):
    return float(norm(scale=2.0**0.5).logpdf(GAUSSIAN_DATA).sum())


# Eight schools (Rubin 1981): effects of coaching and their standard errors.

EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def eight_schools():
    """The centred parameterisation."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", 8):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("effect", dist.Normal(theta, ERRORS), obs=EFFECTS)


eight_schools_non_centred = reparam(eight_schools, config={"theta": LocScaleReparam(centered=0.0)})


def _eight_schools_evidence(params):
    return _eight_schools_integral()


@cache
def _eight_schools_integral():
    """Integrates theta and mu in closed form, tau by the trapezoidal rule in log tau."""
    log_tau = np.linspace(-14.0, 12.0, 20_001)
    tau = np.exp(log_tau)[:, None]
    precision = 1.0 / (ERRORS**2 + tau**2)
    total = precision.sum(axis=1) + 1.0 / 25.0
    mean = (precision * EFFECTS).sum(axis=1) / total
    squares = (precision * EFFECTS**2).sum(axis=1) - total * mean**2
    log_likelihood = -0.5 * (
        squares + np.log(2.0 * np.pi / precision).sum(axis=1) + np.log(25.0 * total)
    )
    log_prior = np.log(2.0 / np.pi / 5.0) - np.log1p((tau[:, 0] / 5.0) ** 2) + log_tau
    return float(logsumexp(log_likelihood + log_prior) + np.log(log_tau[1] - log_tau[0]))


# Logistic regression on one measurement, with an intercept.


def _cell_radii():
    data = load_breast_cancer()
    radius = data.data[:, 0]
    return (radius - radius.mean()) / radius.std(), data.target


RADII, BENIGN = _cell_radii()


def logistic_regression():
    """Logistic regression of whether a tumour is benign on its mean radius."""
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 3.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    logits = intercept + slope * jnp.asarray(RADII)
    numpyro.sample("benign", dist.Bernoulli(logits=logits).to_event(1), obs=jnp.asarray(BENIGN))


def _logistic_evidence(params):
    return _logistic_integral()


@cache
def _logistic_integral():
    """A sum over a grid of 240 × 240 points that covers the posterior."""
    intercepts, slopes = np.linspace(-1.0, 3.0, 240), np.linspace(-7.0, -1.0, 240)
    grid = np.stack(np.meshgrid(intercepts, slopes, indexing="ij")).reshape(2, -1, 1)
    signs = 2.0 * BENIGN - 1.0
    log_likelihood = -np.logaddexp(0.0, -signs * (grid[0] + grid[1] * RADII)).sum(axis=1)
    log_prior = norm(scale=3.0).logpdf(grid[..., 0]).sum(axis=0)
    area = (intercepts[1] - intercepts[0]) * (slopes[1] - slopes[0])
    return float(logsumexp(log_likelihood + log_prior) + np.log(area))


# Poisson counts, each with a latent log-rate; two parameters are learned.

COUNTS = np.array([0, 3, 1, 0, 7, 2, 2, 14, 0, 1, 5, 0, 2, 1, 31, 0, 4, 1, 0, 2, 9, 1, 3, 0])


def counts():
    """Poisson counts with log-normal rates."""
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("data", len(COUNTS)):
        z = numpyro.sample("z", dist.Normal(loc, scale))
        numpyro.sample("count", dist.Poisson(jnp.exp(z)), obs=jnp.asarray(COUNTS))


def _counts_evidence(params):
    """A sum over 4,001 values of z for each count."""
    loc, scale = float(params["loc"]), float(params["scale"])
    z = loc + scale * np.linspace(-9.0, 9.0, 4_001)[:, None]
    log_factorials = np.array([np.log(np.arange(1, n + 1)).sum() for n in COUNTS])
    log_joint = norm(loc, scale).logpdf(z) + COUNTS * z - np.exp(z) - log_factorials
    return float((logsumexp(log_joint, axis=0) + np.log(z[1, 0] - z[0, 0])).sum())


MODELS: dict[str, QuadratureModel] = {
    "gaussian": QuadratureModel(
        "linear-Gaussian, 20 dimensions", gaussian, autoguide.AutoNormal, _gaussian_evidence
    ),
    "eight_schools": QuadratureModel(
        "eight schools, centred",
        eight_schools,
        autoguide.AutoMultivariateNormal,
        _eight_schools_evidence,
    ),
    "eight_schools_non_centred": QuadratureModel(
        "eight schools, non-centred",
        eight_schools_non_centred,
        autoguide.AutoNormal,
        _eight_schools_evidence,
    ),
    "logistic": QuadratureModel(
        "logistic regression", logistic_regression, autoguide.AutoNormal, _logistic_evidence
    ),
    "counts": QuadratureModel(
        "counts with latent rates", counts, autoguide.AutoNormal, _counts_evidence
    ),
    # Without data the log-evidence is zero.
    "funnel": QuadratureModel("funnel", target, autoguide.AutoIAFNormal, lambda params: 0.0),
}
