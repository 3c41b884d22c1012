"""What does it take to train on an estimate whose variance is large, or not finite?

The digits of the density benchmark at its fewest draws, where estimates are wildest: gradients
clipped lower and not at all, parameters averaged over steps or taken as they are, another learning
rate for the guide, longer tails behind fewer draws, and the guide fitted by variance, with and
without a baseline, each compared seed by seed. Stop it when you like: the same command goes on
where it was.
"""

from pathlib import Path
import sys
from typing import Any

import jax.numpy as jnp

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.tables import markdown_table, number
from benchmarks.common.workers import num_cores
from benchmarks.density import __main__ as density
from benchmarks.density.__main__ import FEW_BLOCKS, SHORT_TAIL, arms
from benchmarks.density.bench import Arm, Bench, Plan, run_bench
from benchmarks.density.report import (
    GRADIENT_HEADER,
    away,
    bias_cell,
    chance,
    difference_cell,
    draws_cell,
    figures,
    gradient_cells,
    groups,
    mean,
    paired,
)
from numpyro_sumo import SUMO, MultilevelSUMO
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

DEFAULT_OUT = Path(__file__).parents[1] / "results" / "density_variants"

#: Expected draws of each datum.
DRAWS = 5

#: What is changed of a loss, beside the loss itself: title, and options of its arm.
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip_10": ("gradients clipped at 10", {"max_gradient_norm": 10.0}),
    "clip_3": ("gradients clipped at 3", {"max_gradient_norm": 3.0}),
    "not_clipped": ("gradients not clipped", {"max_gradient_norm": 1e9}),
    "last": ("last parameters, not averaged", {"averaged": False}),
    "guide_slow": ("guide's rate × 0.3", {"guide_rate": 0.3}),
    "guide_fast": ("guide's rate × 3", {"guide_rate": 3.0}),
}


class _WithoutBaseline:
    """The variance objective as it was published: the square of the estimate itself."""

    @property
    def draws_per_step(self):
        """Expected draws of each datum: none beside those of the estimate."""
        return self.mean_draws  # type: ignore[attr-defined]

    def objective(self, name, draws, baseline_key, particle):
        """See :meth:`numpyro_sumo.losses.base.ImportanceLoss.objective`."""
        estimate = self.estimate(draws, "guide")  # type: ignore[attr-defined]
        return jnp.where(jnp.isfinite(estimate), estimate, 0.0) ** 2


class PlainSUMO(_WithoutBaseline, SUMO):
    """SUMO without a baseline."""


class PlainMultilevelSUMO(_WithoutBaseline, MultilevelSUMO):
    """MultilevelSUMO without a baseline."""


_LONG = ReciprocalTail(knee=30, decay=0.0)

#: Other losses at the same draws, by the loss that they are variants of.
LOSSES: dict[str, dict[str, tuple[str, Any]]] = {
    "sumo": {
        "one_order": ("one order of the draws, not 8", SUMO(3, stopping_time=SHORT_TAIL)),
        "long_tail": ("1 draw, tail to 30", SUMO(1, stopping_time=_LONG, rotations=8)),
        "variance": ("guide by variance", arms(DRAWS)["sumo_variance"].loss),
        "no_baseline": (
            "guide by variance, no baseline",
            PlainSUMO(3, stopping_time=SHORT_TAIL, rotations=8, guide_objective="variance"),
        ),
    },
    "multilevel": {
        "long_tail": (
            "1 draw, levels without end",
            MultilevelSUMO(1, stopping_time=GeometricTail(0.625)),
        ),
        "variance": ("guide by variance", arms(DRAWS)["multilevel_variance"].loss),
        "no_baseline": (
            "guide by variance, no baseline",
            PlainMultilevelSUMO(2, stopping_time=FEW_BLOCKS, guide_objective="variance"),
        ),
    },
}


def variants() -> dict[str, Arm]:
    """All arms, each loss's own before those that change it."""
    found = {}
    for name in ("iwelbo", *LOSSES):
        usual = found[name] = arms(DRAWS)[name]
        for key, (title, options) in CHANGES.items():
            found[f"{name}_{key}"] = usual._replace(title=title, **options)
        for key, (title, loss) in LOSSES.get(name, {}).items():
            found[f"{name}_{key}"] = usual._replace(title=title, loss=loss)
    return found


def variant_plans(quick: bool) -> dict[str, Plan]:
    """The digits, and a few arms trained for longer."""
    digits = density.plans(quick)["digits"]._replace(judged_draws=100 if quick else 1_000)
    usual = {name: arm for name, arm in arms(DRAWS).items() if name in ("iwelbo", *LOSSES)}
    return {
        "digits": digits._replace(arms={DRAWS: variants()}),
        "longer": digits._replace(arms={DRAWS: usual}, epochs=3 * digits.epochs),
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    parser = benchmark_parser("density_variants", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--seeds", type=positive_integer, default=3, metavar="N", help="repeat over N seeds (3)"
    )
    parser.add_argument("--quick", action="store_true", help="few steps; figures are rough")
    options = parser.parse_args(arguments)
    if refused("density_variants", options.out):
        return 2
    bench = Bench(variant_plans(options.quick), options.seeds, options.out)
    write = lambda folder, results: write_report(folder, report(results))
    file = options.out / "variants.json"
    return run_bench("density_variants", bench, file, num_cores(), write)


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    plans = results["configuration"]["plans"]
    told, longer = plans["digits"], plans["longer"]
    arms_told = told["arms"][str(DRAWS)]
    titles = {key: arm["title"] for key, arm in arms_told.items()}
    runs: dict[str, dict] = {name: runs for name, _, runs in groups(results)}
    tables = [
        _table(
            titles[name],
            {
                arm: "as it is" if arm == name else title
                for arm, title in titles.items()
                if arm.split("_")[0] == name
            },
            runs.get("digits", {}),
            told,
        )
        for name in ("iwelbo", *LOSSES)
    ]
    beside = {name: titles[name] for name in ("iwelbo", *LOSSES)}
    limit = arms_told["iwelbo"]["max_gradient_norm"]
    return f"""# What it takes to train on wild estimates

Digits, {DRAWS} expected draws, trained as in the [density benchmark](../density/report.md):
{told["epochs"]} epochs in batches of {told["batch_size"]}. Nats per image ± the standard error over
seeds: unbiased estimates of test negative log-likelihood, what they are beyond that of the first
line, seed by seed, the bias of what was trained on (– for a tail too long to tell), and the seconds
in training steps. Bold is more than two standard errors, where chance alone goes in
{chance(results)} of cells. The first line's gradients are clipped at {limit:g}, model's and guide's
apart, and its parameters averaged over the last steps; norms are the median and the 99.9 % quantile
over steps. The run took {results["seconds"] / 60:.0f} minutes.

{chr(10).join(tables)}
{_table(f"Beside each other, after {told['epochs']} epochs", beside, runs.get("digits", {}), told)}
{_table(f"And after {longer['epochs']} epochs", beside, runs.get("longer", {}), longer)}"""


def _table(
    heading: str, titles: dict[str, str], runs: dict[str, dict[int, Any]], plan: dict[str, Any]
) -> str:
    """A section that compares arms with the first of them, as far as there are any."""
    header = ["", "draws", "seeds", "NLL", "beyond, paired", "objective − log p", "s"]
    usual, rows = next(iter(titles)), []
    for arm, title in titles.items():
        if arm in runs:
            by_seed = runs[arm]
            row = [
                title,
                draws_cell(plan["arms"][str(DRAWS)][arm]),
                str(len(by_seed)),
                away(by_seed) or str(mean(figures(by_seed, "nll"))),
                difference_cell(paired(runs, arm, "nll", usual)),
                bias_cell(by_seed),
                number(mean(figures(by_seed, "seconds")).value, 1),
            ]
            rows.append([*row, *gradient_cells(by_seed)])
    return f"## {heading}\n\n{markdown_table([*header, *GRADIENT_HEADER], rows)}\n" if rows else ""


if __name__ == "__main__":
    sys.exit(main())
