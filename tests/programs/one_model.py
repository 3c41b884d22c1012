"""One model and its guide, written for a subsampled plate, for a batch and for one datum."""

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from tests.helpers.models import LOC, NOISE, plated_problem, posterior

X = plated_problem(12).args[0]
SIZE = 5
FIVE = X[:SIZE]

PARAMS = {"loc": jnp.array(LOC), "shift": jnp.array(0.3)}
#: Parameters at which the guide is the posterior.
EXACT = {"loc": jnp.array(LOC), "shift": jnp.array(0.0)}


def subsampled_model(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=numpyro.subsample(x, event_dim=0))


def subsampled_guide(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE):
        mean, sd = posterior(numpyro.subsample(x, event_dim=0))
        numpyro.sample("z", dist.Normal(mean + numpyro.param("shift", 0.3), sd))


def model_of_a_batch(x, full_size=None):
    with numpyro.plate("data", full_size or len(x), subsample_size=len(x)):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def guide_of_a_batch(x, full_size=None):
    mean, sd = posterior(x)
    with numpyro.plate("data", full_size or len(x), subsample_size=len(x)):
        numpyro.sample("z", dist.Normal(mean + numpyro.param("shift", 0.3), sd))


def model_of_a_datum(x):
    z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
    numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def guide_of_a_datum(x):
    mean, sd = posterior(x)
    numpyro.sample("z", dist.Normal(mean + numpyro.param("shift", 0.3), sd))


def exact_loss(x, scale=1.0):
    sd = (1.0 + NOISE**2) ** 0.5
    return lambda loc: -scale * jnp.sum(dist.Normal(loc, sd).log_prob(x))
