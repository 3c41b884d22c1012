"""Exact chains: of the guide's proposals, or of NUTS where these are not enough."""

from typing import NamedTuple

import numpy as np

import jax
from jax import random

from numpyro_sumo._compat import jit_once
from numpyro_sumo.certificates import Certificate
from numpyro_sumo.mcmc.chain_of_draws import chain_of_draws

from .alternation import GuideMoves
from .clock import Clock
from .convergence import Summary, summarise_chains, wanders
from .nuts import NUTS_ALONE as NUTS
from .work import Weighed, Work

#: Draws of each chain of NUTS between two looks at R-hat and ESS.
_MORE = 1_000

#: NUTS goes on to so many times the least ESS, for sds within a few percent, if that takes no more
#: than this share of the budget.
_MANY, _EXTRA = 5.0, 0.1

#: Weights up to this k-hat have a finite variance, so that no state is kept for very long.
_LARGEST_K = 0.5

#: Names of kernels.
GUIDE = "proposals of the guide"
BOTH = "NUTS, alternated with proposals of the guide"

#: Chains of NUTS with such an R-hat may be in parts of the posterior that the guide misses.
_APART = 1.1

#: Fewer accepted proposals than this are not worth their evaluation.
_FEW_ACCEPTED = 0.02


class Chains(NamedTuple):
    """Draws of chains, how they were made, and figures of them.

    :param draws: latent and deterministic sites, shape ``(chain, draw, ...)``.
    :param kernel: what made them.
    :param acceptance: of the guide's proposals.
    :param summary: of the latent sites.
    :param nuts: of chains of NUTS alone; None if there was no time.
    :param spread: of these; see :class:`~.nuts.NutsDraws`.
    """

    draws: dict[str, np.ndarray]
    kernel: str
    acceptance: float
    summary: Summary
    nuts: Summary | None
    spread: float


def correct(
    work: Work, weighed: Weighed, certificate: Certificate, rng_key: jax.Array, clock: Clock
) -> Chains:
    """Chains for which the posterior is invariant, converged if the time suffices.

    They are those of the guide's proposals, which are weighed already, if these can be relied on.
    Otherwise NUTS goes on, alternated with proposals of the guide unless hardly any is accepted.
    """
    options, interruptions = work.options, len(clock.interrupted)
    wanted = options.max_r_hat, options.min_ess
    pick_key, move_key = random.split(rng_key)
    rng = np.random.default_rng(int(random.bits(pick_key)))
    chosen, acceptance = chain_of_draws(rng, certificate.log_weights, options.num_chains)
    of_guide = {name: np.asarray(values)[chosen] for name, values in certificate.draws.items()}
    guide = summarise_chains({name: of_guide[name] for name in certificate.latents})
    nuts, spread = work.nuts_alone()
    by_guide = Chains(of_guide, GUIDE, acceptance, guide, nuts, spread)
    relied_on = certificate.pareto_k <= _LARGEST_K and guide.is_fine(*wanted)
    if clock.is_over or (relied_on and not is_apart(nuts)):
        return by_guide
    if nuts is not None and wanders(nuts, spread) and not relied_on:
        return by_guide
    kernel, move, summary = NUTS, None, nuts
    nuts_is_fine = nuts is not None and nuts.is_fine(*wanted) and not nuts.diverges
    if acceptance > _FEW_ACCEPTED and not nuts_is_fine:
        kernel, move, summary = BOTH, GuideMoves(work, move_key, weighed), None
    work.nuts.continue_as(kernel)
    enough, before = (options.max_r_hat, _MANY * options.min_ess), clock.left
    while summary is None or not summary.is_fine(*enough):
        is_fine = summary is not None and summary.is_fine(*wanted)
        long = before - clock.left > _EXTRA * clock.budget
        if clock.is_over or len(clock.interrupted) > interruptions or (is_fine and long):
            break
        work.nuts.run(_MORE, clock, NUTS, move=move)
        found = work.nuts.draws
        summary = found and summarise_chains(found.latents, found.diverging)
    if kernel == NUTS:
        nuts, spread = work.nuts_alone()
    if summary is None or (not summary.is_fine(*wanted) and _is_worse(summary, guide)):
        return by_guide._replace(nuts=nuts, spread=spread)
    return Chains(_draws_of_nuts(work), kernel, acceptance, summary, nuts, spread)


def is_apart(nuts: Summary | None) -> bool:
    """Whether chains of NUTS that began at different places have not come together."""
    return nuts is not None and nuts.worst[1] > _APART


def _is_worse(nuts: Summary, guide: Summary) -> bool:
    return nuts.worst[1] > guide.worst[1] and guide.worst[3] > nuts.worst[3]


def _draws_of_nuts(work: Work) -> dict[str, np.ndarray]:
    """Draws of NUTS with deterministic sites."""
    latents = work.nuts.draws.latents  # type: ignore[union-attr]
    shape = next(iter(latents.values())).shape[:2]
    flat = {name: values.reshape(-1, *values.shape[2:]) for name, values in latents.items()}
    complete = jit_once(work.with_deterministic)(flat)
    return {n: np.asarray(leaf).reshape(*shape, *leaf.shape[1:]) for n, leaf in complete.items()}
