"""Models with one latent variable for each datum, whose log-likelihood is a sum over a grid."""

from collections.abc import Callable

import numpy as np

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

import numpyro
import numpyro.distributions as dist

from benchmarks.parameters.latent_models import NUM_DATA, LatentModel, Parameter, learned

#: Nodes of the rule; the tests compare with twice as many.
NUM_NODES = 400
_WIDTH = 9.0


def log_expectation(log_density: Callable[[jax.Array], jax.Array], num_nodes: int) -> jax.Array:
    """log E[exp(log_density(z))], z standard normal.

    By the trapezoidal rule, whose error falls exponentially in the number of nodes here. A
    Gauss–Hermite rule, whose nodes lie far apart, misses the narrow likelihood of a large count.

    :param log_density: maps a node to log p(x | z) of each datum.
    """
    nodes = jnp.linspace(-_WIDTH, _WIDTH, num_nodes)
    log_weights = dist.Normal().log_prob(nodes) + jnp.log(nodes[1] - nodes[0])
    return logsumexp(jax.vmap(log_density)(nodes) + log_weights[:, None], axis=0)


# Logistic regression with a random intercept for each group of 4: the variable of each case is
# standard normal.


def random_effects_logistic(sigma: float) -> LatentModel:
    """Logistic regression with a random intercept of standard deviation ``sigma``."""
    rng = np.random.default_rng(1)
    slopes = rng.normal(size=(NUM_DATA, 4))
    logits = 0.5 + 1.0 * slopes + sigma * rng.normal(size=(NUM_DATA, 1))
    cases = (rng.uniform(size=logits.shape) < 1.0 / (1.0 + np.exp(-logits))).astype(float)
    parameters = {
        "intercept": Parameter(0.0),
        "slope": Parameter(0.0),
        "sigma": Parameter(1.5, positive=True),
    }

    def model(y, x, index):
        at = learned(parameters)
        with numpyro.plate("data", len(index)):
            prior = dist.Normal(0.0, at["sigma"]).expand([1]).to_event(1)
            logits = at["intercept"] + at["slope"] * x + numpyro.sample("z", prior)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    def log_likelihood(at, y, x, num_nodes=NUM_NODES):
        def log_density(node):
            logits = at["intercept"] + at["slope"] * x + at["sigma"] * node
            return dist.Bernoulli(logits=logits).log_prob(y).sum(axis=1)

        return log_expectation(log_density, num_nodes).sum()

    title = f"random-effects logistic, σ = {sigma:.0f}"
    return LatentModel(title, parameters, 1, model, (cases, slopes), log_likelihood, dict)


# Poisson counts whose log-rates are normal around a line.


def poisson_log_normal() -> LatentModel:
    """Three Poisson counts with one normal log-rate for each datum, and a covariate."""
    rng = np.random.default_rng(2)
    covariate = rng.normal(size=(NUM_DATA, 1))
    log_rates = 0.7 + 0.5 * covariate + 1.0 * rng.normal(size=(NUM_DATA, 1))
    observed = rng.poisson(np.exp(log_rates), size=(NUM_DATA, 3)).astype(float)
    parameters = {
        "intercept": Parameter(0.0),
        "slope": Parameter(0.0),
        "sigma": Parameter(0.5, positive=True),
    }

    def model(y, x, index):
        at = learned(parameters)
        with numpyro.plate("data", len(index)):
            loc = at["intercept"] + at["slope"] * x
            z = numpyro.sample("z", dist.Normal(loc, at["sigma"]).to_event(1))
            numpyro.sample(
                "x", dist.Poisson(jnp.broadcast_to(jnp.exp(z), y.shape)).to_event(1), obs=y
            )

    def log_likelihood(at, y, x, num_nodes=NUM_NODES):
        def log_density(node):
            rates = jnp.exp(at["intercept"] + at["slope"] * x + at["sigma"] * node)
            return dist.Poisson(rates).log_prob(y).sum(axis=1)

        return log_expectation(log_density, num_nodes).sum()

    return LatentModel(
        "Poisson–log-normal counts",
        parameters,
        1,
        model,
        (observed, covariate),
        log_likelihood,
        dict,
    )


# Item response: the probability of a right answer is a logistic function of a person's ability.


def item_response() -> LatentModel:
    """The two-parameter logistic model: 200 persons answer 5 items."""
    rng = np.random.default_rng(3)
    discrimination = np.array([0.8, 1.0, 1.3, 1.6, 2.0])
    easiness = np.array([1.0, -1.0, 0.7, -0.7, 0.5])
    logits = discrimination * rng.normal(size=(NUM_DATA, 1)) + easiness
    answers = (rng.uniform(size=logits.shape) < 1.0 / (1.0 + np.exp(-logits))).astype(float)
    parameters = {
        "discrimination": Parameter(np.ones(5), positive=True),
        "easiness": Parameter(np.zeros(5)),
    }

    def model(y, index):
        at = learned(parameters)
        with numpyro.plate("data", len(index)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            logits = at["discrimination"] * z + at["easiness"]
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=y)

    def log_likelihood(at, y, num_nodes=NUM_NODES):
        def log_density(node):
            logits = at["discrimination"] * node + at["easiness"]
            return dist.Bernoulli(logits=logits).log_prob(y).sum(axis=1)

        return log_expectation(log_density, num_nodes).sum()

    return LatentModel(
        "two-parameter item response", parameters, 1, model, (answers,), log_likelihood, dict
    )
