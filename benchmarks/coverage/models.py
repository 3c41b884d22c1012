"""Two mixed models with one random effect for each group, and their exact likelihoods."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import logsumexp

import numpyro
import numpyro.distributions as dist

#: Nodes and weights of Gauss-Hermite quadrature over a standard normal effect.
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)
LOG_WEIGHTS = np.log(WEIGHTS / WEIGHTS.sum())


class Data(NamedTuple):
    """Groups of observations.

    :param x: one covariate for each observation, shape ``(groups, observations)``.
    :param y: observations, of that shape.
    """

    x: jax.Array
    y: jax.Array


class MixedModel(NamedTuple):
    """A model of groups, the truth of its simulations, and its exact likelihood.

    :param title: its name in reports.
    :param shape: groups and observations in each.
    :param truth: of the param sites, in the order of their names.
    :param observations: maps (params, linear predictor) to the distribution of observations.
    :param log_likelihood: maps (params, data) to log p of each group, in nats: exact.
    """

    title: str
    shape: tuple[int, int]
    truth: dict[str, Any]
    observations: Callable
    log_likelihood: Callable

    def model(self, x, y, mean, sd):
        """The model, as a user writes it."""
        params = {"beta": numpyro.param("beta", jnp.zeros(2))}
        for name in self.scales:
            params[name] = numpyro.param(name, 1.0, constraint=dist.constraints.positive)
        with numpyro.plate("groups", len(x)):
            effect = numpyro.sample("effect", dist.Normal(0.0, params["tau"]))
            predictor = params["beta"][0] + params["beta"][1] * x + effect[:, None]
            numpyro.sample("y", self.observations(params, predictor).to_event(1), obs=y)

    def guide(self, x, y, mean, sd):
        """Student's t around the posterior mean of each effect, with the posterior's spread."""
        with numpyro.plate("groups", len(x)):
            numpyro.sample("effect", dist.StudentT(5.0, mean, sd))

    @property
    def scales(self):
        """Names of the positive parameters."""
        return sorted(set(self.truth) - {"beta"})

    def params(self, free):
        """Constrained parameters by site; the unconstrained ones are in the order of the names."""
        scales = {name: jnp.exp(free[2 + i]) for i, name in enumerate(self.scales)}
        return {"beta": free[:2], **scales}

    def simulate(self, rng_key):
        """Data at the truth."""
        x_key, effect_key, y_key = random.split(rng_key, 3)
        x = random.normal(x_key, self.shape)
        effect = self.truth["tau"] * random.normal(effect_key, (self.shape[0], 1))
        predictor = self.truth["beta"][0] + self.truth["beta"][1] * x + effect
        return Data(x, self.observations(self.truth, predictor).sample(y_key))

    def posterior_moments(self, params, data):
        """Mean and standard deviation of each group's effect, by quadrature."""
        effects = params["tau"] * NODES
        log_joint = LOG_WEIGHTS + _log_density(self.observations, params, data, effects)
        weights = jax.nn.softmax(log_joint, axis=1)
        mean = weights @ effects
        return mean, jnp.sqrt(jnp.sum(weights * (effects - mean[:, None]) ** 2, axis=1))


def _log_density(observations, params, data, effects):
    """Log-density of each group's observations at each effect, ``(groups, effects)``."""
    fixed = params["beta"][0] + params["beta"][1] * data.x
    predictor = fixed[:, None, :] + effects[:, None]
    return observations(params, predictor).log_prob(data.y[:, None, :]).sum(axis=-1)


def by_quadrature(observations, params, data):
    """log p of each group, in nats, for any distribution of the observations."""
    effects = params["tau"] * NODES
    return logsumexp(LOG_WEIGHTS + _log_density(observations, params, data, effects), axis=1)


def _linear_log_likelihood(params, data):
    """Closed form: residuals of a group have covariance sigma² I + tau² 1 1ᵀ."""
    residuals = data.y - params["beta"][0] - params["beta"][1] * data.x
    size = data.y.shape[1]
    of_noise, of_effect = params["sigma"] ** 2, params["tau"] ** 2
    of_mean = of_noise + size * of_effect
    squares = jnp.sum(residuals**2, axis=1)
    squared_sum = jnp.sum(residuals, axis=1) ** 2
    quadratic = (squares - of_effect / of_mean * squared_sum) / of_noise
    log_determinant = (size - 1) * jnp.log(of_noise) + jnp.log(of_mean)
    return -0.5 * (quadratic + log_determinant + size * np.log(2.0 * np.pi))


def _normal(params, predictor):
    return dist.Normal(predictor, params["sigma"])


def _bernoulli(params, predictor):
    return dist.Bernoulli(logits=predictor)


# Variance components are chosen away from zero, where intervals of Wald do not hold.
MODELS: dict[str, MixedModel] = {
    "linear": MixedModel(
        "linear mixed model",
        (100, 5),
        {"beta": np.array([1.0, 0.5]), "sigma": 1.0, "tau": 1.0},
        _normal,
        _linear_log_likelihood,
    ),
    "logistic": MixedModel(
        "random-effects logistic regression",
        (200, 6),
        {"beta": np.array([0.5, 1.0]), "tau": 1.5},
        _bernoulli,
        partial(by_quadrature, _bernoulli),
    ),
}
