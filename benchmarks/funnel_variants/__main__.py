"""What does it take to train the funnel's sampler on SUMO, whose variance is infinite?

One change at a time from the funnel benchmark's own SUMO arm: the side the series begins from, the
tail of its stopping time, the gradient, rotations, levels in place of single draws, what fits the
reverse model, Adam's memory, clipping, twice the steps.
"""

from pathlib import Path
import sys
from typing import Any

import numpy as np
from scipy.stats import norm

from jax import random

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.judge import judge
from benchmarks.common.results import resumed, write_json, written_whole
from benchmarks.common.tables import markdown_table, number
from benchmarks.funnel.__main__ import (
    ARMS,
    FEW_LEVELS,
    KNOWN_MARGINALS,
    LIGHT_TAIL,
    PROBABILITIES,
    SCALE_OF_V,
    draw_learned,
    sandwich,
    train_arm,
)
from numpyro_sumo import IWHVI, SUMO, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import ReciprocalTail

EXACT = float(norm(scale=SCALE_OF_V).ppf(0.01))
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "funnel_variants"

#: Loss, options of the optimiser, and steps as a multiple of the default.
VARIANTS: dict[str, tuple[ReverseKL, dict[str, float], int]] = {
    "as in the funnel benchmark": (ARMS["sumo"], {}, 1),
    "twice the steps": (ARMS["sumo"], {}, 2),
    "begun from below": (ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL)), {}, 1),
    "begun from below, the paper's tail": (ReverseKL(SUMO(11)), {}, 1),
    "the paper's tail": (ReverseKL(SUMO(11, from_above=True)), {}, 1),
    "standard gradient": (
        ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL, from_above=True), gradient="standard"),
        {},
        1,
    ),
    "tail to 512 draws": (
        ReverseKL(SUMO(9, stopping_time=ReciprocalTail(knee=512, decay=0.0), from_above=True)),
        {},
        1,
    ),
    "4 rotations": (
        ReverseKL(SUMO(11, stopping_time=LIGHT_TAIL, rotations=4, from_above=True)),
        {},
        1,
    ),
    "multilevel": (ARMS["multilevel"], {}, 1),
    "multilevel, all levels": (ReverseKL(MultilevelSUMO(4, from_above=True)), {}, 1),
    "multilevel, begun from below": (
        ReverseKL(MultilevelSUMO(5, stopping_time=FEW_LEVELS)),
        {},
        1,
    ),
    "IWHVI": (ARMS["iwhvi"], {}, 1),
    "IWHVI, reverse model by the bound": (
        ReverseKL(IWHVI(16, guide_objective="iwhvi")),
        {},
        1,
    ),
    "multilevel, reverse model by its lower bound": (
        ReverseKL(
            MultilevelSUMO(6, stopping_time=FEW_LEVELS, from_above=True, guide_objective="iwelbo")
        ),
        {},
        1,
    ),
    "Adam's usual memory": (ARMS["sumo"], {"second_moment_decay": 0.999}, 1),
    "no clipping": (ARMS["sumo"], {"max_gradient_norm": 1e9}, 1),
    "clipping at 1": (ARMS["sumo"], {"max_gradient_norm": 1.0}, 1),
}


def main(arguments: list[str] | None = None) -> int:
    """Runs the variants from the command line; returns the exit status."""
    parser = benchmark_parser("funnel_variants", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--steps", type=positive_integer, default=20_000, help="training steps (%(default)s)"
    )
    parser.add_argument(
        "--seeds", type=positive_integer, default=2, help="number of seeds (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if refused("funnel_variants", options.out):
        return 2
    fresh = {"steps": options.steps, "exact": EXACT, "variants": {}}
    results = resumed(options.out / "variants.json", fresh, "steps")
    for name, (loss, optimiser_options, times) in VARIANTS.items():
        done = results["variants"].setdefault(name, [])
        for seed in range(len(done), options.seeds):
            key = random.key(seed)
            steps = times * options.steps
            title = f"{name}, seed {seed}"
            run = train_arm(title, loss, random.fold_in(key, 0), steps, **optimiser_options)
            done.append(_verdict(run, random.fold_in(key, 1)))
            with written_whole(options.out) as folder:
                write_json(folder / "variants.json", results)
                write_report(folder, report(results))
    return 0


def _verdict(run, rng_key) -> dict[str, Any]:
    draws = draw_learned(rng_key, run.params, 20_000)
    posterior = {site: np.asarray(draws[site]).reshape(4, -1) for site in ("v", "x")}
    _, verdict = judge(posterior, KNOWN_MARGINALS, PROBABILITIES)
    kl = sandwich(rng_key, run.params, 20_000, 500)
    return {
        "steps": run.steps,
        "steps_per_second": run.steps / run.seconds,
        "kl_lower": float(kl.lower),
        "kl_upper": float(kl.upper),
        "kl_upper_se": float(kl.upper_se),
        "ks_of_v": verdict["ks"]["v"],
        "ks_of_ratio": verdict["ks"]["x·exp(−v)"],
        "one_percent_of_v": verdict["quantiles"]["v"]["0.01"],
    }


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    header = [
        "variant",
        "mean draws",
        "KL between, nats",
        "KS of v",
        "KS of x·exp(−v)",
        "1 % of v",
        "steps / s",
    ]
    rows = [
        [
            name,
            number(VARIANTS[name][0].marginal.mean_draws, 1),
            f"{number(v['kl_lower'], 4)} … {number(v['kl_upper'], 4)}",
            number(v["ks_of_v"], 4),
            number(v["ks_of_ratio"], 4),
            number(v["one_percent_of_v"], 2),
            number(v["steps_per_second"], 0),
        ]
        for name, seeds in results["variants"].items()
        for v in seeds
    ]
    return f"""# SUMO on the funnel: one change at a time

{results["steps"]} steps, one line for each seed; a dash where the sampler ran away. The exact 1 %
quantile of v is {number(results["exact"], 2)}. Where a tail changes, so does the number of
particles before it, to keep the mean number of draws near 16.

{markdown_table(header, rows)}
"""


if __name__ == "__main__":
    sys.exit(main())
