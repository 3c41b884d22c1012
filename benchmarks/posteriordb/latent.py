"""Models of posteriordb with latent effects, processes, mixtures and differential equations."""

from collections.abc import Callable
from typing import Any

import numpy as np

import jax
from jax import lax
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.posteriordb.database import Data
from benchmarks.posteriordb.regressions import Model, flat

#: Steps of the Runge–Kutta method between two measurements.
_STEPS = 10

#: Solutions are not smaller than this, so that their logarithms and gradients are finite.
_SMALLEST = 1e-12

#: Added to the diagonal of a covariance: Stan's 1e-10 is lost in single precision.
_JITTER = 1e-5


def eight_schools_noncentered(data: Data) -> Model:
    """Effects of coaching in eight schools."""
    y, scale = (jnp.asarray(data[name], jnp.float32) for name in ("y", "sigma"))

    def model() -> None:
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        trans = numpyro.sample("theta_trans", dist.Normal().expand([len(y)]).to_event(1))
        theta = numpyro.deterministic("theta", trans * tau + mu)
        numpyro.sample("y", dist.Normal(theta, scale).to_event(1), obs=y)

    return model


def _covariance(x: jax.Array, alpha: jax.Array, rho: jax.Array) -> jax.Array:
    """The exponentiated quadratic kernel."""
    return alpha**2 * jnp.exp(-0.5 * ((x[:, None] - x) / rho) ** 2)


def gp_regr(data: Data) -> Model:
    """Regression by a Gaussian process; sigma is the variance of the noise."""
    x, y = (jnp.asarray(data[name], jnp.float32) for name in ("x", "y"))

    def model() -> None:
        rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        covariance = _covariance(x, alpha, rho) + sigma * jnp.eye(len(x))
        numpyro.sample("y", dist.MultivariateNormal(0.0, covariance), obs=y)

    return model


def gp_pois_regr(data: Data) -> Model:
    """Counts with a Gaussian process as logarithm of their rates."""
    x, counts = jnp.asarray(data["x"], jnp.float32), jnp.asarray(data["k"])

    def model() -> None:
        rho = numpyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = numpyro.sample("alpha", dist.HalfNormal(2.0))
        f_tilde = numpyro.sample("f_tilde", dist.Normal().expand([len(x)]).to_event(1))
        covariance = _covariance(x, alpha, rho) + _JITTER * jnp.eye(len(x))
        f = numpyro.deterministic("f", jnp.linalg.cholesky(covariance) @ f_tilde)
        numpyro.sample("k", dist.Poisson(jnp.exp(f)).to_event(1), obs=counts)

    return model


def low_dim_gauss_mix(data: Data) -> Model:
    """A mixture of two Normals with ordered means."""
    y = jnp.asarray(data["y"], jnp.float32)

    def model() -> None:
        mu = numpyro.sample("mu", flat(constraints.ordered_vector, 2))
        numpyro.factor("prior_mu", dist.Normal(0.0, 2.0).log_prob(mu).sum())
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0).expand([2]).to_event(1))
        theta = numpyro.sample("theta", dist.Beta(5.0, 5.0))
        shares = jnp.log(jnp.stack([theta, 1.0 - theta]))
        each = shares + dist.Normal(mu, sigma).log_prob(y[:, None])
        numpyro.factor("y", jax.nn.logsumexp(each, axis=1).sum())

    return model


def solve(derivative: Callable, state: Any, first: float, times: Any) -> jax.Array:
    """The solution of a differential equation at these times, by Runge–Kutta of order four.

    :param derivative: maps (time, state) to the derivative of the state.
    :param state: at the time ``first``.
    :return: shape ``(times, ...)``.
    """
    ends = np.asarray(times, float)
    begins = np.append(first, ends[:-1])
    widths = (ends - begins) / _STEPS
    starts = begins[:, None] + widths[:, None] * np.arange(_STEPS)
    steps = jnp.float32(starts.ravel()), jnp.float32(np.repeat(widths, _STEPS))

    def step(state: jax.Array, place: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        time, width = place
        k1 = derivative(time, state)
        k2 = derivative(time + width / 2.0, state + width / 2.0 * k1)
        k3 = derivative(time + width / 2.0, state + width / 2.0 * k2)
        k4 = derivative(time + width, state + width * k3)
        state = state + width / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        return state, state

    _, states = lax.scan(step, jnp.asarray(state, jnp.float32), steps)
    return states[_STEPS - 1 :: _STEPS]


def _log(values: jax.Array) -> jax.Array:
    return jnp.log(jnp.maximum(values, _SMALLEST))


def one_comp_mm_elim_abs(data: Data) -> Model:
    """Concentrations of a drug, with absorption and Michaelis–Menten elimination."""
    measured = jnp.asarray(data["C_hat"], jnp.float32)
    dose, volume = float(data["D"]), float(data["V"])

    def model() -> None:
        prior = dist.HalfCauchy(1.0)
        k_a, k_m, v_m, sigma = (
            numpyro.sample(name, prior) for name in ("k_a", "K_m", "V_m", "sigma")
        )

        def derivative(time: jax.Array, state: jax.Array) -> jax.Array:
            elimination = v_m / volume * state / (k_m + state)
            return jnp.exp(-k_a * time) * dose * k_a / volume - elimination

        found = solve(derivative, 0.0, data["t0"], data["times"])
        numpyro.sample("C_hat", dist.LogNormal(_log(found), sigma).to_event(1), obs=measured)

    return model


def lotka_volterra(data: Data) -> Model:
    """Numbers of hares and lynxes over twenty years."""
    first, later = (jnp.asarray(data[name], jnp.float32) for name in ("y_init", "y"))
    locs, scales = jnp.array([1.0, 0.05, 1.0, 0.05]), jnp.array([0.5, 0.05, 0.5, 0.05])

    def model() -> None:
        theta = numpyro.sample("theta", dist.TruncatedNormal(locs, scales, low=0.0).to_event(1))
        prior = dist.LogNormal(np.log(10.0), 1.0)
        z_init = numpyro.sample("z_init", prior.expand([2]).to_event(1))
        sigma = numpyro.sample("sigma", dist.LogNormal(-1.0, 1.0).expand([2]).to_event(1))

        def derivative(time: jax.Array, state: jax.Array) -> jax.Array:
            prey, predator = state
            of_prey = (theta[0] - theta[1] * predator) * prey
            return jnp.stack([of_prey, (-theta[2] + theta[3] * prey) * predator])

        z = solve(derivative, z_init, 0.0, data["ts"])
        numpyro.sample("y_init", dist.LogNormal(_log(z_init), sigma).to_event(1), obs=first)
        numpyro.sample("y", dist.LogNormal(_log(z), sigma).to_event(2), obs=later)

    return model


#: By Stan's name of the model: maps data to the model.
LATENT: dict[str, Callable[[Data], Model]] = {
    "eight_schools_noncentered": eight_schools_noncentered,
    "gp_regr": gp_regr,
    "gp_pois_regr": gp_pois_regr,
    "low_dim_gauss_mix": low_dim_gauss_mix,
    "one_comp_mm_elim_abs": one_comp_mm_elim_abs,
    "lotka_volterra": lotka_volterra,
}
