"""Rounds of training, until the guide is good, a round gains nothing, or the time is over."""

import numpy as np

import jax
from jax import random

from .clock import Clock
from .work import Weighed, Work, good_kl

#: Share of the budget that is kept for certificate and chains.
_KEPT = 0.3

#: A guide is good when its KL is small, and the weights, up to this k-hat, have a finite variance.
_SMALL_K = 0.5

#: A round that gains fewer nats than this, two standard errors added, is the last one.
_WORTH = 0.01


def learn(work: Work, rng_key: jax.Array, clock: Clock) -> Weighed:
    """Trains the guide of a fit, and returns the best params with their weighted draws.

    ELBOs before and after a round are compared draw by draw, with the same random numbers. Each
    round takes twice as many steps as the one before.
    """
    weigh_key, train_key = random.split(rng_key)
    deadline, dim = _KEPT * clock.budget, work.placement.dim
    interruptions = len(clock.interrupted)
    best = work.weighed(weigh_key, work.params)
    while not _is_good(best, dim) and clock.left > deadline:
        train_key, round_key = random.split(train_key)
        plan = work.next_steps, work.options.learning_rate
        done = work.trainer.run(round_key, work.params, plan, clock, deadline)
        work.steps += done.steps
        work.retreats += done.retreats
        new = work.weighed(weigh_key, done.params)
        gain, error = _gain(best, new)
        if gain > 0.0:
            best, work.params = new, done.params
        is_short = done.steps < work.next_steps
        work.next_steps *= 2
        if len(clock.interrupted) > interruptions or is_short or gain + 2.0 * error < _WORTH:
            break
    return best


def _is_good(weighed: Weighed, dim: int) -> bool:
    return weighed.kl <= good_kl(dim) and weighed.pareto_k <= _SMALL_K


def _gain(before: Weighed, after: Weighed) -> tuple[float, float]:
    """By how much the ELBO is larger, in nats, with its standard error."""
    gains = after.log_weights - before.log_weights
    finite = np.isfinite(gains)
    if not finite.all():  # draws outside the support, before or after
        more = np.isfinite(after.log_weights).sum() - np.isfinite(before.log_weights).sum()
        if more != 0:
            return float(more) * np.inf, 0.0
        gains = gains[finite]
    return float(gains.mean()), float(gains.std() / np.sqrt(len(gains)))
