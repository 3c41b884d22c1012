"""Proposals of a guide for chains that another kernel moves between them."""

import numpy as np

import jax
from jax import random

from numpyro_sumo.background import CompiledSoon
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.proposals import proposal_of

from .work import Weighed, Work

#: Proposals that each chain considers in a row.
_IN_A_ROW = 4


class GuideMoves:
    r"""Metropolis–Hastings with draws of the guide as proposals, for states of chains.

    .. math::
        P(\text{accept } z') = \min(1, w' / w), \qquad w = p(x, z) / \hat q(z)

    The weights of proposals are those that they were drawn with. That of a state z, which another
    kernel has moved, is estimated from new draws of the auxiliary sites given z. This leaves the
    posterior invariant; see :class:`~numpyro_sumo.IndependenceMetropolis`. Each proposal is used
    once; when all are, others are drawn.

    :param weighed: the guide's params, with draws and their weights.
    """

    def __init__(self, work: Work, rng_key: jax.Array, weighed: Weighed):
        self._work, self._params = work, weighed.params
        *keys, numpy_key = random.split(rng_key, 3)
        self._keys = keys
        self._rng = np.random.default_rng(int(random.bits(numpy_key)))
        guide: AutoHierarchicalNormal = work.programs.guide  # type: ignore[assignment]
        whitening, num_chains = work.placement.whitening, work.options.num_chains
        of_one = lambda latents: whitening.whiten(guide.unconstrained(latents))
        self._whitened = CompiledSoon(jax.vmap(of_one), weighed.draws.latents)
        programs = work.programs.replace(params=weighed.params)
        proposal = proposal_of(programs, *work.particles)

        def log_weights(rng_key: jax.Array, y: jax.Array) -> jax.Array:
            latents = jax.vmap(lambda each: guide.constrained(whitening.color(each)))(y)
            return jax.vmap(proposal.redraw)(random.split(rng_key, num_chains), latents)

        states = np.zeros((num_chains, work.placement.dim), whitening.loc.dtype)
        self._log_weights = CompiledSoon(log_weights, rng_key, states)
        self._take(weighed)

    def __call__(self, states: np.ndarray) -> np.ndarray:
        """States y after some proposals to each chain, shape ``(chain, d)``."""
        num_chains = len(states)
        if self._next + _IN_A_ROW * num_chains > len(self._proposed):
            self._take(self._work.weighed(self._new_key(0), self._params))
        states = states.copy()
        current = np.array(self._log_weights(self._new_key(1), states), np.float64)
        for _ in range(_IN_A_ROW):
            at = slice(self._next, self._next + num_chains)
            self._next += num_chains
            proposed, weights = self._proposed[at], self._proposed_log_weights[at]
            accepted = np.log(self._rng.uniform(size=num_chains)) < weights - current
            states[accepted] = proposed[accepted]
            current[accepted] = weights[accepted]
        return states

    def _take(self, weighed: Weighed) -> None:
        """Starts with new proposals."""
        self._proposed = np.asarray(self._whitened(weighed.draws.latents))
        self._proposed_log_weights = weighed.log_weights
        self._next = 0

    def _new_key(self, stream: int) -> jax.Array:
        self._keys[stream], used = random.split(self._keys[stream])
        return used
