"""The increments of a bound, draw by draw beyond those that are always made, weighed and summed."""

from dataclasses import dataclass
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators import importance_weighted_bound
from numpyro_sumo.estimators.control_variate import expected_increment, log_ratio_of
from numpyro_sumo.estimators.log_sums import as_column, log_add, running_log_sums
from numpyro_sumo.estimators.roulette import increment
from numpyro_sumo.stopping_times import StoppingTime

from .slots import Slots


class TailSums(NamedTuple):
    """What is kept of log-weights whose number is drawn, to begin with those that always are.

    :param always: log-weights of the draws that are always made, shape
        ``(num_always, num_data, ...)``.
    :param tail: what the others add to the bound over these, each increment over the probability
        that it is drawn: shape ``(num_data, ...)``. None where no draw is always made.
    :param tail_with_given: the same, where the log-weight of the draw that generated the datum is
        among the particles; what is expected of the increments is not left to chance. None without
        such a draw.
    """

    always: jax.Array
    tail: Any
    tail_with_given: Any


class _State(NamedTuple):
    """How far the sums have come; all relative to the reference.

    ``log_sums`` and ``tails`` have a leading axis for the series, without the given draws and with
    them. ``log_ratio`` is that of the given weight to the mean of the fresh ones, or None.
    """

    log_sums: jax.Array
    tails: jax.Array
    log_ratio: Any


class _Sums(NamedTuple):
    """What is kept: ``entering`` has the log-sums of the datum that goes on into each pile."""

    always: jax.Array
    reference: jax.Array
    first: _State
    now: _State
    entering: jax.Array


@dataclass(frozen=True)
class Tails:
    """Keeps sums of increments; see :class:`~.kept.Kept`.

    :param num_always: draws of each datum that are always made: those of the head.
    :param num_piles: the largest possible number of piles in the loop.
    :param stopping_time: of the number of draws beyond.
    :param views: names of the views; of those in ``head_only`` the always drawn are kept alone.
    :param with_given: whether draws that generated the data are among the particles.
    """

    num_always: int
    num_piles: int
    stopping_time: StoppingTime
    views: tuple[str, ...]
    head_only: frozenset[str]
    with_given: bool

    def begin(self, pile, num_data, given):
        always, _ = self._parted(pile.log_weights, num_data)
        one = next(iter(given.values())) if given else None  # views of the same numbers
        reference = importance_weighted_bound(always) if self.num_always else one
        reference = jnp.where(jnp.isfinite(reference), reference, 0.0)
        over = lambda values, one: self._over_first(values, one, pile.slots, reference)
        state, pull_back = jax.vjp(over, pile.log_weights, one)
        entering = jnp.zeros((self.num_piles, len(state.tails), *always.shape[2:]), always.dtype)
        return _Sums(always, reference, state, state, entering), pull_back

    def add(self, kept, pile, given):
        entering = kept.entering.at[pile.index].set(kept.now.log_sums[:, pile.slots.datum[0]])
        now = self._over(kept.now, pile.log_weights[:, 0], pile.slots, kept.reference)
        return kept._replace(now=now, entering=entering)

    def by_view(self, kept):
        tails = list(kept.now.tails)
        tail = tails.pop(0) if self.num_always else None
        whole = TailSums(kept.always, tail, tails.pop() if self.with_given else None)
        head = TailSums(kept.always, None, None)
        return {view: head if view in self.head_only else whole for view in self.views}

    def nothing_behind(self, kept, given, views):
        return {view: jax.tree.map(jnp.zeros_like, kept.now) for view in views}

    def pull_back(self, cotangents, kept, pile, given, views, behind):
        # All data but the first begin in this pile, where they had what the first pile left them.
        datum = pile.slots.datum[0]
        before = kept.first.log_sums.at[:, datum].set(kept.entering[pile.index])
        over = lambda values, state: self._over(state, values, pile.slots, kept.reference)
        _, pull_back = jax.vjp(over, pile.log_weights[:, 0], kept.first._replace(log_sums=before))
        of_slots, of_states = {}, {}
        for view in views:
            state = behind[view]._replace(tails=self._of_tails(cotangents[view]))
            values, of_states[view] = pull_back(state)
            of_slots[view] = values[:, None]
        return of_slots, of_states

    def pull_back_first(self, cotangents, kept, pile, given, behind, besides):
        of_slots, of_given = {}, jax.tree.map(jnp.zeros_like, given)
        for view in self.views:
            of_view = cotangents[view]
            of_slots[view] = jnp.zeros_like(pile.log_weights)
            if view not in self.head_only:
                state = behind[view]._replace(tails=self._of_tails(of_view))
                of_slots[view], here = besides(state)
                if view in given:
                    of_given[view] = here
            of_always = of_view.always.reshape(-1, 1, *of_view.always.shape[2:])
            of_slots[view] = of_slots[view].at[: len(of_always)].add(of_always)
        return of_slots, of_given

    def _of_tails(self, of_view):
        """Cotangents of both series."""
        both = (of_view.tail, of_view.tail_with_given)
        return jnp.stack([cotangent for cotangent in both if cotangent is not None])

    def _parted(self, log_weights, num_data):
        """The always drawn, shape ``(num_always, num_data, ...)``, and all others, in one axis."""
        rest = log_weights.shape[2:]
        size = self.num_always * num_data
        return log_weights[:size].reshape(-1, num_data, *rest), log_weights[size:, 0]

    def _over_first(self, log_weights, given, slots, reference):
        """The state after the first pile."""
        always, others = self._parted(log_weights, len(reference))
        log_sums, log_ratio, expected = [], None, 0.0
        if self.num_always:
            bound = importance_weighted_bound(always - reference)
            log_sums.append(bound + math.log(self.num_always))
        if given is not None:
            given = given - reference
            log_sums.append(log_add(given, log_sums[0]) if self.num_always else given)
        if given is not None and self.num_always:
            log_ratio = log_ratio_of(given, bound)
            expected = expected_increment(log_ratio, self.num_always, self.stopping_time.cap)
        log_sums = jnp.stack(log_sums)
        # What is expected of all increments stands here; of those that are drawn it is taken away.
        tails = jnp.zeros_like(log_sums).at[-1].add(expected)
        state = _State(log_sums, tails, log_ratio)
        if not len(others):
            return state
        of_others = jax.tree.map(lambda leaf: leaf[-len(others) :], slots)
        return self._over(state, others, of_others, reference)

    def _over(self, state: _State, values: jax.Array, slots: Slots, reference: jax.Array) -> _State:
        """The state after some slots more, in which the draws of a datum follow each other."""
        datum, place = slots.datum, jnp.arange(len(slots.datum))
        begins = (place == 0) | (datum != jnp.roll(datum, 1))
        ends = (place == len(place) - 1) | (datum != jnp.roll(datum, -1))
        terms = slots.mask(values - reference[datum], -jnp.inf)
        running = running_log_sums(terms, begins)
        earlier = jnp.where(as_column(begins, terms), -jnp.inf, jnp.roll(running, 1, axis=0))
        before = log_add(state.log_sums[:, datum], earlier)
        increments = self._increments(before, terms, slots, state.log_ratio)
        totals = jnp.full_like(reference, -jnp.inf)
        totals = totals.at[jnp.where(ends, datum, len(reference))].set(running, mode="drop")
        return _State(
            log_add(state.log_sums, totals),
            state.tails.at[:, datum].add(jax.vmap(slots.mask)(increments)),
            state.log_ratio,
        )

    def _increments(self, before, terms, slots, log_ratio):
        """What each slot adds to the bound of each series, over the probability that it is drawn.

        :param before: log-sums of the draws that come before each, by series.
        :param terms: log-weights of the slots.
        """
        # Where the weights that are always drawn are all zero, so is the estimate.
        before = jnp.where(jnp.isneginf(before), 0.0, before)
        num_fresh = as_column(slots.block, terms).astype(terms.dtype)
        num_given = jnp.arange(len(before)) if self.num_always else jnp.ones(1)
        counts = num_fresh + num_given.reshape(-1, *[1] * terms.ndim).astype(terms.dtype)
        increments = increment(before, terms, counts)
        if log_ratio is not None:
            expected = expected_increment(log_ratio[slots.datum], num_fresh, 1)
            increments = increments.at[-1].add(-expected)
        weights = jnp.asarray(1.0 / self.stopping_time.survival, terms.dtype)
        return as_column(weights[slots.block - self.num_always], terms) * increments
