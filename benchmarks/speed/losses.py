"""Losses and stopping times that SUMO is compared with, in time and in variance."""

from dataclasses import dataclass
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from numpyro.infer import ELBO

from numpyro_sumo import SUMO
from numpyro_sumo.losses.objectives import SampleViews
from numpyro_sumo.ragged import Layout, Particle, evaluate_fixed
from numpyro_sumo.stopping_times import ReciprocalTail, StoppingTime


@dataclass(kw_only=True, eq=False)
class FixedSUMO(SUMO):
    """SUMO that evaluates a fixed number of draws for each datum, whatever its stopping time.

    :param num_tail: draws after the first ``num_particles``.
    :param times: the stopping time of all data; None draws them.
    """

    num_tail: int
    times: int | None = None
    data_axes: Any = 0

    def sample(
        self,
        rng_key: jax.Array,
        particle: Particle,
        num_data: int = 1,
        generating: dict[str, jax.Array] | None = None,
        fixed_only: tuple[str, ...] = (),
    ) -> SampleViews:
        """The stopping times, and the log-weights of the fixed number of draws."""
        if self.times is None:
            times = self.sample_stopping_times(rng_key, num_data)
        else:
            times = jnp.full(num_data, self.times)
        count = self.num_fresh + self.num_tail
        kept = evaluate_fixed(rng_key, particle, num_data, Layout(count))
        missing = self.num_fresh + self.stopping_time.cap - count
        pad = lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
        return SampleViews(jax.tree.map(pad, kept), times, generating or {})


class Lockstep(ELBO):
    """A loss applied to each datum under ``vmap``: all data run until the longest tail ends."""

    def __init__(self, loss: ELBO):
        super().__init__()
        self.each = loss

    def loss(self, rng_key, param_map, model, guide, x):
        """The sum of the losses of the data."""
        of_datum = lambda key, x: self.each.loss(key, param_map, model, guide, x[None])
        return jnp.sum(jax.vmap(of_datum)(random.split(rng_key, len(x)), x))


class FixedTime(StoppingTime):
    """The survival function of the paper's stopping time, with given values instead of draws."""

    def __init__(self, times: jax.Array):
        self.times, self.paper = times, ReciprocalTail()

    @property
    def cap(self) -> int:
        return self.paper.cap

    def log_survival(self, k):
        return self.paper.log_survival(k)

    def sample(self, rng_key, shape=()):
        return jnp.broadcast_to(self.times, shape)
