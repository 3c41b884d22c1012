"""Log-sums of weights by level, for draws that come in 2 to the power of a level blocks."""

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from numpyro_sumo.estimators.bounds import importance_weighted_bound

from .particle import PATH
from .queue import Chunk, Slots


class LevelSums(NamedTuple):
    """Sums over the blocks of each datum, relative to a reference (float32 keeps their digits).

    :param log_sums: log of the sum of the weights in block 0 (row 0) and in blocks
        :math:`2^{k-1} … 2^k - 1` (row k), minus the reference: shape
        ``(1 + max_level, num_data, *rest)``. Rows beyond the datum's level are not to be read.
    :param bounds: sum over all blocks of their importance-weighted bounds minus the reference:
        shape ``(num_data, *rest)``. None in views that need the fixed draws only.
    :param bounds_with_generating: the same, with the generating draw among the particles of each
        block; None without such a draw.
    :param reference: log of the sum of the weights in block 0, or 0 where that is not finite; no
        gradient flows through it. Shape ``(num_data, *rest)``.
    """

    log_sums: jax.Array
    bounds: jax.Array | None
    bounds_with_generating: jax.Array | None
    reference: jax.Array


class _OfBlocks(NamedTuple):
    """Log-sums and bounds of a chunk's blocks, minus the reference, shape ``(slots, *rest)``."""

    log_sums: jax.Array
    bounds: jax.Array
    bounds_with_generating: jax.Array | None


@dataclass(frozen=True)
class Levels:
    """Keeps :class:`LevelSums`; see :class:`.Accumulator`. The fixed draws are blocks 0 and 1.

    :param max_level: the largest possible level.
    :param fixed_only: views that need the fixed draws only.
    """

    max_level: int
    fixed_only: frozenset[str]

    def init(self, first: Chunk, num_data: int, generating: jax.Array | None) -> LevelSums:
        block = jnp.moveaxis(first.log_weights[:num_data], 1, 0)
        reference = importance_weighted_bound(block) + math.log(len(block))
        reference = jnp.where(jnp.isfinite(reference), reference, 0.0)
        log_sums = jnp.full((1 + self.max_level, *reference.shape), -jnp.inf, reference.dtype)
        bounds = jnp.zeros_like(reference)
        empty = LevelSums(log_sums, bounds, None if generating is None else bounds, reference)
        return self.update(empty, first, generating)

    def update(self, state: LevelSums, chunk: Chunk, generating: jax.Array | None) -> LevelSums:
        slots, row = chunk.slots, level_of(chunk.slots.block)
        blocks = self._of_blocks(chunk.log_weights, generating, state.reference, slots)
        block_sums = slots.mask(blocks.log_sums, -jnp.inf)
        largest = state.log_sums.at[row, slots.datum].max(block_sums)
        shift = jnp.where(jnp.isneginf(largest), 0.0, largest)
        terms = jnp.exp(block_sums - shift[row, slots.datum])
        sums = jnp.exp(state.log_sums - shift).at[row, slots.datum].add(terms)

        def add(total: jax.Array | None, values: jax.Array | None) -> jax.Array | None:
            if total is None or values is None:
                return None
            return total.at[slots.datum].add(slots.mask(values))

        return LevelSums(
            shift + jnp.log(sums),
            add(state.bounds, blocks.bounds),
            add(state.bounds_with_generating, blocks.bounds_with_generating),
            state.reference,
        )

    def finalize(self, state: LevelSums, view: str) -> LevelSums:
        if view not in self.fixed_only:
            return state
        return LevelSums(state.log_sums[:2], None, None, state.reference)

    def vjp(
        self,
        cotangent: LevelSums,
        state: LevelSums,
        chunk: Chunk,
        view: str,
        generating: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array | None]:
        slots, row = chunk.slots, level_of(chunk.slots.block)

        def of_blocks(log_weights: jax.Array, generating: jax.Array | None) -> _OfBlocks:
            return self._of_blocks(log_weights, generating, state.reference, slots, view)

        blocks, pull_back = jax.vjp(of_blocks, chunk.log_weights, generating)
        # The derivative of a log-sum in the logarithm of one term is that term's share.
        zeros = jnp.zeros_like(state.log_sums)
        of_rows = zeros.at[: len(cotangent.log_sums)].set(cotangent.log_sums)
        of_row = of_rows[row, slots.datum]
        log_share = blocks.log_sums - state.log_sums[row, slots.datum]
        # Without a cotangent there is no derivative, where a weight is infinite neither.
        is_zero = jnp.isneginf(blocks.log_sums) | (of_row == 0.0)
        of_sums = slots.mask(of_row * jnp.exp(jnp.where(is_zero, -jnp.inf, log_share)))

        def of_total(total: jax.Array | None, values: jax.Array | None) -> Any:
            if total is None or values is None:
                return jax.tree.map(jnp.zeros_like, values)
            return slots.mask(total[slots.datum])

        of_blocks_found = _OfBlocks(
            of_sums,
            of_total(cotangent.bounds, blocks.bounds),
            of_total(cotangent.bounds_with_generating, blocks.bounds_with_generating),
        )
        of_log_weights, of_generating = pull_back(of_blocks_found)
        return of_log_weights, of_generating

    def _of_blocks(
        self,
        log_weights: jax.Array,
        generating: jax.Array | None,
        reference: jax.Array,
        slots: Slots,
        view: str = "",
    ) -> _OfBlocks:
        rows, reference = jnp.moveaxis(log_weights, 1, 0), reference[slots.datum]
        bounds = importance_weighted_bound(rows, score_free=view == PATH) - reference
        with_generating = None
        if generating is not None:
            rows = jnp.concatenate([generating[slots.datum][None], rows])
            with_generating = importance_weighted_bound(rows) - reference
        return _OfBlocks(bounds + math.log(log_weights.shape[1]), bounds, with_generating)


def level_of(block: jax.Array) -> jax.Array:
    """Block 0 is in row 0, block 1 in row 1, blocks 2 and 3 in row 2, blocks 4 to 7 in row 3, …"""
    return 32 - lax.clz(block)
