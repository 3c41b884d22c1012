"""Programs whose evidence, posteriors and gradients are known in closed form."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide

LOC, NOISE = 0.5, 0.7
AUXILIARY = {"is_auxiliary": True}


class Problem(NamedTuple):
    """What a loss is called with, and parameters at which the answer is known."""

    model: Callable
    guide: Callable
    args: tuple
    params: dict[str, Any]
    exact_params: dict[str, Any]
    exact_loss: float


# Linear-Gaussian: z ~ N(loc, 1), x | z ~ N(z, noise²), in every dimension.


def linear_gaussian(x):
    loc = numpyro.param("loc", jnp.full(x.shape, LOC))
    log_noise = numpyro.param("log_noise", jnp.log(NOISE))
    z = numpyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
    numpyro.sample("x", dist.Normal(z, jnp.exp(log_noise)).to_event(1), obs=x)


def shifted_posterior(x):
    """The posterior at the model's initial parameters when shift and log_width are zero."""
    mean, sd = posterior(x)
    shift = numpyro.param("shift", jnp.full(x.shape, 0.2))
    log_width = numpyro.param("log_width", jnp.full((), 0.05))
    numpyro.sample("z", dist.Normal(mean + sd * shift, sd * jnp.exp(log_width)).to_event(1))


def posterior(x, loc=LOC, noise=NOISE):
    """Mean and standard deviation of z given x."""
    variance = 1.0 / (1.0 + noise**-2)
    return variance * (loc + x * noise**-2), variance**0.5


def log_evidence(x, loc=LOC, log_noise=None):
    """log p(x) of each element of x; differentiable."""
    variance = 1.0 + jnp.exp(2.0 * (jnp.log(NOISE) if log_noise is None else log_noise))
    return -0.5 * (x - loc) ** 2 / variance - 0.5 * jnp.log(2.0 * np.pi * variance)


def linear_gaussian_problem(dim: int, shift: float = 0.2, log_width: float = 0.05) -> Problem:
    x = jnp.linspace(-1.0, 2.0, dim)
    model_params = {"loc": jnp.full(dim, LOC), "log_noise": jnp.log(NOISE)}
    return Problem(
        linear_gaussian,
        shifted_posterior,
        (x,),
        {**model_params, "shift": jnp.full(dim, shift), "log_width": jnp.asarray(log_width)},
        {**model_params, "shift": jnp.zeros(dim), "log_width": jnp.asarray(0.0)},
        -float(log_evidence(x).sum()),
    )


# The same with one latent for each element of a data plate.


def plated(x, subsample_size=None):
    loc = numpyro.param("loc", LOC)
    log_noise = numpyro.param("log_noise", jnp.log(NOISE))
    with numpyro.plate("data", x.shape[0], subsample_size=subsample_size):
        batch = numpyro.subsample(x, event_dim=0)
        z = numpyro.sample("z", dist.Normal(loc, 1.0))
        numpyro.sample("x", dist.Normal(z, jnp.exp(log_noise)), obs=batch)


def plated_posterior(x, subsample_size=None):
    """The posterior at the model's initial parameters when shift and log_width are zero."""
    shift = numpyro.param("shift", 0.3)
    log_width = numpyro.param("log_width", 0.1)
    with numpyro.plate("data", x.shape[0], subsample_size=subsample_size):
        mean, sd = posterior(numpyro.subsample(x, event_dim=0))
        numpyro.sample("z", dist.Normal(mean + sd * shift, sd * jnp.exp(log_width)))


def plated_problem(size: int) -> Problem:
    x = 1.5 * jnp.sin(jnp.arange(size) ** 2 + 1.0)
    model_params = {"loc": jnp.asarray(LOC), "log_noise": jnp.log(NOISE)}
    return Problem(
        plated,
        plated_posterior,
        (x,),
        {**model_params, "shift": jnp.asarray(0.3), "log_width": jnp.asarray(0.1)},
        {**model_params, "shift": jnp.asarray(0.0), "log_width": jnp.asarray(0.0)},
        -float(log_evidence(x).sum()),
    )


# Density matching: u ~ N(0, 1), x | u ~ N(offset + slope·u, scale²), so x ~ N(offset, slope² +
# scale²); the target is exp(LOG_NORMALISER)·N(TARGET_LOC, TARGET_SCALE²).

TARGET_LOC, TARGET_SCALE, LOG_NORMALISER = 0.4, 1.5, 2.5


def target():
    numpyro.sample("x", dist.Normal(TARGET_LOC, TARGET_SCALE))
    numpyro.factor("log_normaliser", jnp.asarray(LOG_NORMALISER))


def log_target(x):
    """log p(x), not normalised."""
    return dist.Normal(TARGET_LOC, TARGET_SCALE).log_prob(x) + LOG_NORMALISER


def sampler():
    offset = numpyro.param("offset", 0.0)
    slope = numpyro.param("slope", 1.0)
    log_scale = numpyro.param("log_scale", -0.5)
    u = numpyro.sample("u", dist.Normal(0.0, 1.0), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(offset + slope * u, jnp.exp(log_scale)))


def reverse(latents):
    centre = numpyro.param("centre", 0.0)
    weight = numpyro.param("weight", 0.5)
    log_width = numpyro.param("log_width", -0.3)
    loc = weight * (latents["x"] - centre)
    numpyro.sample("u", dist.Normal(loc, jnp.exp(log_width)))


hierarchical_guide = HierarchicalGuide(sampler, reverse)

SAMPLER_PARAMS = {"offset": 0.1, "slope": 1.0, "log_scale": -0.5}
INEXACT_REVERSE = {"centre": 0.0, "weight": 0.5, "log_width": -0.3}


def marginal_variance(params):
    return params["slope"] ** 2 + jnp.exp(2.0 * params["log_scale"])


def log_marginal(params, x):
    """log q(x), closed form; differentiable."""
    variance = marginal_variance(params)
    return -0.5 * (x - params["offset"]) ** 2 / variance - 0.5 * jnp.log(2.0 * np.pi * variance)


def exact_reverse(params):
    """Parameters of the reverse model at which it is q(u | x)."""
    variance = marginal_variance(params)
    return {
        "centre": jnp.asarray(params["offset"]),
        "weight": jnp.asarray(params["slope"] / variance),
        "log_width": params["log_scale"] - 0.5 * jnp.log(variance),
    }


def reverse_kl(params):
    """E[log q(x) − log p(x)], p not normalised: closed form; differentiable."""
    variance = marginal_variance(params)
    squared = (variance + (params["offset"] - TARGET_LOC) ** 2) / TARGET_SCALE**2
    return 0.5 * (squared - 1.0 - jnp.log(variance / TARGET_SCALE**2)) - LOG_NORMALISER


def forward_kl_objective(reverse_params, sampler_params=SAMPLER_PARAMS):
    """E[−log r(u | x)] over the sampler's draws: closed form; differentiable."""
    weight, variance = reverse_params["weight"], marginal_variance(sampler_params)
    bias = weight * (sampler_params["offset"] - reverse_params["centre"])
    residual = 1.0 - 2.0 * weight * sampler_params["slope"] + weight**2 * variance + bias**2
    log_width = reverse_params["log_width"]
    return 0.5 * residual * jnp.exp(-2.0 * log_width) + log_width + 0.5 * np.log(2.0 * np.pi)


def matching_problem(reverse_params=INEXACT_REVERSE) -> Problem:
    """``exact_params`` make q the normalised target itself, so that the loss is −log Z."""
    sampler_params = {name: jnp.asarray(value) for name, value in SAMPLER_PARAMS.items()}
    exact = {
        "offset": jnp.asarray(TARGET_LOC),
        "slope": jnp.asarray(0.8 * TARGET_SCALE),
        "log_scale": jnp.log(0.6 * TARGET_SCALE),
    }
    return Problem(
        target,
        hierarchical_guide,
        (),
        {**sampler_params, **{name: jnp.asarray(v) for name, v in reverse_params.items()}},
        {**exact, **exact_reverse(exact)},
        -LOG_NORMALISER,
    )


# Targets that no guide can be judged by: impossible at its draws, discrete, subsampled.


def never():
    numpyro.factor("never", jnp.where(numpyro.sample("x", dist.Normal()) > 99.0, 0.0, -jnp.inf))


def discrete():
    numpyro.sample("x", dist.Poisson(2.0))


def subsampled():
    x = numpyro.sample("x", dist.Normal())
    with numpyro.plate("data", 4, subsample_size=2):
        numpyro.sample("y", dist.Normal(x, 1.0), obs=jnp.zeros(2))
