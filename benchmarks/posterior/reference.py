"""The references of the posterior benchmark: exact draws, or long chains of NUTS."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import jax
from jax import random

from numpyro.infer import MCMC, NUTS, Predictive

from benchmarks.common.distributions import Empirical, Univariate
from benchmarks.common.files import write_whole
from benchmarks.common.judge import worst
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.posterior.problems import Draws, Problem, log_joint
from numpyro_sumo.diagnostics.arviz import arviz_data, summarise

NUM_CHAINS = 4
R_HAT_LIMIT = 1.01
#: A reference depends on its model only, not on the seed of the run.
SEED = 0
#: Long chains are thinned to at most so many draws.
MOST_KEPT = 40_000


class Reference(NamedTuple):
    """Reference draws and distributions of a problem.

    :param draws: arrays of shape ``(chain, draw)`` by quantity.
    :param exact: the distribution of each quantity: exact, or empirical.
    :param info: plain values: ``title``, ``seconds``, ``draws`` before thinning; for chains also
        ``divergences`` and their worst ``r_hat`` and ``ess``.
    """

    draws: Draws
    exact: dict[str, Univariate]
    info: dict[str, Any]


def reference_of(
    problem: Problem, num_exact: int, min_ess: float | None, folder: Path
) -> Reference:
    """The reference of a problem; one by NUTS is saved in ``folder`` and read from there.

    :param num_exact: exact draws, where the problem has them.
    :param min_ess: chains run until every quantity has this bulk ESS and an R-hat within its
        limit; None makes a short run that is not saved.
    """
    if problem.exact is not None:
        return exact_reference(problem, num_exact)
    if min_ess is None:
        return chains_reference(problem, None)
    config = repr((_config(problem), SEED, min_ess, R_HAT_LIMIT, MOST_KEPT))
    file = folder / "checkpoints" / f"reference_{problem.name}_{min_ess:.0f}.npz"
    if file.exists():
        with np.load(file) as saved:
            if "config" in saved and str(saved["config"]) == config:
                draws = dict(zip(saved["names"].tolist(), saved["draws"]))
                return _of_chains(draws, json.loads(str(saved["info"])))
    reference = chains_reference(problem, min_ess)
    file.parent.mkdir(parents=True, exist_ok=True)
    names, values = list(reference.draws), np.stack(list(reference.draws.values()))
    content = io.BytesIO()
    np.savez(content, names=names, draws=values, info=json.dumps(reference.info), config=config)
    write_whole(file, content.getbuffer())
    return reference


def exact_reference(problem: Problem, num_draws: int) -> Reference:
    """Exact draws, and the exact distributions."""
    assert problem.exact is not None
    draw = jax.jit(Predictive(problem.model, num_samples=num_draws, parallel=True))
    with Stopwatch() as watch:
        sites = jax.block_until_ready(draw(random.key(SEED)))
    info = {"title": "exact draws", "seconds": watch.seconds, "draws": num_draws}
    return Reference(in_chains(problem, sites), problem.exact, info)


def in_chains(problem: Problem, sites: dict[str, jax.Array]) -> Draws:
    """Quantities of independent draws, in the shape ``(chain, draw)`` of MCMC."""
    by_chain = {
        name: np.asarray(values).reshape(NUM_CHAINS, -1, *np.shape(values)[1:])
        for name, values in sites.items()
    }
    return problem.quantities(by_chain)


def chains_reference(problem: Problem, min_ess: float | None) -> Reference:
    """NUTS on a reparameterised model, until R-hat and bulk ESS of all quantities suffice."""
    chains = problem.chains
    assert chains is not None
    is_quick = min_ess is None
    if is_quick:
        chains = chains._replace(warmup=100, more=100, most=1)
    kernel = NUTS(
        chains.model,
        target_accept_prob=chains.target_accept,
        dense_mass=chains.dense_mass,
        max_tree_depth=5 if is_quick else 10,
    )
    mcmc = MCMC(
        kernel,
        num_warmup=chains.warmup,
        num_samples=chains.more,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=is_quick,  # slower steps, but one compilation for warm-up and draws
    )
    parts: list[Draws] = []
    divergences, r_hat, ess = 0, np.inf, 0.0
    bar = tqdm(total=int(min_ess or 0), desc=f"{problem.title}: reference", unit="ESS")
    with Stopwatch() as watch, bar:
        mcmc.warmup(random.key(SEED), *problem.args, extra_fields=("diverging",))
        for _ in range(chains.most):
            state = mcmc.post_warmup_state
            mcmc.run(state.rng_key, *problem.args, extra_fields=("diverging",))
            parts.append(problem.quantities(mcmc.get_samples(group_by_chain=True)))
            divergences += int(mcmc.get_extra_fields()["diverging"].sum())
            mcmc.post_warmup_state = mcmc.last_state
            draws = {
                name: np.concatenate([part[name] for part in parts], axis=1) for name in parts[0]
            }
            r_hat, ess = _convergence(draws, problem.shown)
            bar.set_postfix_str(f"R-hat {r_hat:.3f}", refresh=False)
            bar.update(int(ess) - bar.n)
            if min_ess is not None and r_hat <= R_HAT_LIMIT and ess >= min_ess:
                break
    info: dict[str, Any] = {
        "title": "NUTS, reparameterised",
        "seconds": watch.seconds,
        "draws": next(iter(draws.values())).size,
        "divergences": divergences,
        "r_hat": r_hat,
        "ess": ess,
    }
    every = max(1, info["draws"] // MOST_KEPT)
    return _of_chains({name: values[:, ::every] for name, values in draws.items()}, info)


def _convergence(draws: Draws, first: tuple[str, ...]) -> tuple[float, float]:
    """The largest R-hat and least bulk ESS; of ``first`` alone while their R-hat is too large."""
    some = _worst_of({name: draws[name] for name in first})
    return some if some[0] > R_HAT_LIMIT else _worst_of(draws)


def _worst_of(draws: Draws) -> tuple[float, float]:
    summary = summarise(arviz_data({"posterior": draws}))
    r_hats = {name: line["r_hat"] for name, line in summary.items()}
    sizes = {name: line["ess_bulk"] for name, line in summary.items()}
    return worst(r_hats)["value"], worst(sizes, least=True)["value"]


def _of_chains(draws: Draws, info: dict[str, Any]) -> Reference:
    return Reference(draws, {name: Empirical(values) for name, values in draws.items()}, info)


def _config(problem: Problem) -> str:
    """Everything that a reference by chains depends on."""
    assert problem.chains is not None
    options = [value for value in problem.chains if not callable(value)]
    names = problem.labels, sorted(problem.logged)
    densities = [log_joint(model, problem.args) for model in (problem.model, problem.chains.model)]
    return f"{problem.name} {options} {names} {densities}"
