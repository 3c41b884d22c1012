"""A neural network beside a linear map, with outputs that are zero before training."""

from collections.abc import Sequence

import jax
from jax.example_libraries import stax
import jax.numpy as jnp

import numpyro

from numpyro_sumo.checks import check_positive_integer


def check_hidden_sizes(hidden_sizes: object) -> None:
    """Refuses what is no sequence of positive integers."""
    if not isinstance(hidden_sizes, Sequence) or isinstance(hidden_sizes, str):
        raise ValueError(
            f"Expected hidden_sizes to be a sequence of integers; got {hidden_sizes!r}. Pass "
            "(64, 64), for instance."
        )
    for units in hidden_sizes:
        check_positive_integer("hidden_sizes", units)


def skip_network(
    name: str, inputs: jax.Array, num_parts: int, size: int, hidden_sizes: Sequence[int]
) -> list[jax.Array]:
    """Outputs of a network plus those of a linear map, in parts; zero before training.

    :param name: of the param site that holds the weights of both.
    :param inputs: features, with any batch dimensions before the last one.
    :param num_parts: number of outputs, each with a last dimension of ``size``.
    :param hidden_sizes: units of the network's hidden layers.
    """
    zeros = jax.nn.initializers.zeros
    # Unlike tanh, swish is unbounded, which tails need.
    swish = stax.elementwise(jax.nn.swish)
    hidden = [layer for units in hidden_sizes for layer in (stax.Dense(units), swish)]
    network = stax.serial(
        stax.FanOut(2),
        stax.parallel(
            stax.Dense(num_parts * size, W_init=zeros, b_init=zeros),
            stax.serial(*hidden, stax.Dense(num_parts * size, W_init=zeros, b_init=zeros)),
        ),
        stax.FanInSum,
    )
    apply = numpyro.module(name, network, inputs.shape)
    return jnp.split(apply(inputs), num_parts, axis=-1)
