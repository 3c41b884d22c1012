"""What a model of the parameters benchmark consists of, and the guides that all of them share."""

from collections.abc import Callable, Mapping
import math
from typing import Any, NamedTuple

import numpy as np

import jax
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

NUM_DATA = 200
#: Units of the hidden layer of the amortised guide.
_HIDDEN = 16


class Parameter(NamedTuple):
    """Where training starts, and whether the parameter is positive."""

    start: Any
    positive: bool = False


class LatentModel(NamedTuple):
    """A model with one latent vector for each datum and an exact log-likelihood.

    :param title: its name in reports.
    :param parameters: the model's param sites, by name.
    :param model: called as ``model(*data, index)``; site ``z`` has shape ``(data, latent_size)``.
    :param data: arrays with a leading axis of :data:`NUM_DATA`; the first is what is modelled.
    :param log_likelihood: maps (parameter values, *data) to log p(x) of all data, in nats.
    :param reported: maps parameter values to the figures that are compared, each an array.
    """

    title: str
    parameters: Mapping[str, Parameter]
    latent_size: int
    model: Callable
    data: tuple[np.ndarray, ...]
    log_likelihood: Callable[..., jax.Array]
    reported: Callable[[dict[str, Any]], dict[str, Any]]

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments of model and guide: the data, and the index of each datum."""
        return *map(jnp.asarray, self.data), jnp.arange(NUM_DATA)


def learned(parameters: Mapping[str, Parameter]) -> dict[str, jax.Array]:
    """Declare the parameters as param sites; return their values."""
    constraint = {True: dist.constraints.positive, False: dist.constraints.real}
    return {
        name: numpyro.param(name, jnp.asarray(start, float), constraint=constraint[positive])
        for name, (start, positive) in parameters.items()
    }


def local_guide(problem: LatentModel) -> Callable:
    """A Normal guide with a location and a scale for each datum, as AutoNormal has."""
    shape = NUM_DATA, problem.latent_size

    def guide(*args: jax.Array) -> None:
        index = args[-1]
        loc = numpyro.param("auto_loc", jnp.zeros(shape))
        scale = numpyro.param(
            "auto_scale", jnp.full(shape, 0.5), constraint=dist.constraints.positive
        )
        with numpyro.plate("data", len(index)):
            numpyro.sample("z", dist.Normal(loc[index], scale[index]).to_event(1))

    return guide


def amortised_guide(problem: LatentModel) -> Callable:
    """A Normal guide whose locations and scales a small network computes from the data."""
    observed = problem.data[0]
    centre, spread = observed.mean(axis=0), observed.std(axis=0)
    num_inputs, size = observed.shape[1], problem.latent_size
    rng = np.random.default_rng(0)
    first = rng.normal(size=(num_inputs, _HIDDEN)) / math.sqrt(num_inputs)
    second = 0.1 * rng.normal(size=(_HIDDEN, 2 * size)) / math.sqrt(_HIDDEN)
    start = {
        "first": first,
        "first_bias": np.zeros(_HIDDEN),
        "second": second,
        "second_bias": np.repeat([0.0, math.log(0.5)], size),
    }

    def guide(*args: jax.Array) -> None:
        net = {
            name: numpyro.param(name, jnp.asarray(value, float)) for name, value in start.items()
        }
        hidden = jnp.tanh((args[0] - centre) / spread @ net["first"] + net["first_bias"])
        loc, log_scale = jnp.split(hidden @ net["second"] + net["second_bias"], 2, axis=-1)
        with numpyro.plate("data", len(args[0])):
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return guide


GUIDES: dict[str, Callable[[LatentModel], Callable]] = {
    "local": local_guide,
    "amortised": amortised_guide,
}
