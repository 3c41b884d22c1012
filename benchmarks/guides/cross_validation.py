"""PSIS-LOO of trained guides, and of long NUTS chains on the same model."""

from functools import cache
from typing import Any, NamedTuple
import warnings

import arviz as az
import numpy as np
from scipy.special import logsumexp

import jax
from jax import random

from benchmarks.common.stopwatch import Stopwatch
from benchmarks.guides.studies import NUM_CHAINS, convergence, key_of, loo_studies
from numpyro_sumo import certify, loo, to_arviz
from numpyro_sumo.diagnostics.arviz import IS_ARVIZ_1, arviz_data
from numpyro_sumo.diagnostics.pareto_k import tail_size
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

#: The parts of the results by ArviZ 0.23 and by 1.x.
LOO_PARTS = "loo", "loo_arviz_1"

#: Each chain is cut into so many blocks, whose spread is the Monte Carlo error of the whole.
BLOCKS_OF_A_CHAIN = 5


class Size(NamedTuple):
    """How many draws are taken.

    :param certificates: of each guide, with different keys.
    :param num_samples: draws of a certificate.
    :param num_warmup: of each chain of NUTS.
    :param num_draws: of each chain, after warm-up.
    :param share: of the guides' training steps.
    """

    certificates: int = 3
    num_samples: int = 10_000
    num_warmup: int = 1_000
    num_draws: int = 2_500
    share: float = 1.0


QUICK = Size(1, 2_000, 200, 250, 0.2)


class OfChains(NamedTuple):
    """PSIS-LOO of NUTS by ArviZ, in nats.

    :param pointwise: log p(yᵢ | y₋ᵢ) of each datum.
    :param pareto_k: k-hat of each datum.
    :param monte_carlo_se: standard error of their sum over draws.
    :param r_hat: the largest of all latent numbers.
    """

    pointwise: np.ndarray
    pareto_k: np.ndarray
    monte_carlo_se: float
    r_hat: float
    seconds: float


def loo_jobs(quick: bool) -> list[tuple[str, str, str]]:
    """The cells of the part of this ArviZ: part, model and kind of guide."""
    part = LOO_PARTS[IS_ARVIZ_1]
    if quick:
        return [(part, "schools", "AutoMultivariateNormal")]
    return [(part, name, kind) for name, study in loo_studies().items() for kind in study.guides]


def compare_loo(model: str, kind: str, seed: int, size: Size) -> dict[str, Any]:
    """Train a guide, certify it with several keys, and compare each PSIS-LOO with that of NUTS.

    :param kind: of the guide.
    :return: lists over the certificates; ``nuts`` has the figures of NUTS.
    """
    study, chains = loo_studies()[model], loo_of_nuts(model, seed, size)
    train_key, certify_key = random.split(key_of(seed, "loo", model, kind))
    with Stopwatch() as training:
        fit = study.train(train_key, kind, size.share)
    rows = []
    for key in random.split(certify_key, size.certificates):
        with Stopwatch() as watch, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of k-hats, which are reported
            arguments = study.model, fit.guide, fit.params, *study.args
            certificate = certify(key, *arguments, num_samples=size.num_samples)
            found = loo(certificate)
        rows.append(
            {
                "elpd": found.elpd,
                "elpd_se": found.elpd_se,
                "monte_carlo_se": found.monte_carlo_se,
                "largest_pointwise": float(np.abs(found.pointwise - chains.pointwise).max()),
                "largest_k": float(found.pareto_k.max()),
                "large_k": int((~(found.pareto_k <= LARGEST_PARETO_K)).sum()),
                "pareto_k": certificate.pareto_k,
                "ess": certificate.ess,
                "seconds": watch.seconds + watch.compile_seconds,
            }
        )
    return {name: [row[name] for row in rows] for name in rows[0]} | {
        "nuts": _figures(chains),
        "arviz": az.__version__,
        "size": size._asdict(),
        "num_data": len(chains.pointwise),
        "train_seconds": training.seconds + training.compile_seconds,
    }


@cache
def loo_of_nuts(model: str, seed: int, size: Size) -> OfChains:
    """Run four chains on a model; the guides of one model are compared with the same chains."""
    study = loo_studies()[model]
    with Stopwatch() as watch:
        mcmc = study.chains(size.num_warmup, size.num_draws)
        mcmc.run(key_of(seed, "loo", model), *study.args)
        jax.block_until_ready(mcmc.last_state)
    groups = to_arviz(mcmc)
    log_likelihood = np.asarray(groups["log_likelihood"]["y"])
    pointwise, pareto_k = psis_loo(log_likelihood)
    blocks = np.split(log_likelihood, BLOCKS_OF_A_CHAIN, axis=1)
    totals = [psis_loo(block[[i]])[0].sum() for block in blocks for i in range(NUM_CHAINS)]
    return OfChains(
        pointwise,
        pareto_k,
        float(np.std(totals, ddof=1) / len(totals) ** 0.5),
        convergence(mcmc)[0],
        watch.seconds + watch.compile_seconds,
    )


def psis_loo(log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log p(yᵢ | y₋ᵢ) and k-hat of each datum, by ArviZ.

    Where the largest weights are equal, ArviZ 0.23 says that k-hat is ∞, and 1.x raises an error.
    There is nothing to smooth then: such a datum has the plain average, and the k-hat −∞.

    :param log_likelihood: shape ``(chain, draw, data)``, in nats.
    """
    log_weights = np.sort(-log_likelihood.reshape(-1, log_likelihood.shape[-1]), axis=0)
    count = len(log_weights)
    pointwise = np.log(count) - logsumexp(log_weights.astype(np.float64), axis=0)
    pareto_k = np.full(len(pointwise), -np.inf)
    # ArviZ's tail is shorter than that of independent draws where they are worth more than those.
    largest = log_weights[-max(tail_size(count) // 2, 1) :]
    varied = largest[-1] - largest[0] > 1e-4
    if varied.any():
        pointwise[varied], pareto_k[varied] = _by_arviz(log_likelihood[..., varied])
    return pointwise, pareto_k


def _by_arviz(log_likelihood: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # ArviZ takes the autocorrelation of the draws from the posterior group.
    groups = {"posterior": {"y": log_likelihood}, "log_likelihood": {"y": log_likelihood}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of k-hats, which are reported
        found = az.loo(arviz_data(groups), pointwise=True)
    pointwise = found.elpd_i if IS_ARVIZ_1 else found.loo_i
    return np.asarray(pointwise), np.asarray(found.pareto_k)


def _figures(chains: OfChains) -> dict[str, Any]:
    count = len(chains.pointwise)
    k_hats = chains.pareto_k[np.isfinite(chains.pareto_k)]
    return {
        "elpd": float(chains.pointwise.sum()),
        "elpd_se": float((count * chains.pointwise.var(ddof=1)) ** 0.5),
        "monte_carlo_se": chains.monte_carlo_se,
        "largest_k": float(k_hats.max(initial=-np.inf)),
        "r_hat": chains.r_hat,
        "seconds": chains.seconds,
    }
