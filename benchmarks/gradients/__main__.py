"""What does the doubly reparameterised gradient of a guide save, and is its mean the same?

The models with a closed-form evidence, each with a guide that misses its posterior by a given
amount: the parameter that is differentiated. Variance and mean of the guide's gradient, with
``gradient="dreg"`` and with ``"standard"``, over independent keys.
"""

from collections.abc import Callable
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
from tqdm import tqdm

import jax
from jax import lax, random

import numpyro

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.results import write_json, written_whole
from benchmarks.common.tables import markdown_table, number
from benchmarks.models.conjugate import MODELS, Tractable
from numpyro_sumo import IWELBO, MultilevelSUMO
from numpyro_sumo.losses.base import ImportanceLoss

MISMATCHES = (0.0, 0.1, 0.3)
NUM_PARTICLES = 4
#: SUMO's guide climbs IWELBO's bound, by the same gradient.
LOSSES: dict[str, Callable[..., ImportanceLoss]] = {
    "IWELBO": IWELBO,
    "MultilevelSUMO": MultilevelSUMO,
}
BATCH = 100
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "gradients"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    parser = benchmark_parser("gradients", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--keys",
        type=positive_integer,
        default=20_000,
        help=f"gradients behind each figure, rounded up to {BATCH}s (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (%(default)s)")
    options = parser.parse_args(arguments)
    if refused("gradients", options.out):
        return 2
    num_keys = -(-options.keys // BATCH) * BATCH
    started = time.perf_counter()
    cells = []
    cases = [(model, name) for model in MODELS for name in LOSSES]
    for model, name in tqdm(cases, unit="case"):
        cells += compared(model, name, random.key(options.seed), num_keys)
    results = {
        "seed": options.seed,
        "keys": num_keys,
        "num_particles": NUM_PARTICLES,
        "seconds": time.perf_counter() - started,
        "cells": cells,
    }
    with written_whole(options.out) as folder:
        write_json(folder / "gradients.json", results)
        write_report(folder, report(results))
    print(f"Wrote {options.out / 'report.md'} after {results['seconds']:.0f} s.")
    return 0


def compared(model: str, name: str, rng_key: jax.Array, num_keys: int) -> list[dict[str, Any]]:
    """Mean and variance of both gradients, at every mismatch."""
    measure = {
        gradient: compiled(MODELS[model], LOSSES[name](NUM_PARTICLES, gradient=gradient))
        for gradient in ("dreg", "standard")
    }
    cells = []
    for mismatch in MISMATCHES:
        cell: dict[str, Any] = {"model": model, "loss": name, "mismatch": mismatch}
        for index, (gradient, gradients_at) in enumerate(measure.items()):
            keys = random.split(random.fold_in(rng_key, index), num_keys)
            found = np.asarray(gradients_at(keys, mismatch), np.float64)
            cell[gradient] = {
                "mean": float(found.mean()),
                "mean_se": float(found.std(ddof=1) / num_keys**0.5),
                "variance": float(found.var(ddof=1)),
            }
        cells.append(cell)
    return cells


def compiled(problem: Tractable, loss: ImportanceLoss) -> Any:
    """Maps (keys, mismatch) to the gradients of the loss in the guide's parameter, mismatch."""

    def guide(x, _):
        problem.guide(x, numpyro.param("mismatch", 0.0))

    def gradient(mismatch, rng_key):
        params = lambda mismatch: {"theta": problem.theta, "mismatch": mismatch}
        return jax.grad(
            lambda mismatch: loss.loss(
                rng_key, params(mismatch), problem.model, guide, problem.x, mismatch
            )
        )(mismatch)

    return jax.jit(
        lambda keys, mismatch: lax.map(lambda key: gradient(mismatch, key), keys, batch_size=BATCH)
    )


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    header = ["model", "loss", "mismatch", "mean, dreg", "mean, standard", "variance", "ratio"]
    rows = []
    for cell in results["cells"]:
        free, standard = cell["dreg"], cell["standard"]
        rows.append(
            [
                MODELS[cell["model"]].title,
                cell["loss"],
                number(cell["mismatch"], 1),
                f"{number(free['mean'], 4)} ± {number(free['mean_se'], 4)}",
                f"{number(standard['mean'], 4)} ± {number(standard['mean_se'], 4)}",
                number(standard["variance"], 4),
                number(free["variance"] / standard["variance"], 4),
            ]
        )
    return f"""# The doubly reparameterised gradient beside the standard one

Gradient of a loss of {results["num_particles"]} particles in the one parameter of its guide,
mismatch: {results["keys"]} keys for each figure, seed {results["seed"]}; the run took
{results["seconds"]:.0f} s. Means are ± their standard error; variance is that of the standard
gradient, and the ratio what is left of it with "dreg". Mismatch 0 is the exact posterior.

{markdown_table(header, rows)}
"""


if __name__ == "__main__":
    sys.exit(main())
