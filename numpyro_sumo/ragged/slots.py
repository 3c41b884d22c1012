"""A slot is a place in the queue: a datum, and a block of its draws."""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from numpyro_sumo.estimators.log_sums import as_column


class Slots(NamedTuple):
    """Some slots of the queue: datum, block of draws, and whether the slot exists."""

    datum: jax.Array
    block: jax.Array
    valid: jax.Array

    def mask(self, leaf, otherwise=0):
        """The leaf, and ``otherwise`` where the slot does not exist."""
        return jnp.where(as_column(self.valid, leaf), leaf, otherwise)

    def of_data(self, leaf):
        """The elements of the slots' data."""
        # Gathered once: within what reads it, XLA would gather again for every element.
        return lax.optimization_barrier(leaf[self.datum])
