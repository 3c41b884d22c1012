"""What does training on an estimate whose variance is large, or infinite, need?

The digits of the density benchmark with its fewest draws, where estimates are noisiest. Variants:
gradients clipped at a lower norm or not at all, parameters averaged over steps or not, another
learning rate of the guide, a longer tail after fewer draws, and the guide trained on the variance
of the estimate, with and without a baseline; all compared seed by seed. An interrupted run is
continued by the same command.
"""

import argparse
from functools import partial
from typing import Any

import jax.numpy as jnp

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_report
from benchmarks.common.interrupts import end_process, work_then_report
from benchmarks.common.results import written_whole
from benchmarks.common.tables import markdown_table, number
from benchmarks.common.workers import num_cores
from benchmarks.density.bench import Bench
from benchmarks.density.plans import FEW_BLOCKS, SHORT_TAIL, Arm, Plan, plans
from benchmarks.density.tables import (
    BySeed,
    bias_cell,
    chance,
    difference_cell,
    diverged_cell,
    draws_cell,
    figures,
    gradient_cells,
    gradient_header,
    groups,
    mean,
    paired_difference,
)
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.ragged import GUIDE
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

#: Expected draws of each datum.
DRAWS = 5

#: What is changed: tails cut short, gradients clipped before Adam's steps, averaged parameters.
_clipped = partial(Arm, max_gradient_norm=30.0, averaged=True)
_SUMO = partial(SUMO, 3, stopping_time=SHORT_TAIL, rotations=8)
_MULTILEVEL = partial(MultilevelSUMO, 2, stopping_time=FEW_BLOCKS)
USUAL = {
    "iwelbo": _clipped("IWELBO", IWELBO(DRAWS)),
    "sumo": _clipped("SUMO", _SUMO()),
    "multilevel": _clipped("multilevel SUMO", _MULTILEVEL()),
}

#: Changes to the training of a loss: title, and fields of its arm.
CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "clip_10": ("gradients clipped at 10", {"max_gradient_norm": 10.0}),
    "clip_3": ("gradients clipped at 3", {"max_gradient_norm": 3.0}),
    "not_clipped": ("gradients not clipped", {"max_gradient_norm": 1e9}),
    "last": ("last parameters, not averaged", {"averaged": False}),
    "guide_slow": ("guide's rate × 0.3", {"guide_rate": 0.3}),
    "guide_fast": ("guide's rate × 3", {"guide_rate": 3.0}),
}


class _WithoutBaseline:
    """The variance objective as published: the square of the estimate."""

    @property
    def draws_per_step(self):
        """Expected draws of each datum, without any for a baseline."""
        return self.mean_draws  # type: ignore[attr-defined]

    def guide_value(self, objective, views, rng_key, particle):
        """See :meth:`numpyro_sumo.losses.base.ImportanceLoss.guide_value`."""
        estimate = self.estimate(views.merged(GUIDE))  # type: ignore[attr-defined]
        return jnp.where(jnp.isfinite(estimate), estimate, 0.0) ** 2


class PlainSUMO(_WithoutBaseline, SUMO):
    """SUMO without a baseline."""


class PlainMultilevelSUMO(_WithoutBaseline, MultilevelSUMO):
    """MultilevelSUMO without a baseline."""


_LONG = ReciprocalTail(knee=30, decay=0.0)

#: Changes to the loss itself at the same expected draws, by the loss that they change.
LOSSES: dict[str, dict[str, tuple[str, Any]]] = {
    "sumo": {
        "one_order": ("one order of the draws instead of 8", SUMO(3, stopping_time=SHORT_TAIL)),
        "long_tail": ("1 draw, tail to 30", SUMO(1, stopping_time=_LONG, rotations=8)),
        "variance": ("guide by variance", _SUMO(guide_objective="variance")),
        "no_baseline": (
            "guide by variance, no baseline",
            PlainSUMO(3, stopping_time=SHORT_TAIL, rotations=8, guide_objective="variance"),
        ),
    },
    "multilevel": {
        "long_tail": (
            "1 draw, no limit on levels",
            MultilevelSUMO(1, stopping_time=GeometricTail(0.625)),
        ),
        "variance": ("guide by variance", _MULTILEVEL(guide_objective="variance")),
        "no_baseline": (
            "guide by variance, no baseline",
            PlainMultilevelSUMO(2, stopping_time=FEW_BLOCKS, guide_objective="variance"),
        ),
    },
}


def variants() -> dict[str, Arm]:
    """All arms: each loss, followed by its changes."""
    found = {}
    for name in USUAL:
        usual = found[name] = USUAL[name]
        for key, (title, options) in CHANGES.items():
            found[f"{name}_{key}"] = usual._replace(title=title, **options)
        for key, (title, loss) in LOSSES.get(name, {}).items():
            found[f"{name}_{key}"] = usual._replace(title=title, loss=loss)
    return found


def variant_plans(quick: bool) -> dict[str, Plan]:
    """All variants on the digits, and the unchanged losses trained three times as long."""
    digits = plans(quick)["digits"]._replace(judged_draws=100 if quick else 1_000)
    return {
        "digits": digits._replace(arms={DRAWS: variants()}),
        "longer": digits._replace(arms={DRAWS: USUAL}, epochs=3 * digits.epochs),
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("density.variants", __doc__)
    command.add_count("--seeds", "number of seeds (%(default)s)", default=3)
    command.add_quick()
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    bench = Bench(variant_plans(options.quick), options.seeds, options.out)
    file = options.out / "variants.json"
    results = bench.start_or_resume(file)

    def write() -> None:
        with written_whole(options.out) as folder:
            write_report(folder, report(results))

    work_then_report(lambda: bench.run_missing(results, file, num_cores()), write)


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    plans = results["configuration"]["plans"]
    digits, longer = plans["digits"], plans["longer"]
    configs = digits["arms"][str(DRAWS)]
    titles = {arm: config["title"] for arm, config in configs.items()}
    runs: dict[str, dict[str, BySeed]] = {name: runs for name, _, runs in groups(results)}
    unchanged = {name: titles[name] for name in ("iwelbo", *LOSSES)}
    tables = [
        _table(
            titles[name],
            {
                arm: "unchanged" if arm == name else title
                for arm, title in titles.items()
                if arm.split("_")[0] == name
            },
            runs.get("digits", {}),
            digits,
        )
        for name in unchanged
    ]
    for plan, config in (("digits", digits), ("longer", longer)):
        heading = f"Compared after {config['epochs']} epochs"
        tables.append(_table(heading, unchanged, runs.get(plan, {}), config))
    return f"""# What training on noisy estimates needs

Digits, {DRAWS} expected draws, trained as in the [density benchmark](../density/report.md):
{digits["epochs"]} epochs in batches of {digits["batch_size"]}. Nats per image ± the standard error
over seeds: unbiased estimates of test negative log-likelihood, their difference from the first row,
seed by seed, the bias of the training objective (– for a tail too long to estimate it), and the
seconds in training steps. Bold is more than two standard errors, which chance alone exceeds in
{chance(results)} of cells. In the first row, gradients are clipped at
{configs["iwelbo"]["max_gradient_norm"]:g}, model's and guide's separately, and parameters averaged
over the last steps; norms are the median and the 99.9 % quantile over steps. The run took
{results["seconds"] / 60:.0f} minutes.

{chr(10).join(tables)}"""


def _table(
    heading: str, titles: dict[str, str], runs: dict[str, BySeed], plan: dict[str, Any]
) -> str:
    """A section that compares arms with the first of them; empty without runs."""
    header = ["", "draws", "seeds", "NLL", "difference", "objective − log p", "s"]
    first, rows = next(iter(titles)), []
    for arm, title in titles.items():
        if arm in runs:
            by_seed = runs[arm]
            row = [
                title,
                draws_cell(plan["arms"][str(DRAWS)][arm]),
                str(len(by_seed)),
                diverged_cell(by_seed) or str(mean(figures(by_seed, "nll"))),
                difference_cell(paired_difference(runs, arm, "nll", first)),
                bias_cell(by_seed),
                number(mean(figures(by_seed, "seconds")).value, 1),
            ]
            rows.append([*row, *gradient_cells(by_seed, True)])
    return (
        f"## {heading}\n\n{markdown_table([*header, *gradient_header(True)], rows)}\n"
        if rows
        else ""
    )


if __name__ == "__main__":
    end_process(main())
