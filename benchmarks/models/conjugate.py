"""Models with a closed-form log p(x), each with a guide at a given distance from the posterior."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betaln, gammaln

import numpyro
import numpyro.distributions as dist


class ConjugateModel(NamedTuple):
    """A model of data x with one parameter ``theta`` and a closed-form log-evidence.

    :param title: its name in reports.
    :param model: called as ``model(x, mismatch)``; ignores the mismatch.
    :param guide: called as ``guide(x, mismatch)``; the exact posterior at mismatch 0.
    :param x: the data.
    :param theta: the value of the parameter.
    :param log_evidence: maps (theta, x) to log p(x) of all data, in nats.
    """

    title: str
    model: Callable
    guide: Callable
    x: jax.Array
    theta: float
    log_evidence: Callable[[jax.Array, jax.Array], jax.Array]


def _theta(value: float) -> jax.Array:
    return numpyro.param("theta", value)


# z ~ N(theta, 1) and x | z ~ N(z, 1) in each of 20 dimensions, without a plate.

LOC = 0.3


def _gaussian_model(x, mismatch):
    z = numpyro.sample("z", dist.Normal(_theta(LOC), 1.0).expand(x.shape).to_event(1))
    numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def _gaussian_guide(x, mismatch):
    loc, scale = 0.5 * (x + LOC) + mismatch, 0.5**0.5 * (1.0 + mismatch)
    numpyro.sample("z", dist.Normal(loc, scale).to_event(1))


def _gaussian_evidence(theta, x):
    return dist.Normal(theta, 2.0**0.5).log_prob(x).sum()


# A probability z ~ Beta(theta, 2), and 12 Bernoulli draws with 9 ones.

SHAPE = 1.5


def _beta_model(x, mismatch):
    z = numpyro.sample("z", dist.Beta(_theta(SHAPE), 2.0))
    numpyro.sample("x", dist.Bernoulli(z).expand(x.shape).to_event(1), obs=x)


def _beta_guide(x, mismatch):
    ups, downs = SHAPE + x.sum(), 2.0 + (1.0 - x).sum()
    numpyro.sample("z", dist.Beta(ups / (1.0 + mismatch) ** 2, downs / (1.0 + mismatch)))


def _beta_evidence(theta, x):
    return betaln(theta + x.sum(), 2.0 + (1.0 - x).sum()) - betaln(theta, 2.0)


# A rate z ~ Gamma(theta, 1), and 6 counts x | z ~ Poisson(z).


def _gamma_model(x, mismatch):
    z = numpyro.sample("z", dist.Gamma(_theta(SHAPE), 1.0))
    numpyro.sample("x", dist.Poisson(z).expand(x.shape).to_event(1), obs=x)


def _gamma_guide(x, mismatch):
    shape, rate = SHAPE + x.sum(), 1.0 + x.size
    numpyro.sample("z", dist.Gamma(shape / (1.0 + mismatch), rate / (1.0 + mismatch) ** 2))


def _gamma_evidence(theta, x):
    shape, rate = theta + x.sum(), 1.0 + x.size
    log_integral = gammaln(shape) - shape * jnp.log(rate) - gammaln(theta)
    return log_integral - gammaln(x + 1.0).sum()


# A precision z ~ Gamma(2, 2) for each of 5 data x | z ~ N(theta, 1/z): Student's t with 4 degrees
# of freedom.


def _student_model(x, mismatch):
    theta = _theta(LOC)
    with numpyro.plate("data", x.size):
        z = numpyro.sample("z", dist.Gamma(2.0, 2.0))
        numpyro.sample("x", dist.Normal(theta, z**-0.5), obs=x)


def _student_guide(x, mismatch):
    shape, rate = 2.5, 2.0 + 0.5 * (x - LOC) ** 2
    with numpyro.plate("data", x.size):
        numpyro.sample("z", dist.Gamma(shape / (1.0 + mismatch), rate / (1.0 + mismatch) ** 2))


def _student_evidence(theta, x):
    return dist.StudentT(4.0, theta, 1.0).log_prob(x).sum()


MODELS: dict[str, ConjugateModel] = {
    "gaussian": ConjugateModel(
        "linear-Gaussian, 20 dimensions",
        _gaussian_model,
        _gaussian_guide,
        jnp.linspace(-2.0, 2.0, 20),
        LOC,
        _gaussian_evidence,
    ),
    "beta": ConjugateModel(
        "beta-Bernoulli",
        _beta_model,
        _beta_guide,
        jnp.array([1.0] * 9 + [0.0] * 3),
        SHAPE,
        _beta_evidence,
    ),
    "gamma": ConjugateModel(
        "gamma-Poisson",
        _gamma_model,
        _gamma_guide,
        jnp.array([2.0, 0.0, 3.0, 1.0, 4.0, 2.0]),
        SHAPE,
        _gamma_evidence,
    ),
    "student": ConjugateModel(
        "normal scale mixture, 5 data in a plate",
        _student_model,
        _student_guide,
        jnp.array([-1.5, 0.1, 0.4, 1.2, 4.0]),
        LOC,
        _student_evidence,
    ),
}
