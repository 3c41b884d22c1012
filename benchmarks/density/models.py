"""Models and data of the density benchmark: autoencoders of digits and of points in the plane."""

from collections.abc import Callable
from typing import Any, NamedTuple

from flax import linen as nn
import numpy as np
from sklearn.datasets import load_digits, make_moons

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist

PIXELS, LATENTS, HIDDEN = 64, 16, 200
#: Training, validation and test images.
DIGITS_SPLIT = (1_257, 180, 360)
PLANE_LATENTS, PLANE_HIDDEN = 2, 64
PLANE_SPLIT = (2_000, 500, 1_000)


class Data(NamedTuple):
    """Training, validation and test points, each of shape ``(size, features)``."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class Task(NamedTuple):
    """A data set with a model and a guide.

    Model and guide take points of shape ``(size, features)`` and a batch size (None for all
    points); they are scaled so that a loss on the training points is in nats per point.

    :param title: its name in reports.
    :param binary: whether points are grey levels in [0, 1], observed as random 0s and 1s.
    :param network: number of latents, and units of each of two hidden layers.
    """

    title: str
    model: Callable
    guide: Callable
    data: Data
    binary: bool
    network: tuple[int, int]

    def observations(self, rng_key: jax.Array, points: np.ndarray) -> np.ndarray:
        """The observations that the model receives for these points."""
        points = checked(points, self.data.train.shape[1])
        if self.binary:
            if points.min() < 0.0 or points.max() > 1.0:
                raise ValueError(
                    f"Expected grey levels in [0, 1]; got {points.min():g} to {points.max():g}. "
                    "Divide by the largest."
                )
            points = np.asarray(random.bernoulli(rng_key, jnp.asarray(points)), np.float32)
        return points


def digits() -> Task:
    """Handwritten digits, 8 × 8 pixels, binarised at random in every epoch."""
    grey = checked(load_digits().data / 16.0, PIXELS)
    data = _split(grey, DIGITS_SPLIT)
    return Task("digits", image_model, image_guide, data, True, (LATENTS, HIDDEN))


def plane(name: str) -> Task:
    """A data set of :data:`PLANES`."""
    points = PLANES[name](np.random.default_rng(0), sum(PLANE_SPLIT))
    points = checked((points - points.mean(axis=0)) / points.std(axis=0), 2)
    data = _split(points, PLANE_SPLIT)
    return Task(name, plane_model, plane_guide, data, False, (PLANE_LATENTS, PLANE_HIDDEN))


def checked(points: Any, num_features: int) -> np.ndarray:
    """The points in float32, after checking their shape and values.

    :raises ValueError: for another shape, and for values that are not finite; one line.
    """
    points = np.asarray(points)
    if points.ndim != 2 or points.shape[1] != num_features or not len(points):
        raise ValueError(
            f"Expected points of shape (size, {num_features}) with size >= 1; got {points.shape}. "
            "Reshape them."
        )
    bad = ~np.isfinite(points)
    if bad.any():
        raise ValueError(
            f"Expected finite values; {bad.sum()} of {points.size} are not, the first in row "
            f"{np.argwhere(bad)[0][0]}. Drop those rows, or fill the values in."
        )
    return points.astype(np.float32)


def image_model(images: jax.Array, batch_size: int | None = None) -> None:
    """Binary images from normal latents."""
    decode = flax_module("decoder", _network(HIDDEN, PIXELS), input_shape=(1, LATENTS))
    with _per_point(DIGITS_SPLIT), _batches(images, batch_size):
        batch = numpyro.subsample(images, event_dim=1)
        z = numpyro.sample("z", dist.Normal().expand([LATENTS]).to_event(1))
        numpyro.sample("x", dist.Bernoulli(logits=decode(z)).to_event(1), obs=batch)


def image_guide(images: jax.Array, batch_size: int | None = None) -> None:
    """Normal latents from images."""
    encode = flax_module("encoder", _network(HIDDEN, 2 * LATENTS), input_shape=(1, PIXELS))
    with _per_point(DIGITS_SPLIT), _batches(images, batch_size):
        _propose(encode(numpyro.subsample(images, event_dim=1)))


def plane_model(points: jax.Array, batch_size: int | None = None) -> None:
    """Points of the plane, each from a normal whose mean and scales depend on its latents."""
    decode = flax_module("decoder", _network(PLANE_HIDDEN, 4), input_shape=(1, PLANE_LATENTS))
    with _per_point(PLANE_SPLIT), _batches(points, batch_size):
        batch = numpyro.subsample(points, event_dim=1)
        z = numpyro.sample("z", dist.Normal().expand([PLANE_LATENTS]).to_event(1))
        loc, width = jnp.split(decode(z), 2, axis=-1)
        # Without a lower limit, a scale could shrink to zero about a single training point.
        scale = 0.03 + jax.nn.softplus(width)
        numpyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=batch)


def plane_guide(points: jax.Array, batch_size: int | None = None) -> None:
    """Normal latents from points."""
    encode = flax_module("encoder", _network(PLANE_HIDDEN, 2 * PLANE_LATENTS), input_shape=(1, 2))
    with _per_point(PLANE_SPLIT), _batches(points, batch_size):
        _propose(encode(numpyro.subsample(points, event_dim=1)))


def plane_prior(points: jax.Array, batch_size: int | None = None) -> None:
    """The prior as a guide, wide enough at every point."""
    with _per_point(PLANE_SPLIT), _batches(points, batch_size):
        numpyro.sample("z", dist.Normal().expand([PLANE_LATENTS]).to_event(1))


def moons(generator: np.random.Generator, size: int) -> np.ndarray:
    """Two interlocking half circles."""
    return make_moons(size, noise=0.07, random_state=generator.integers(2**31))[0]


def pinwheel(generator: np.random.Generator, size: int) -> np.ndarray:
    """Five spiral arms."""
    arm = generator.integers(5, size=size)
    radius = 1.0 + 0.3 * generator.normal(size=size)
    across = 0.1 * generator.normal(size=size)
    angle = 2.0 * np.pi * arm / 5.0 + 0.25 * np.exp(radius)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([radius * cos - across * sin, radius * sin + across * cos], axis=1)


def checkerboard(generator: np.random.Generator, size: int) -> np.ndarray:
    """Eight of sixteen squares, uniformly filled."""
    column, half = generator.integers(4, size=size), generator.integers(2, size=size)
    corner = np.stack([column, 2 * half + column % 2], axis=1)
    return corner + generator.uniform(size=(size, 2))


PLANES: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "moons": moons,
    "pinwheel": pinwheel,
    "checkerboard": checkerboard,
}


def _network(num_hidden: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(
        [nn.Dense(num_hidden), nn.tanh, nn.Dense(num_hidden), nn.tanh, nn.Dense(num_outputs)]
    )


def _batches(points: jax.Array, batch_size: int | None) -> numpyro.plate:
    return numpyro.plate("points", len(points), subsample_size=batch_size)


def _per_point(split: tuple[int, int, int]) -> numpyro.handlers.scale:
    """A handler that divides the log-density by the number of training points."""
    return numpyro.handlers.scale(scale=1 / split[0])


def _propose(outputs: jax.Array) -> None:
    loc, log_scale = jnp.split(outputs, 2, axis=-1)
    numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def _split(points: np.ndarray, sizes: tuple[int, int, int]) -> Data:
    """The points, shuffled and split in three."""
    order = np.random.default_rng(0).permutation(len(points))
    return Data(*np.split(points[order[: sum(sizes)]], np.cumsum(sizes)[:2]))
