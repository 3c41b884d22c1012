"""Losses and stopping times that SUMO is compared with, in time and in variance."""

import jax
from jax import random
import jax.numpy as jnp

from numpyro.infer import ELBO

from numpyro_sumo import SUMO
from numpyro_sumo.losses.base import Draws
from numpyro_sumo.ragged import evaluate_log_weights
from numpyro_sumo.stopping_times import ReciprocalTail, StoppingTime


class FixedSUMO(SUMO):
    """SUMO that evaluates a fixed number of draws for each datum, whatever its stopping time.

    :param num_tail: draws after the first ``num_particles``.
    :param times: the stopping time of all data; None draws them.
    """

    def __init__(self, num_particles: int, num_tail: int, times: int | None = None):
        super().__init__(num_particles, data_axes=0)
        self.num_tail, self.times = num_tail, times

    def draw(self, rng_key, particle, num_data=1, given=None, fresh_only=()):
        """The stopping times, and the log-weights of the fixed number of draws."""
        if self.times is None:
            times = super().draw(rng_key, particle, num_data, given, fresh_only).stopping_times
        else:
            times = jnp.full(num_data, self.times)
        count = self.num_fresh + self.num_tail
        rows = evaluate_log_weights(
            particle,
            rng_key,
            jnp.full(num_data, count),
            max_count=count,
            num_head=count,
            chunk_size=1,
        )
        missing = self.num_particles + self.stopping_time.cap - count
        pad = lambda leaf: jnp.pad(leaf, [(0, missing)] + [(0, 0)] * (leaf.ndim - 1))
        return Draws(jax.tree.map(pad, rows), times, given or {})


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
