"""Models whose data are jointly Gaussian given the parameters: log p(x) in closed form."""

from typing import Any

import numpy as np

import jax
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from benchmarks.parameters.latent_models import NUM_DATA, LatentModel, Parameter, learned

_NUM_MEASUREMENTS, _NUM_FACTORS = 6, 2
#: Where the loadings below the diagonal stand in the matrix of loadings.
_BELOW = np.tril_indices(_NUM_MEASUREMENTS, -1, _NUM_FACTORS)


def _log_normal(x: jax.Array, loc: Any, covariance: jax.Array) -> jax.Array:
    """The sum over rows of x of log N(x | loc, covariance)."""
    num_data, size = x.shape
    scatter = (x - loc).T @ (x - loc)
    _, log_determinant = jnp.linalg.slogdet(2.0 * jnp.pi * covariance)
    return -0.5 * (num_data * log_determinant + jnp.trace(jnp.linalg.solve(covariance, scatter)))


# Factor analysis, and probabilistic principal components: all noise scales equal. The matrix of
# loadings is lower triangular with a positive diagonal, which fixes the rotation.


def _loadings(at: dict[str, Any]) -> jax.Array:
    diagonal = jnp.arange(_NUM_FACTORS)
    empty = jnp.zeros((_NUM_MEASUREMENTS, _NUM_FACTORS))
    return empty.at[diagonal, diagonal].set(at["diagonal"]).at[_BELOW].set(at["below"])


def factor_analysis(equal_noise: bool) -> LatentModel:
    """Two factors of six measurements; with ``equal_noise`` probabilistic principal components."""
    rng = np.random.default_rng(4)
    loadings = np.array([[1.0, 0.0], [1.0, 0.8], [0.8, 1.0], [1.2, -0.6], [0.6, 0.9], [0.9, -0.7]])
    noise = np.full(6, 0.7) if equal_noise else np.linspace(0.6, 1.0, 6)
    data = rng.normal(size=(NUM_DATA, 2)) @ loadings.T + noise * rng.normal(size=(NUM_DATA, 6))
    parameters = {
        "diagonal": Parameter(np.ones(_NUM_FACTORS), positive=True),
        "below": Parameter(np.full(len(_BELOW[0]), 0.1)),
        "noise": Parameter(1.0 if equal_noise else np.ones(6), positive=True),
    }

    def model(y, index):
        at = learned(parameters)
        with numpyro.plate("data", len(index)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([_NUM_FACTORS]).to_event(1))
            loc = z @ _loadings(at).T
            numpyro.sample("x", dist.Normal(loc, at["noise"]).to_event(1), obs=y)

    def log_likelihood(at, y):
        loadings = _loadings(at)
        noise = jnp.broadcast_to(at["noise"], _NUM_MEASUREMENTS)
        return _log_normal(y, 0.0, loadings @ loadings.T + jnp.diag(noise**2))

    def reported(at):
        """The noise scales, and the eigenvalues of W Wᵀ: they do not depend on the rotation."""
        loadings = _loadings(at)
        return {"noise": at["noise"], "eigenvalue": jnp.linalg.eigvalsh(loadings.T @ loadings)}

    title = "probabilistic principal components" if equal_noise else "factor analysis"
    return LatentModel(title, parameters, _NUM_FACTORS, model, (data,), log_likelihood, reported)


# A linear mixed model: four measurements over time, with a random intercept and a random slope.

_TIMES = np.arange(4.0)


def linear_mixed_model() -> LatentModel:
    """Random intercept and random slope, independent of each other."""
    rng = np.random.default_rng(5)
    effects = rng.normal(size=(NUM_DATA, 2)) * np.array([1.0, 0.5])
    loc = 2.0 + effects[:, :1] + (1.0 + effects[:, 1:]) * _TIMES
    data = loc + 0.7 * rng.normal(size=loc.shape)
    parameters = {
        "intercept": Parameter(0.0),
        "slope": Parameter(0.0),
        "sd_intercept": Parameter(0.5, positive=True),
        "sd_slope": Parameter(1.0, positive=True),
        "sd_noise": Parameter(1.0, positive=True),
    }

    def model(y, index):
        at = learned(parameters)
        scales = jnp.stack([at["sd_intercept"], at["sd_slope"]])
        with numpyro.plate("data", len(index)):
            z = numpyro.sample("z", dist.Normal(0.0, scales).to_event(1))
            loc = at["intercept"] + z[..., :1] + (at["slope"] + z[..., 1:]) * _TIMES
            numpyro.sample("x", dist.Normal(loc, at["sd_noise"]).to_event(1), obs=y)

    def log_likelihood(at, y):
        # A copy: JAX would take the constant as it was converted in single precision.
        times = _TIMES.copy()
        covariance = (
            at["sd_intercept"] ** 2
            + at["sd_slope"] ** 2 * np.outer(times, times)
            + at["sd_noise"] ** 2 * jnp.eye(len(times))
        )
        return _log_normal(y, at["intercept"] + at["slope"] * times, covariance)

    return LatentModel("linear mixed model", parameters, 2, model, (data,), log_likelihood, dict)


# A Gaussian state space: an autoregression observed with noise. Its innovations are the latent
# variables. The covariance of a short series is small enough to write down, in place of a Kalman
# filter, whose likelihood is the same.

_LENGTH = 4


def _responses(at: dict[str, Any]) -> jax.Array:
    """The matrix that maps standard normal innovations to the states of a stationary series."""
    lags = np.subtract.outer(np.arange(_LENGTH), np.arange(_LENGTH))
    powers = jnp.where(lags >= 0, at["persistence"] ** np.maximum(lags, 0), 0.0)
    first = (1.0 - at["persistence"] ** 2) ** -0.5
    return at["sd_transition"] * powers * jnp.ones(_LENGTH).at[0].set(first)


def state_space() -> LatentModel:
    """200 short series of a first-order autoregression observed with noise."""
    rng = np.random.default_rng(6)
    truth = {"persistence": 0.7, "sd_transition": 0.8}
    states = rng.normal(size=(NUM_DATA, _LENGTH)) @ np.asarray(_responses(truth)).T
    data = states + 0.5 * rng.normal(size=states.shape)
    parameters = {
        # The inverse hyperbolic tangent of the persistence: any real number.
        "atanh_persistence": Parameter(0.3),
        "sd_transition": Parameter(0.5, positive=True),
        "sd_noise": Parameter(0.8, positive=True),
    }
    values = lambda at: {**at, "persistence": jnp.tanh(at["atanh_persistence"])}

    def model(y, index):
        at = values(learned(parameters))
        with numpyro.plate("data", len(index)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([_LENGTH]).to_event(1))
            states = z @ _responses(at).T
            numpyro.sample("x", dist.Normal(states, at["sd_noise"]).to_event(1), obs=y)

    def log_likelihood(at, y):
        responses = _responses(values(at))
        noise = at["sd_noise"] ** 2 * jnp.eye(_LENGTH)
        return _log_normal(y, 0.0, responses @ responses.T + noise)

    def reported(at):
        at = values(at)
        return {name: at[name] for name in ("persistence", "sd_transition", "sd_noise")}

    return LatentModel(
        "Gaussian state space", parameters, _LENGTH, model, (data,), log_likelihood, reported
    )
