"""A conjugate regression with guides of all kinds, near its posterior without training."""

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import optax

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO, autoguide
from numpyro.infer.initialization import init_to_value

X = np.array([[1.0, -0.5], [0.3, 1.2], [-0.7, 0.4], [1.5, 0.9]])
Y = np.array([0.4, 1.1, -0.2, 1.9])
NOISE, POSITIVE_SHAPE, POSITIVE_RATE, COUNT = 0.8, 3.0, 2.0, 4.0


def regression(x, y):
    """Normal coefficients, and the rate of a Poisson count: both conjugate, apart."""
    with numpyro.plate("coefficients", 2):
        beta = numpyro.sample("beta", dist.Normal())
    rate = numpyro.sample("rate", dist.Gamma(POSITIVE_SHAPE, POSITIVE_RATE))
    fitted = numpyro.deterministic("fitted", x @ beta)
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(fitted, NOISE), obs=y)
    numpyro.sample("count", dist.Poisson(rate), obs=COUNT)


def exact_log_evidence() -> float:
    of_y = dist.MultivariateNormal(0.0, X @ X.T + NOISE**2 * np.eye(len(Y))).log_prob(Y)
    of_count = dist.GammaPoisson(POSITIVE_SHAPE, POSITIVE_RATE).log_prob(COUNT)
    return float(of_y + of_count)


def posterior_of_beta() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    covariance = np.linalg.inv(np.eye(2) + X.T @ X / NOISE**2)
    return covariance @ X.T @ Y / NOISE**2, covariance


START = init_to_value(
    values={"beta": posterior_of_beta()[0], "rate": (POSITIVE_SHAPE + COUNT) / (POSITIVE_RATE + 1)}
)
OPTIONS = {"init_loc_fn": START}


def by_hand(x, y):
    """A mixture, which is not reparameterised, for beta; a constrained site drawn as it is."""
    mean, covariance = posterior_of_beta()
    parts = dist.Normal(mean[:, None] + jnp.array([-0.1, 0.1]), numpyro.param("width", 0.45))
    halves = dist.Categorical(probs=jnp.full((2, 2), 0.5))
    with numpyro.plate("coefficients", 2):
        numpyro.sample("beta", dist.MixtureSameFamily(halves, parts))
    numpyro.sample("rate", dist.LogNormal(numpyro.param("loc", 0.8), 0.4))


def two_parts(model):
    parts = autoguide.AutoGuideList(model)
    of_rate = handlers.block(model, hide=["beta", "fitted"])
    parts.append(autoguide.AutoNormal(of_rate, init_scale=0.4, **OPTIONS))
    of_beta = handlers.block(model, hide=["rate", "fitted"])
    parts.append(autoguide.AutoMultivariateNormal(of_beta, init_scale=0.4, prefix="b", **OPTIONS))
    return parts


def scaled(kind):
    return lambda model: kind(model, init_scale=0.4, **OPTIONS)


#: Makes a guide of a model, by name.
GUIDES = {
    "normal": scaled(autoguide.AutoNormal),
    "diagonal_normal": scaled(autoguide.AutoDiagonalNormal),
    "multivariate_normal": scaled(autoguide.AutoMultivariateNormal),
    "low_rank": scaled(autoguide.AutoLowRankMultivariateNormal),
    "laplace": lambda model: autoguide.AutoLaplaceApproximation(model, **OPTIONS),
    "iaf": lambda model: autoguide.AutoIAFNormal(model, hidden_dims=[4, 4], **OPTIONS),
    "bnaf": lambda model: autoguide.AutoBNAFNormal(model, hidden_factors=[2, 2], **OPTIONS),
    "list": two_parts,
    "by_hand": lambda model: by_hand,
}


#: Those that do not begin near the posterior.
TRAINED = {"iaf", "bnaf"}


class Fit(NamedTuple):
    """A guide with params."""

    guide: Any
    params: dict[str, jax.Array]


@cache
def fit(name: str) -> Fit:
    """A guide of the regression near its posterior, trained where it must be."""
    guide = GUIDES[name](regression)
    svi = SVI(regression, guide, optax.adam(0.02), Trace_ELBO(num_particles=8))
    if name in TRAINED:
        return Fit(guide, svi.run(random.key(0), 500, X, Y, progress_bar=False).params)
    return Fit(guide, svi.get_params(svi.init(random.key(0), X, Y)))
