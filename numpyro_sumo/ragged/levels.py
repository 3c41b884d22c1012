"""Sums of log-weights that come in blocks, by level."""

from dataclasses import dataclass
from functools import partial
import math
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from numpyro_sumo.estimators import importance_weighted_bound

from .particle import PATH


class LevelSums(NamedTuple):
    """What is kept of log-weights that come in blocks, 2 to the power of a level of them.

    All of it is relative to a reference, so that float32 sums of many keep their digits far from
    zero.

    :param log_sums: log of the sum of the weights in block 0 (row 0) and in blocks
        :math:`2^{k-1} … 2^k - 1` (row k), less the reference: shape
        ``(1 + max_level, num_data, ...)``. Rows beyond the datum's level are not to be read.
    :param bounds: sum of the blocks' importance-weighted bounds, each less the reference, over all
        blocks of a datum: shape ``(num_data, ...)``.
    :param bounds_with_given: the same, where the log-weight of the draw that generated the datum is
        among the particles of each block; None without such a draw.
    :param reference: log of the sum of the weights in block 0, or 0 where that is not finite; no
        gradient flows through it. Shape ``(num_data, ...)``.
    """

    log_sums: jax.Array
    bounds: Any
    bounds_with_given: Any
    reference: jax.Array


@dataclass(frozen=True)
class Levels:
    """Keeps log-sums of blocks by level, and sums of bounds over all; see :class:`~.kept.Kept`.

    :param num_rows: one more than the largest possible level.
    :param views: names of the views; those in ``head_only`` have the log-sums of the first two
        blocks alone.
    :param with_given: whether draws that generated the data are among the particles.
    """

    num_rows: int
    views: tuple[str, ...]
    head_only: frozenset[str]
    with_given: bool

    def begin(self, pile, num_data, given):
        first = pile.log_weights
        first_block = jnp.moveaxis(first[:num_data], 1, 0)
        reference = importance_weighted_bound(first_block) + math.log(len(first_block))
        reference = jnp.where(jnp.isfinite(reference), reference, 0.0)
        log_sums = jnp.full((self.num_rows, *reference.shape), -jnp.inf, first.dtype)
        bounds = jnp.zeros_like(reference)
        with_given = bounds if self.with_given else None
        nothing = LevelSums(log_sums, bounds, with_given, reference)
        return self.add(nothing, pile, given), None

    def add(self, kept, pile, given):
        slots = pile.slots
        one = next(iter(given.values())) if given else None  # views of the same numbers
        values = self._relative(pile.log_weights, one, kept.reference, slots)
        row = self._row(slots.block)
        block_sums = slots.mask(values.log_sums, -jnp.inf)
        top = kept.log_sums.at[row, slots.datum].max(block_sums)
        shift = jnp.where(jnp.isneginf(top), 0.0, top)
        terms = jnp.exp(block_sums - shift[row, slots.datum])
        sums = jnp.exp(kept.log_sums - shift).at[row, slots.datum].add(terms)
        add = lambda total, values: total.at[slots.datum].add(slots.mask(values))
        return LevelSums(
            shift + jnp.log(sums),
            add(kept.bounds, values.bounds),
            None if one is None else add(kept.bounds_with_given, values.bounds_with_given),
            kept.reference,
        )

    def by_view(self, kept):
        head = LevelSums(kept.log_sums[:2], None, None, kept.reference)
        return {view: head if view in self.head_only else kept for view in self.views}

    def nothing_behind(self, kept, given, views):
        return jax.tree.map(jnp.zeros_like, given)

    def pull_back(self, cotangents, kept, pile, given, views, behind):
        values, slots = pile.log_weights, pile.slots
        of_slots, of_given = {}, dict(behind)
        row = self._row(slots.block)
        whole = lambda cotangent: slots.mask(cotangent[slots.datum])
        for view in views:
            relative = partial(self._relative, reference=kept.reference, slots=slots, view=view)
            of_view = cotangents[view]
            blocks, pull_back = jax.vjp(relative, values, given.get(view))
            # A log-sum's derivative in one of its terms is that term's share.
            of_rows = (
                jnp.zeros_like(kept.log_sums).at[: len(of_view.log_sums)].set(of_view.log_sums)
            )
            log_share = blocks.log_sums - kept.log_sums[row, slots.datum]
            share = jnp.exp(jnp.where(jnp.isneginf(blocks.log_sums), -jnp.inf, log_share))
            of_blocks = jax.tree.map(jnp.zeros_like, blocks)._replace(
                log_sums=slots.mask(of_rows[row, slots.datum] * share)
            )
            if view not in self.head_only:
                of_blocks = of_blocks._replace(bounds=whole(of_view.bounds))
                if view in given:
                    with_given = whole(of_view.bounds_with_given)
                    of_blocks = of_blocks._replace(bounds_with_given=with_given)
            of_slots[view], here = pull_back(of_blocks)
            if view in given:
                of_given[view] = of_given[view] + here
        return of_slots, of_given

    def pull_back_first(self, cotangents, kept, pile, given, behind, besides):
        return self.pull_back(cotangents, kept, pile, given, self.views, behind)

    def _relative(self, values, given, reference, slots, view=None):
        """Log-sums and bounds of blocks, from log-weights of shape ``(slots, draws, ...)``."""
        rows, reference = jnp.moveaxis(values, 1, 0), reference[slots.datum]
        bounds = importance_weighted_bound(rows, score_free=view == PATH)
        with_given = None
        if given is not None and view not in self.head_only:
            rows = jnp.concatenate([given[slots.datum][None], rows])
            with_given = importance_weighted_bound(rows) - reference
        return LevelSums(
            bounds + math.log(values.shape[1]) - reference, bounds - reference, with_given, None
        )

    def _row(self, block):
        """Block 0 is row 0, block 1 row 1, blocks 2 and 3 row 2, blocks 4 to 7 row 3, and so on."""
        return 32 - lax.clz(block)
