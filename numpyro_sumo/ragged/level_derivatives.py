"""Log-sums of weights by level, with their derivatives in a few parameters."""

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators.taylor import exponential, logarithm

from .levels import LevelSums, level_of
from .queue import Chunk


class _State(NamedTuple):
    """Sums of weights, relative to factors that keep them in the range of floats.

    :param largest: log of the factor of each row and datum; −∞ before its first weight.
    :param sums: sums of weights over e to the ``largest``, with derivatives.
    :param bounds: as in :class:`.LevelSums`, with derivatives; likewise ``reference``, without.
    """

    largest: jax.Array
    sums: jax.Array
    bounds: jax.Array
    reference: jax.Array


@dataclass(frozen=True)
class LevelDerivatives:
    """Keeps :class:`.LevelSums` with derivatives; see :class:`.Accumulator`.

    The log-weights of a chunk have shape ``(slots, block_size, coefficients, *rest)``, where
    coefficients are as in :func:`.compose`; what is kept has the coefficients as its leading axis.
    It is not differentiable itself.

    :param max_level: the largest possible level.
    """

    max_level: int
    fixed_only: frozenset[str] = frozenset()

    def init(self, first: Chunk, num_data: int, generating: jax.Array | None) -> _State:
        blocks = _log_sums(first.log_weights[:num_data])
        reference = jnp.where(jnp.isfinite(blocks[0]), blocks[0], 0.0)
        rows = (1 + self.max_level, *reference.shape)
        empty = _State(
            jnp.full(rows, -jnp.inf, reference.dtype),
            jnp.zeros((len(blocks), *rows), reference.dtype),
            jnp.zeros_like(blocks),
            reference,
        )
        return self.update(empty, first, generating)

    def update(self, state: _State, chunk: Chunk, generating: jax.Array | None) -> _State:
        slots, row = chunk.slots, level_of(chunk.slots.block)
        blocks = _log_sums(chunk.log_weights)
        blocks = blocks.at[0].add(-state.reference[slots.datum])
        largest = state.largest.at[row, slots.datum].max(slots.mask(blocks[0], -jnp.inf))
        factor = jnp.where(jnp.isneginf(largest), 0.0, largest)
        terms = exponential(blocks.at[0].add(-factor[row, slots.datum]))
        mask = jax.vmap(slots.mask)
        sums = state.sums * jnp.exp(state.largest - factor)
        bounds = blocks.at[0].add(-math.log(chunk.log_weights.shape[1]))
        return _State(
            largest,
            sums.at[:, row, slots.datum].add(mask(terms)),
            state.bounds.at[:, slots.datum].add(mask(bounds)),
            state.reference,
        )

    def finalize(self, state: _State, view: str) -> LevelSums:
        log_sums = logarithm(_constant_where(state.sums[0] == 0.0, 1.0, state.sums))
        log_sums = log_sums.at[0].add(state.largest)
        return LevelSums(log_sums, state.bounds, None, state.reference)

    def vjp(self, cotangent: Any, state: Any, chunk: Chunk, view: str, generating: Any) -> Any:
        raise NotImplementedError("the derivatives are values here")


def _log_sums(log_weights: jax.Array) -> jax.Array:
    """Log of the sum of each block's weights, ``(coefficients, slots, *rest)``."""
    rows = jnp.moveaxis(log_weights, 2, 0)
    # A weight of zero has log-density −∞, whose derivatives are not finite.
    rows = _constant_where(jnp.isneginf(rows[0]), -jnp.inf, rows)
    largest = jnp.max(rows[0], axis=1)
    factor = jnp.where(jnp.isfinite(largest), largest, 0.0)
    sums = jnp.sum(exponential(rows.at[0].add(-factor[:, None])), axis=2)
    is_zero = sums[0] == 0.0
    log_sums = logarithm(_constant_where(is_zero, 1.0, sums)).at[0].add(factor)
    return _constant_where(is_zero, -jnp.inf, log_sums)


def _constant_where(condition: jax.Array, value: float, of_params: jax.Array) -> jax.Array:
    """A function of the parameters, with a constant in its place where the condition is true."""
    constant = jnp.zeros_like(of_params).at[0].set(value)
    return jnp.where(condition, constant, of_params)
