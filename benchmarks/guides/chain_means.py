"""Posterior means by chains that propose from trained guides, beside the exact ones."""

from typing import Any, NamedTuple
import warnings

import numpy as np

import jax
from jax import random

from numpyro.infer import MCMC

from benchmarks.common.stopwatch import Stopwatch
from benchmarks.guides.guides import KINDS, train
from benchmarks.guides.models import models
from benchmarks.guides.studies import NUM_CHAINS, key_of
from numpyro_sumo import IndependenceMetropolis
from numpyro_sumo.diagnostics.arviz import arviz_data, summarise


class Size(NamedTuple):
    """How many draws are taken.

    :param num_warmup: of each chain.
    :param num_draws: of each chain, after warm-up.
    :param share: of the guides' training steps.
    """

    num_warmup: int = 500
    num_draws: int = 2_000
    share: float = 1.0


QUICK = Size(50, 250, 0.2)


def mean_jobs(quick: bool) -> list[tuple[str, str, str]]:
    """The cells of this part: part, model and kind of guide."""
    if quick:
        return [("chain_means", "normal_gamma", "AutoNormal")]
    return [("chain_means", model, kind) for kind in KINDS for model in models()]


def compare_means(model: str, kind: str, seed: int, size: Size) -> dict[str, Any]:
    """Train a guide, run chains of IndependenceMetropolis, and compare their means.

    :param kind: of the guide, which is trained with the key of the part "evidence".
    :return: ``z``, error of each posterior mean in its Monte Carlo standard errors (MCSE); or the
        message of the error by which the guide is refused.
    """
    problem = models()[model]
    train_key, _ = random.split(key_of(seed, "evidence", model, kind))
    fit = train(problem, kind, train_key, size.share)
    mcmc = MCMC(
        IndependenceMetropolis(problem.model, fit.guide, fit.params),
        num_warmup=size.num_warmup,
        num_samples=size.num_draws,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=False,
    )
    with Stopwatch() as watch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of proposals that are seldom accepted
        key = key_of(seed, "chain_means", model, kind)
        try:
            mcmc.run(key, extra_fields=("accept_prob",))
        except ValueError as error:  # a guide without a density where it was trained to
            return {"refused": str(error), "size": size._asdict()}
        jax.block_until_ready(mcmc.last_state)
    draws = mcmc.get_samples(group_by_chain=True)
    names = list(problem.exact.mean)
    posterior = {name: np.asarray(draws[name], np.float64) for name in names}
    rows = list(summarise(arviz_data({"posterior": posterior})).values())
    mean, mcse = (np.array([row[column] for row in rows]) for column in ("mean", "mcse_mean"))
    return {
        "z": ((mean - problem.moments(names)[0]) / mcse).tolist(),
        "r_hat": max(row["r_hat"] for row in rows),
        "ess": min(row["ess_bulk"] for row in rows),
        "accept_prob": float(mcmc.get_extra_fields()["accept_prob"].mean()),
        "seconds": watch.seconds + watch.compile_seconds,
        "size": size._asdict(),
    }
