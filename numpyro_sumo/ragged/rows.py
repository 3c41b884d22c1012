"""An accumulator that keeps every log-weight, one row for each draw of a datum."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from .queue import Chunk


@dataclass(frozen=True)
class Rows:
    """Keeps log-weights of shape ``(num_rows, num_data, *rest)``; see :class:`.Accumulator`.

    :param num_rows: the largest possible number of draws.
    :param num_fixed: how many draws of each datum are always made.
    :param fixed_only: views that need the fixed draws only.
    """

    num_rows: int
    num_fixed: int
    fixed_only: frozenset[str]

    def init(self, first: Chunk, num_data: int, generating: jax.Array | None) -> jax.Array:
        rest = first.log_weights.shape[2:]
        rows = jnp.zeros((self.num_rows, num_data, *rest), first.log_weights.dtype)
        return self.update(rows, first, generating)

    def update(self, state: jax.Array, chunk: Chunk, generating: jax.Array | None) -> jax.Array:
        slots = chunk.slots
        row = jnp.where(slots.valid, slots.block, self.num_rows)
        return state.at[row, slots.datum].set(chunk.log_weights[:, 0], mode="drop")

    def finalize(self, state: jax.Array, view: str) -> jax.Array:
        return state[: self.num_fixed] if view in self.fixed_only else state

    def vjp(
        self,
        cotangent: jax.Array,
        state: Any,
        chunk: Chunk,
        view: str,
        generating: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array | None]:
        slots = chunk.slots
        # Rows beyond those of the view have no derivative.
        slots = slots._replace(valid=slots.valid & (slots.block < len(cotangent)))
        of_rows = cotangent[jnp.minimum(slots.block, len(cotangent) - 1), slots.datum]
        return slots.mask(of_rows)[:, None], None
