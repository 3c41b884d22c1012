"""Time series of posteriordb: autoregressions, a GARCH, and hidden Markov models."""

from collections.abc import Callable
from typing import Any

import numpy as np

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriordb.database import Data
from benchmarks.posteriordb.regressions import Model, flat


def autoregression(data: Data) -> Model:
    """Autoregression of order K."""
    order, y = data["K"], np.asarray(data["y"], np.float32)
    lags = jnp.asarray(np.stack([y[order - k : len(y) - k] for k in range(1, order + 1)], axis=1))

    def model() -> None:
        alpha = numpyro.sample("alpha", dist.Normal(0.0, 10.0))
        beta = numpyro.sample("beta", dist.Normal(0.0, 10.0).expand([order]).to_event(1))
        sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
        loc = alpha + lags @ beta
        numpyro.sample("y", dist.Normal(loc, sigma).to_event(1), obs=jnp.asarray(y[order:]))

    return model


def arma11(data: Data) -> Model:
    """ARMA(1, 1), whose errors are Normal."""
    y = jnp.asarray(data["y"], jnp.float32)

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
        phi = numpyro.sample("phi", dist.Normal(0.0, 2.0))
        theta = numpyro.sample("theta", dist.Normal(0.0, 2.0))
        sigma = numpyro.sample("sigma", dist.HalfCauchy(2.5))
        first = y[0] - (mu + phi * mu)

        def step(error: jax.Array, pair: tuple[jax.Array, jax.Array]) -> tuple:
            before, now = pair
            error = now - (mu + phi * before + theta * error)
            return error, error

        others: jax.Array = lax.scan(step, first, (y[:-1], y[1:]))[1]
        errors = jnp.append(others, first)
        # At poor initial values errors overflow, which validation would warn of.
        normal = dist.Normal(0.0, sigma, validate_args=False)
        numpyro.factor("errors", normal.log_prob(errors).sum())

    return model


def garch11(data: Data) -> Model:
    """GARCH(1, 1); beta1 is uniform below 1 - alpha1, and a share of that is its latent site."""
    y, first = jnp.asarray(data["y"], jnp.float32), jnp.float32(data["sigma1"] ** 2)

    def model() -> None:
        mu = numpyro.sample("mu", flat(constraints.real))
        alpha0 = numpyro.sample("alpha0", flat(constraints.positive))
        alpha1 = numpyro.sample("alpha1", dist.Uniform(0.0, 1.0))
        share = numpyro.sample("beta1_share", dist.Uniform(0.0, 1.0))
        beta1 = numpyro.deterministic("beta1", share * (1.0 - alpha1))
        numpyro.factor("jacobian", jnp.log1p(-alpha1))

        def step(variance: jax.Array, before: jax.Array) -> tuple[jax.Array, jax.Array]:
            variance = alpha0 + alpha1 * (before - mu) ** 2 + beta1 * variance
            return variance, variance

        _, others = lax.scan(step, first, y[:-1])
        sd = jnp.sqrt(jnp.append(first, others))
        numpyro.sample("y", dist.Normal(mu, sd).to_event(1), obs=y)

    return model


def log_likelihood_of_chain(log_transition: jax.Array, log_emission: jax.Array) -> jax.Array:
    """Log-density of a hidden Markov chain's data, by the forward algorithm, in nats.

    The first state has weight 1 instead of a probability, as in Stan's programs.

    :param log_transition: shape ``(K, K)``, from the first state to the second.
    :param log_emission: of each datum in each state, shape ``(data, K)``.
    """

    def step(forward: jax.Array, emission: jax.Array) -> tuple[jax.Array, None]:
        return logsumexp(forward[:, None] + log_transition, axis=0) + emission, None

    last, _ = lax.scan(step, log_emission[0], log_emission[1:])
    return logsumexp(last)


def _ordered(name: str, support: Any, locs: tuple[float, float]) -> jax.Array:
    """Two numbers in ascending order with a Normal prior each, of scale 1."""
    values = numpyro.sample(name, flat(support, 2))
    numpyro.factor(f"prior_{name}", dist.Normal(jnp.array(locs), 1.0).log_prob(values).sum())
    return values


def _log_transition(concentration: Any) -> jax.Array:
    """Logarithms of the transition probabilities out of both states."""
    rows = [
        numpyro.sample(f"theta{number}", dist.Dirichlet(jnp.array(row, jnp.float32)))
        for number, row in enumerate(concentration, 1)
    ]
    return jnp.log(jnp.stack(rows))


def hmm_example(data: Data) -> Model:
    """Two states with Normal emissions of scale 1."""
    y = jnp.asarray(data["y"], jnp.float32)[:, None]

    def model() -> None:
        log_transition = _log_transition(np.ones((2, 2)))
        mu = _ordered("mu", constraints.positive_ordered_vector, (3.0, 10.0))
        emission = dist.Normal(mu, 1.0).log_prob(y)
        numpyro.factor("y", log_likelihood_of_chain(log_transition, emission))

    return model


def _drive(data: Data, support: Any, emission: Callable) -> Model:
    """Drives of a basketball player: speed and distance in two states.

    :param emission: maps (phi, lambda) to the distributions of u and v in both states.
    """
    u, v = (jnp.asarray(data[name], jnp.float32)[:, None] for name in ("u", "v"))

    def model() -> None:
        log_transition = _log_transition(data["alpha"])
        phi, rate = (_ordered(name, support, (0.0, 3.0)) for name in ("phi", "lambda"))
        of_u, of_v = emission(phi, rate)
        log_emission = of_u.log_prob(u) + of_v.log_prob(v)
        numpyro.factor("uv", log_likelihood_of_chain(log_transition, log_emission))

    return model


def hmm_drive_0(data: Data) -> Model:
    """Drives with exponential emissions."""
    emission = lambda phi, rate: (dist.Exponential(phi), dist.Exponential(rate))
    return _drive(data, constraints.positive_ordered_vector, emission)


def hmm_drive_1(data: Data) -> Model:
    """Drives with Normal emissions of known scales."""
    tau, rho = data["tau"], data["rho"]
    emission = lambda phi, rate: (dist.Normal(phi, tau), dist.Normal(rate, rho))
    return _drive(data, constraints.ordered_vector, emission)


#: By Stan's name of the model: maps data to the model.
SERIES: dict[str, Callable[[Data], Model]] = {
    "arK": autoregression,
    "arma11": arma11,
    "garch11": garch11,
    "hmm_example": hmm_example,
    "hmm_drive_0": hmm_drive_0,
    "hmm_drive_1": hmm_drive_1,
}
