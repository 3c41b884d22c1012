"""The funnel, the hierarchical guide that is trained on it, and the losses that are compared."""

from typing import Any

from flax import linen as nn
import numpy as np
from scipy.stats import norm

import jax
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist

from numpyro_sumo import IWELBO, IWHVI, SUMO, HierarchicalGuide, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

SCALE_OF_V = 1.35
NUM_AUXILIARY = 8
NUM_HIDDEN = 128


def target() -> None:
    """The funnel in its centred form."""
    v = numpyro.sample("v", dist.Normal(0.0, SCALE_OF_V))
    numpyro.sample("x", dist.Normal(0.0, jnp.exp(v)))


def log_target(points: dict[str, np.ndarray]) -> np.ndarray:
    """The log-density of the target at points given by site, in nats."""
    x, v = points["x"], points["v"]
    return norm.logpdf(v, scale=SCALE_OF_V) + norm.logpdf(x, scale=np.exp(v))


class LocAndScale(nn.Module):
    """A network with one hidden layer of tanh units that returns mean and standard deviation."""

    num_outputs: int

    @nn.compact
    def __call__(self, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Location and scale, each of shape ``(num_outputs,)``."""
        hidden = nn.tanh(nn.Dense(NUM_HIDDEN)(inputs))
        small = nn.initializers.variance_scaling(0.01, "fan_in", "normal")
        outputs = nn.Dense(2 * self.num_outputs, kernel_init=small)(hidden)
        loc, log_variance = jnp.split(outputs, 2, axis=-1)
        return loc, jnp.exp(0.5 * log_variance)


def sampler() -> None:
    """The sampler q(u) q(v, x | u), with auxiliary variables u."""
    u = numpyro.sample(
        "u", dist.Normal().expand([NUM_AUXILIARY]).to_event(1), infer={"is_auxiliary": True}
    )
    network = flax_module("sampler", LocAndScale(2), input_shape=(NUM_AUXILIARY,))
    loc, scale = network(u)
    numpyro.sample("v", dist.Normal(loc[0], scale[0]))
    numpyro.sample("x", dist.Normal(loc[1], scale[1]))


def reverse(latents: dict[str, jax.Array]) -> None:
    """The reverse model r(u | v, x)."""
    network = flax_module("reverse", LocAndScale(NUM_AUXILIARY), input_shape=(2,))
    loc, scale = network(jnp.stack([latents["v"], latents["x"]]))
    numpyro.sample("u", dist.Normal(loc, scale).to_event(1))


GUIDE = HierarchicalGuide(sampler, reverse)

#: The tail is cut at its knee, so that no increment is multiplied by more than 80.
LIGHT_TAIL = ReciprocalTail(knee=80, decay=0.0)
#: At most 8 blocks of draws; no increment is multiplied by more than 10.5.
FEW_LEVELS = GeometricTail(0.69, max_level=3)

#: Each makes 16 draws of u per x in expectation, except the last, which makes 4.
ARMS: dict[str, ReverseKL] = {
    "sumo": ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL, from_above=True)),
    "multilevel": ReverseKL(MultilevelSUMO(6, stopping_time=FEW_LEVELS, from_above=True)),
    "iwhvi": ReverseKL(IWHVI(16)),
    "iwelbo": ReverseKL(IWELBO(16)),
    "iwelbo_standard": ReverseKL(IWELBO(16), gradient="standard"),
    "iwelbo_few": ReverseKL(IWELBO(4)),
}
TITLES = {
    "sumo": "SUMO",
    "multilevel": "multilevel SUMO",
    "iwhvi": "IWHVI",
    "iwelbo": "IWELBO",
    "iwelbo_standard": "IWELBO, standard gradient",
    "iwelbo_few": "IWELBO, 4 draws",
    "nuts_centred": "NUTS, centred",
    "nuts_noncentred": "NUTS, non-centred",
    "exact": "exact draws",
}

#: Functions of the draws with a known distribution under the target, and its CDF.
KNOWN_MARGINALS: dict[str, tuple[Any, Any]] = {
    "v": (lambda draws: draws["v"], norm(scale=SCALE_OF_V).cdf),
    "x·exp(−v)": (lambda draws: draws["x"] * np.exp(-draws["v"]), norm.cdf),
}
#: Probabilities of the quantiles that are reported.
PROBABILITIES = (0.001, 0.01, 0.05, 0.5, 0.95, 0.99, 0.999)
