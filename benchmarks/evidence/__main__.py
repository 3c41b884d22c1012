"""How far from log p(x), and how noisy, is each estimator of it, where log p(x) is known?

Four models with a closed-form evidence, each with a guide that misses its posterior by more and
more. For every estimator: bias and standard error of the value and of its gradient in the model's
parameter, variance, and variance times the mean number of draws, which is what a nat of accuracy
costs; beside them the Pareto k-hat of the weights.
"""

from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
from tqdm import tqdm

import jax
from jax import random
import jax.numpy as jnp

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.results import write_json, written_whole
from benchmarks.common.tables import markdown_table, number
from benchmarks.evidence.pictures import draw_biases, draw_costs
from benchmarks.models.conjugate import MODELS, Tractable
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.diagnostics.arviz import pareto_k
from numpyro_sumo.losses.base import ImportanceLoss

MISMATCHES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
ESTIMATORS: dict[str, ImportanceLoss] = {
    "iwelbo": IWELBO(8),
    "sumo": SUMO(8),
    "roulette": MultilevelSUMO(8),
    "single": MultilevelSUMO(8, truncation="single"),
}
TITLES = {
    "iwelbo": "IWELBO",
    "sumo": "SUMO",
    "roulette": "multilevel, roulette",
    "single": "multilevel, single term",
}
BATCH = 1_000
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "evidence"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    parser = benchmark_parser("evidence", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--batches",
        type=positive_integer,
        metavar="N",
        help=f"batches of {BATCH} estimates for each figure (50; quick: 2)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of everything (0)")
    parser.add_argument("--quick", action="store_true", help="few estimates; figures are rough")
    options = parser.parse_args(arguments)
    if refused("evidence", options.out):
        return 2
    num_batches = max(2, options.batches or (2 if options.quick else 50))
    started = time.perf_counter()
    results: dict[str, Any] = {
        "seed": options.seed,
        "estimates": num_batches * BATCH,
        "mean_draws": {name: loss.mean_draws for name, loss in ESTIMATORS.items()},
        "models": {},
    }
    try:
        measure_all(results, random.key(options.seed), num_batches)
    except KeyboardInterrupt:
        print("evidence: interrupted; the report is on what is there", file=sys.stderr)
    results["seconds"] = time.perf_counter() - started
    with written_whole(options.out) as folder:
        write_json(folder / "evidence.json", results)
        draw_biases(folder / "biases.png", results, TITLES)
        draw_costs(folder / "costs.png", results, TITLES)
        write_report(folder, report(results))
    print(f"Wrote {options.out / 'report.md'} after {results['seconds']:.0f} s.")
    return 0


def measure_all(results: dict[str, Any], rng_key: jax.Array, num_batches: int) -> None:
    """Fills in ``results``, cell by cell."""
    total = len(MODELS) * len(MISMATCHES) * (1 + len(ESTIMATORS))
    with tqdm(total=total, unit="cell") as bar:
        for model_name, problem in MODELS.items():
            cells = results["models"].setdefault(model_name, {"title": problem.title, "cells": []})
            weigh = compiled(problem, IWELBO(1))
            measure = {name: compiled(problem, loss) for name, loss in ESTIMATORS.items()}
            for mismatch in MISMATCHES:
                values, _ = weigh(rng_key, mismatch)
                cell: dict[str, Any] = {"mismatch": mismatch, "estimators": {}}
                cell["pareto_k"] = float(np.max(pareto_k(np.asarray(values).T)))
                cells["cells"].append(cell)
                bar.update()
                for name, loss in ESTIMATORS.items():
                    bar.set_postfix_str(f"{model_name}, {mismatch}, {name}")
                    cell["estimators"][name] = verdict(
                        problem, loss, measure[name], rng_key, mismatch, num_batches
                    )
                    bar.update()


def compiled(problem: Tractable, loss: ImportanceLoss) -> Any:
    """Maps (key, mismatch) to a batch of estimates by datum, and the gradient of their mean."""

    @jax.jit
    def measure(rng_key, mismatch):
        def mean_estimate(theta):
            estimates, _ = loss.estimates(
                rng_key,
                {"theta": theta},
                problem.model,
                problem.guide,
                (problem.x, mismatch),
                {},
                BATCH,
            )
            estimates = estimates.reshape(BATCH, -1)
            return estimates.sum(axis=1).mean(), estimates

        gradient, estimates = jax.grad(mean_estimate, has_aux=True)(jnp.asarray(problem.theta))
        return estimates, gradient

    return measure


def verdict(
    problem: Tractable,
    loss: ImportanceLoss,
    measure: Any,
    rng_key: jax.Array,
    mismatch: float,
    num_batches: int,
) -> dict[str, float]:
    """Bias, with its standard error, of value and gradient; and what a nat costs."""
    values, gradients = [], []
    for index in range(num_batches):
        estimates, gradient = measure(random.fold_in(rng_key, 1 + index), mismatch)
        values.append(np.asarray(estimates, np.float64).sum(axis=1))
        gradients.append(float(gradient))
    theta = jnp.asarray(problem.theta)
    exact, exact_gradient = jax.value_and_grad(problem.log_evidence)(theta, problem.x)
    total = np.concatenate(values)
    variance = float(total.var(ddof=1))
    return {
        "bias": float(total.mean() - exact),
        "bias_se": float((variance / total.size) ** 0.5),
        "gradient_bias": float(np.mean(gradients) - exact_gradient),
        "gradient_bias_se": float(np.std(gradients, ddof=1) / num_batches**0.5),
        "variance": variance,
        "variance_times_draws": variance * loss.mean_draws,
    }


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    draws = markdown_table(
        ["estimator", "mean draws"],
        [[TITLES[name], number(count, 1)] for name, count in results["mean_draws"].items()],
    )
    sections = "\n".join(
        f"## {entry['title']}\n\n{_table(entry['cells'])}\n" for entry in results["models"].values()
    )
    return f"""# Estimates of log p(x) where it is known

{results["estimates"]} estimates for each line, seed {results["seed"]}; the run took
{results["seconds"]:.0f} s. Mismatch 0 is the exact posterior as guide; with it grow the guide's
distance and width.

{draws}

![Bias of each estimator](biases.png)

![What a nat of accuracy costs](costs.png)

Bias is the mean estimate less log p(x), in nats, ± its standard error; the gradient's likewise, in
the model's one parameter. Var × draws is the variance of an estimate times its mean number of
draws: with n draws to spend, the squared standard error is that over n. k-hat is that of the
weights; beyond 0.7 nothing here is to be trusted.

SUMO's variance is not finite: its figures are what these samples happened to show. Its mean is that
of the bound at the end of its longest tail, and where the guide misses by much, falls short of
log p(x) with it; the multilevel tails, which double from level to level, reach much further.

{sections}"""


def _table(cells: list[dict[str, Any]]) -> str:
    header = ["estimator", "mismatch", "bias", "bias of the gradient", "var × draws", "k-hat"]
    rows = [
        [
            TITLES[name],
            number(cell["mismatch"], 1),
            f"{number(v['bias'], 4)} ± {number(v['bias_se'], 4)}",
            f"{number(v['gradient_bias'], 4)} ± {number(v['gradient_bias_se'], 4)}",
            number(v["variance_times_draws"], 2),
            number(cell["pareto_k"], 2),
        ]
        for cell in cells
        for name, v in cell["estimators"].items()
    ]
    return markdown_table(header, rows)


if __name__ == "__main__":
    sys.exit(main())
