"""Programs of the speed benchmark: autoencoder, eight schools, funnel sampler, linear-Gaussian."""

from collections.abc import Callable
import time
from typing import Any, NamedTuple

from flax import linen as nn
import optax

import jax
from jax import lax, random
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.infer import ELBO, SVI, autoguide

from benchmarks.funnel.models import GUIDE, target
from benchmarks.models.by_quadrature import eight_schools

PIXELS, HIDDEN, LATENTS = 64, 200, 16


class Program(NamedTuple):
    """A model and a guide with their arguments.

    :param title: its name in reports.
    :param steps: training steps that are compiled and timed together.
    """

    title: str
    model: Callable
    guide: Callable
    args: tuple
    steps: int


def _network(width: int) -> nn.Module:
    return nn.Sequential([nn.Dense(HIDDEN), nn.tanh, nn.Dense(width)])


def autoencoder_model(images: jax.Array) -> None:
    """Binary images from normal latents."""
    decode = flax_module("decoder", _network(PIXELS), input_shape=(1, LATENTS))
    with numpyro.plate("images", len(images)):
        z = numpyro.sample("z", dist.Normal().expand([LATENTS]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=images)


def autoencoder_guide(images: jax.Array) -> None:
    """Normal latents from images."""
    encode = flax_module("encoder", _network(2 * LATENTS), input_shape=(1, PIXELS))
    with numpyro.plate("images", len(images)):
        loc, log_scale = jnp.split(encode(images), 2, axis=-1)
        numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def autoencoder(batch_size: int) -> Program:
    """The autoencoder on a batch of random images."""
    images = (random.uniform(random.key(0), (batch_size, PIXELS)) < 0.3).astype(jnp.float32)
    steps = max(1, 3_200 // batch_size)
    return Program(
        f"autoencoder, batch {batch_size}", autoencoder_model, autoencoder_guide, (images,), steps
    )


def schools() -> Program:
    """Eight schools, a model whose draws cost almost nothing."""
    guide = autoguide.AutoNormal(eight_schools)
    return Program("eight schools, AutoNormal", eight_schools, guide, (), 1_000)


def funnel_sampler() -> Program:
    """The sampler of the funnel benchmark, with 64 draws of x in each step."""
    return Program("the funnel's sampler", target, GUIDE, (), 50)


def linear_model(x: jax.Array) -> None:
    """Normal latents and data of the same dimension."""
    loc = numpyro.param("loc", jnp.zeros(x.shape[-1]))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(loc, 1.0).to_event(1))
        numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def linear_guide(x: jax.Array) -> None:
    """The shifted posterior; the spread of the log-weights is the same in all dimensions."""
    shift = numpyro.param("shift", jnp.asarray(0.6 / x.shape[-1] ** 0.5))
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(0.5 * x + shift, 0.5**0.5).to_event(1))


def linear(dimension: int, batch_size: int) -> Program:
    """The linear-Gaussian model of a random batch."""
    x = random.normal(random.key(0), (batch_size, dimension))
    title = f"linear-Gaussian, dimension {dimension}, batch {batch_size}"
    steps = max(1, 400_000 // (dimension * batch_size))
    return Program(title, linear_model, linear_guide, (x,), min(steps, 200))


class Compiled(NamedTuple):
    """Training steps compiled together.

    :param run: maps a state of SVI to the state after the steps and their losses.
    :param state: the initial state.
    :param seconds: time of compilation, tracing included.
    :param temporary_bytes: memory of the compiled program without arguments and results.
    """

    run: Callable[[Any], tuple[Any, jax.Array]]
    state: Any
    seconds: float
    temporary_bytes: int


def compile_steps(program: Program, loss: ELBO) -> Compiled:
    """Compile ``program.steps`` training steps with a loss."""
    svi = SVI(program.model, program.guide, optax.adam(1e-3), loss)
    state = svi.init(random.key(1), *program.args)

    def run(state):
        step = lambda state, _: svi.update(state, *program.args)
        return lax.scan(step, state, length=program.steps)

    started = time.perf_counter()
    executable: Any = jax.jit(run).lower(state).compile()
    seconds = time.perf_counter() - started
    return Compiled(executable, state, seconds, executable.memory_analysis().temp_size_in_bytes)
