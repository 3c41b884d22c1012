"""What does training the funnel's sampler on SUMO, whose variance is infinite, need?

Each variant changes one thing in the funnel benchmark's SUMO loss: the bound that the series starts
from, the tail of its stopping time, the gradient, rotations, levels instead of single draws, the
objective of the reverse model, Adam's second moment, clipping, the number of steps.
"""

import argparse
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import random

from benchmarks.common.cli import Command
from benchmarks.common.html_report import write_results
from benchmarks.common.interrupts import end_process
from benchmarks.common.results import start_or_resume
from benchmarks.common.tables import markdown_table, number
from benchmarks.common.training import TrainingRun
from benchmarks.funnel.models import ARMS, FEW_LEVELS, LIGHT_TAIL, SCALE_OF_V
from benchmarks.funnel.report import exact_quantile
from benchmarks.funnel.run import DEFAULT, judge_arm, train_arm
from numpyro_sumo import SUMO, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import ReciprocalTail


class Variant(NamedTuple):
    """One way to train.

    :param optimiser: keyword arguments of :func:`.run.train_arm`.
    :param times_steps: training steps as a multiple of the default.
    """

    loss: ReverseKL
    optimiser: dict[str, float] = {}
    times_steps: int = 1


_LONGER = ReciprocalTail(knee=512, decay=0.0)
_FROM_BELOW = MultilevelSUMO(6, stopping_time=FEW_LEVELS, from_above=True, guide_objective="iwelbo")

VARIANTS: dict[str, Variant] = {
    "as in the funnel benchmark": Variant(ARMS["sumo"]),
    "twice the steps": Variant(ARMS["sumo"], times_steps=2),
    "started from below": Variant(ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL))),
    "started from below, the paper's tail": Variant(ReverseKL(SUMO(11))),
    "the paper's tail": Variant(ReverseKL(SUMO(11, from_above=True))),
    "standard gradient": Variant(
        ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL, from_above=True), gradient="standard")
    ),
    "tail to 512 draws": Variant(ReverseKL(SUMO(9, stopping_time=_LONGER, from_above=True))),
    "4 rotations": Variant(
        ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL, rotations=4, from_above=True))
    ),
    "multilevel": Variant(ARMS["multilevel"]),
    "multilevel, all levels": Variant(ReverseKL(MultilevelSUMO(4, from_above=True))),
    "multilevel, started from below": Variant(
        ReverseKL(MultilevelSUMO(5, stopping_time=FEW_LEVELS))
    ),
    "IWHVI": Variant(ARMS["iwhvi"]),
    "multilevel, reverse model by its lower bound": Variant(ReverseKL(_FROM_BELOW)),
    "Adam's default second moment": Variant(ARMS["sumo"], {"second_moment_decay": 0.999}),
    "no clipping": Variant(ARMS["sumo"], {"max_gradient_norm": 1e9}),
    "clipping at 1": Variant(ARMS["sumo"], {"max_gradient_norm": 1.0}),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    command = Command("funnel.variants", __doc__)
    command.add_count("--steps", "training steps (%(default)s)", default=20_000)
    command.add_count("--seeds", "number of seeds (%(default)s)", default=2)
    return command.run(_run, arguments)


def _run(options: argparse.Namespace) -> None:
    """Train and judge the missing variants; the results are written after each."""
    fresh = {"steps": options.steps, "scale_of_v": SCALE_OF_V, "variants": {}}
    results = start_or_resume(options.out / "variants.json", fresh, "steps")
    for name, variant in VARIANTS.items():
        for seed in range(len(results["variants"].get(name, [])), options.seeds):
            key, steps = random.key(seed), variant.times_steps * options.steps
            run = train_arm(
                f"{name}, seed {seed}",
                variant.loss,
                random.fold_in(key, 0),
                steps,
                **variant.optimiser,
            )
            if run.interrupted:
                raise KeyboardInterrupt
            found = _figures(variant.loss, run, random.fold_in(key, 1))
            results["variants"].setdefault(name, []).append(found)
            write_results(options.out / "variants.json", results, report)


def _figures(loss: ReverseKL, run: TrainingRun, rng_key: jax.Array) -> dict[str, Any]:
    """The figures of one trained sampler."""
    without_snapshots = replace(run, snapshots={})  # no KL divergences during training
    _, figures = judge_arm(loss, without_snapshots, rng_key, DEFAULT)
    return {
        "mean_draws": figures["mean_draws"],
        "steps": run.steps,
        "steps_per_second": figures["steps_per_second"],
        **{f"kl_{end}": figures["kl"][end] for end in ("lower", "upper", "upper_se")},
        "ks_of_v": figures["ks"]["v"],
        "ks_of_ratio": figures["ks"]["x·exp(−v)"],
        "one_percent_of_v": figures["quantiles"]["v"]["0.01"],
    }


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    header = ["variant", "mean draws", "KL between, nats", "KS of v", "KS of x·exp(−v)"]
    header += ["1 % of v", "steps / s"]
    rows = [
        [
            name,
            number(run["mean_draws"], 1),
            f"{number(run['kl_lower'], 4)} … {number(run['kl_upper'], 4)}",
            number(run["ks_of_v"], 4),
            number(run["ks_of_ratio"], 4),
            number(run["one_percent_of_v"], 2),
            number(run["steps_per_second"], 0),
        ]
        for name, by_seed in results["variants"].items()
        for run in by_seed
    ]
    return f"""# SUMO on the funnel: one change at a time

{results["steps"]} steps, one row for each seed; a dash where the sampler diverged. The exact 1 %
quantile of v is {exact_quantile(results, 0.01)}. Where a tail changes, so does the number of
particles before it, to keep the mean number of draws near 16.

{markdown_table(header, rows)}
"""


if __name__ == "__main__":
    end_process(main())
