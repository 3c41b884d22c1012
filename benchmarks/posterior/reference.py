"""What the samplers of the posterior benchmark are held against: exact draws, or long NUTS."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import jax
from jax import random

from numpyro.infer import MCMC, NUTS, Predictive

from benchmarks.common.distributions import Empirical, Law
from benchmarks.common.judge import worst
from benchmarks.common.stopwatch import Stopwatch
from benchmarks.posterior.models import Draws, Problem, log_joint
from numpyro_sumo.diagnostics.arviz import summarise, to_arviz

NUM_CHAINS = 4
R_HAT_BAR = 1.01
#: A reference depends on nothing but its model: not on the seed of the run either.
SEED = 0
#: Draws that are kept of a long run, those between them left out.
MOST_KEPT = 40_000


class Reference(NamedTuple):
    """Draws by quantity, of shape ``(chain, draw)``, the law of each, and how they came about.

    ``told`` is in plain values: ``title``, ``seconds``, ``draws`` in all before thinning, and of
    chains their worst ``r_hat`` and ``ess``.
    """

    draws: Draws
    laws: dict[str, Law]
    told: dict[str, Any]


def reference_of(
    problem: Problem, num_exact: int, ess_bar: float | None, folder: Path
) -> Reference:
    """The reference of a problem; that by NUTS is kept in ``folder`` for the next time.

    :param num_exact: draws of a model that can be drawn from as it is.
    :param ess_bar: the bulk ESS that chains go on for, in every quantity, with R-hat at its bar;
        None is a short run that is not kept.
    """
    if problem.laws is not None:
        return exact_reference(problem, num_exact)
    if ess_bar is None:
        return chains_reference(problem, None)
    made_so = repr((_told(problem), SEED, ess_bar, R_HAT_BAR, MOST_KEPT))
    file = folder / "checkpoints" / f"reference_{problem.name}_{ess_bar:.0f}.npz"
    if file.exists():
        with np.load(file) as kept:
            if str(kept["made_so"]) == made_so:
                draws = dict(zip(kept["names"].tolist(), kept["draws"]))
                return _of_chains(draws, json.loads(str(kept["told"])))
    reference = chains_reference(problem, ess_bar)
    file.parent.mkdir(parents=True, exist_ok=True)
    names, values = list(reference.draws), np.stack(list(reference.draws.values()))
    partial = file.with_suffix(".partial.npz")
    np.savez(partial, names=names, draws=values, told=json.dumps(reference.told), made_so=made_so)
    partial.replace(file)
    return reference


def exact_reference(problem: Problem, num_draws: int) -> Reference:
    """Ancestral draws, and the laws that are known."""
    assert problem.laws is not None
    draw = jax.jit(Predictive(problem.model, num_samples=num_draws, parallel=True))
    with Stopwatch() as watch:
        sites = jax.block_until_ready(draw(random.key(SEED)))
    told = {"title": "exact draws", "seconds": watch.seconds, "draws": num_draws}
    return Reference(in_chains(problem, sites), problem.laws, told)


def in_chains(problem: Problem, sites: dict[str, jax.Array]) -> Draws:
    """Quantities of independent draws, as if these were of chains."""
    by_chain = {
        name: np.asarray(values).reshape(NUM_CHAINS, -1, *np.shape(values)[1:])
        for name, values in sites.items()
    }
    return problem.quantities(by_chain)


def chains_reference(problem: Problem, ess_bar: float | None) -> Reference:
    """NUTS on other coordinates, until R-hat and bulk ESS of every quantity are at their bars."""
    chains = problem.chains
    assert chains is not None
    hasty = ess_bar is None
    if hasty:
        chains = chains._replace(warmup=100, more=100, most=1)
    kernel = NUTS(
        chains.model,
        target_accept_prob=chains.target_accept,
        dense_mass=chains.dense_mass,
        max_tree_depth=5 if hasty else 10,
    )
    mcmc = MCMC(
        kernel,
        num_warmup=chains.warmup,
        num_samples=chains.more,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=hasty,  # slower, but warm-up and draws are compiled together
    )
    parts: list[Draws] = []
    divergences, r_hat, ess = 0, np.inf, 0.0
    bar = tqdm(total=int(ess_bar or 0), desc=f"{problem.title}: reference", unit="ESS")
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
            r_hat, ess = _convergence(draws, problem.telling)
            bar.set_postfix_str(f"R-hat {r_hat:.3f}", refresh=False)
            bar.update(int(ess) - bar.n)
            if ess_bar is not None and r_hat <= R_HAT_BAR and ess >= ess_bar:
                break
    told: dict[str, Any] = {
        "title": "NUTS, other coordinates",
        "seconds": watch.seconds,
        "draws": next(iter(draws.values())).size,
        "divergences": divergences,
        "r_hat": r_hat,
        "ess": ess,
    }
    every = max(1, told["draws"] // MOST_KEPT)
    return _of_chains({name: values[:, ::every] for name, values in draws.items()}, told)


def _convergence(draws: Draws, first: tuple[str, ...]) -> tuple[float, float]:
    """The largest R-hat and the least bulk ESS; only of the ``first`` if those are not well yet."""
    some = _worst_of({name: draws[name] for name in first})
    return some if some[0] > R_HAT_BAR else _worst_of(draws)


def _worst_of(draws: Draws) -> tuple[float, float]:
    summary = summarise(to_arviz(draws))
    r_hats = {name: line["r_hat"] for name, line in summary.items()}
    sizes = {name: line["ess_bulk"] for name, line in summary.items()}
    return worst(r_hats)["value"], worst(sizes, least=True)["value"]


def _of_chains(draws: Draws, told: dict[str, Any]) -> Reference:
    return Reference(draws, {name: Empirical(values) for name, values in draws.items()}, told)


def _told(problem: Problem) -> str:
    """All that a reference by chains depends on."""
    assert problem.chains is not None
    options = [value for value in problem.chains if not callable(value)]
    names = problem.labels, sorted(problem.logged)
    densities = [log_joint(model, problem.args) for model in (problem.model, problem.chains.model)]
    return f"{problem.name} {options} {names} {densities}"
