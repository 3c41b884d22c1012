"""Train every model by every loss, and keep the parameters that each seed ends at."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
import time
from typing import Any, NamedTuple

from tqdm import tqdm

import jax
from jax import lax, random

from numpyro.infer import SVI, Trace_ELBO

from benchmarks.common.cli import add_finished
from benchmarks.common.workers import run_parallel
from benchmarks.parameters.exact import maximum_likelihood, named
from benchmarks.parameters.latent_models import GUIDES
from benchmarks.parameters.models import MODELS
from benchmarks.parameters.optimisers import RECIPE, candidates, one_of
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO

#: Losses by name, and by the expected number of draws that comes nearest.
LOSSES: dict[str, dict[int, Any]] = {
    "ELBO": {20: Trace_ELBO(20)},  # its mean does not depend on the number of draws
    "IWELBO": {draws: IWELBO(draws) for draws in (5, 10, 20, 50)},
    "SUMO": {draws: SUMO(particles) for draws, particles in {5: 1, 10: 5, 20: 15, 50: 45}.items()},
    "MultilevelSUMO": {
        draws: MultilevelSUMO(particles)
        for draws, particles in {5: 1, 10: 2, 20: 4, 50: 11}.items()
    },
}
#: The draws at which the amortised guide and the optimisers are compared.
MAIN_DRAWS = 20
#: The losses by which optimisers are compared.
UNBIASED = ("MultilevelSUMO", "SUMO")


class Cell(NamedTuple):
    """A training that is repeated over seeds."""

    model: str
    guide: str
    loss: str
    draws: int
    optimiser: str = RECIPE

    def __str__(self) -> str:
        return ", ".join(map(str, self))


def cells(quick: bool) -> list[Cell]:
    """All cells of the comparison of losses, the main number of draws first.

    :param quick: those of the main number of draws alone.
    """
    order = (MAIN_DRAWS, 5, 10, 50)
    main = [
        Cell(model, guide, loss, MAIN_DRAWS)
        for guide in GUIDES
        for model in MODELS
        for loss in LOSSES
    ]
    rest = [
        Cell(model, next(iter(GUIDES)), loss, draws)
        for draws in order[1:]
        for model in MODELS
        for loss, by_draws in LOSSES.items()
        if draws in by_draws
    ]
    return main if quick else main + rest


def optimiser_cells() -> list[Cell]:
    """All cells of the comparison of optimisers; those of one model and loss stand together."""
    return [
        Cell(model, next(iter(GUIDES)), loss, MAIN_DRAWS, name)
        for model in MODELS
        for loss in UNBIASED
        for name in candidates(1)
    ]


def add_exact(results: dict[str, Any], models: set[str]) -> None:
    """Add the exact estimates of those models that are missing in ``results``."""
    missing = [name for name in MODELS if name in models - set(results["exact"])]
    for name in tqdm(missing, unit="exact estimate", disable=not missing):
        results["exact"][name] = maximum_likelihood(MODELS[name])._asdict()


def run_missing(results: dict[str, Any], file: Path, jobs: list[Cell], num_workers: int) -> None:
    """Train the cells that are missing in ``results``, and add them there.

    :param results: holds ``configuration``, ``exact``, ``seconds`` and ``cells``.
    :param file: where the results are written, after each cell.
    """
    add_exact(results, {cell.model for cell in jobs})
    missing = [cell for cell in jobs if str(cell) not in results["cells"]]
    config = results["configuration"]
    args = config["steps"], config["seeds"]
    # Optimisers of one model and loss share a compiled program.
    finished = run_parallel(_make_runner, args, missing, lambda cell: cell[:4], num_workers)
    bar = tqdm(total=len(jobs), initial=len(jobs) - len(missing), unit="cell")
    add_finished(
        file, results, finished, lambda cell, got: results["cells"].update({str(cell): got}), bar
    )


def _make_runner(num_steps: int, num_seeds: int) -> Callable[[Cell], dict[str, Any]]:
    """The function that trains one cell, in a worker process."""

    @cache
    def program(model: str, guide: str, loss: str, draws: int, optimisers: tuple[str, ...]) -> Any:
        compiled = compile_training(Cell(model, guide, loss, draws), optimisers, num_steps)
        started = time.process_time()
        trained = compiled.lower(random.key(0), 0).compile()
        return trained, time.process_time() - started

    def run(cell: Cell) -> dict[str, Any]:
        every = tuple(candidates(1)) if cell.optimiser != RECIPE else (RECIPE,)
        trained, compile_seconds = program(*cell[:4], every)
        started = time.process_time()
        found = [
            figures_of(cell.model, trained(random.key(seed), every.index(cell.optimiser)))
            for seed in range(num_seeds)
        ]
        return {
            **cell._asdict(),
            "mean_draws": getattr(LOSSES[cell.loss][cell.draws], "mean_draws", cell.draws),
            "seconds": time.process_time() - started,
            "compile_seconds": compile_seconds,
            "estimates": {name: [seed[name] for seed in found] for name in found[0]},
        }

    return run


def compile_training(cell: Cell, optimisers: tuple[str, ...], num_steps: int) -> Any:
    """A jitted map from (key, index of the optimiser) to the parameters after training."""
    problem, loss = MODELS[cell.model], LOSSES[cell.loss][cell.draws]
    every = candidates(num_steps)

    @jax.jit
    def train(rng_key, which):
        optim = one_of([every[name] for name in optimisers], which)
        svi = SVI(problem.model, GUIDES[cell.guide](problem), optim, loss)
        state = svi.init(rng_key, *problem.args)
        step = lambda state, _: (svi.update(state, *problem.args)[0], None)
        return svi.get_params(lax.scan(step, state, None, length=num_steps)[0])

    return train


def figures_of(model: str, params: dict[str, Any]) -> dict[str, float]:
    """The reported figures of a model at these parameters."""
    problem = MODELS[model]
    values = {name: params[name] for name in problem.parameters}
    return {name: float(value) for name, value in named(problem.reported(values)).items()}
