"""Does it pay to train a model with latent variables on log p(x) itself, and not on a bound?

Autoencoders of handwritten digits and of points in the plane are trained by the ELBO, by IWELBO,
and by SUMO and MultilevelSUMO, whose estimates are unbiased for the bound at the end of their
tails, at the same expected number of draws for each datum, from the same start and for as many
steps; the guide by a bound over the draws that are always made or by the variance of the estimate,
which takes 32 draws more for a baseline. Each is repeated over seeds and judged by test
log-likelihood. Stop it when you like: the same command goes on where it was.
"""

from functools import partial
from pathlib import Path
import shutil
import sys
from typing import Any

from numpyro.infer import Trace_ELBO

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.workers import num_cores
from benchmarks.density.bench import Arm, Bench, Plan, run_bench
from benchmarks.density.models import PLANES, digits, plane
from benchmarks.density.pictures import draw_pictures
from benchmarks.density.report import report
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

DEFAULT_OUT = Path(__file__).parents[1] / "results" / "density"

#: Tails that are cut short, for the noise of longer ones costs training more than their bias.
SHORT_TAIL, MIDDLE_TAIL = ReciprocalTail(knee=4, decay=0.0), ReciprocalTail(knee=11, decay=0.0)
#: Two blocks or four, 2.5 in expectation.
FEW_BLOCKS = GeometricTail(0.75, max_level=2)

QUICK_ARMS = ("iwelbo", "multilevel")

#: Arms that the plane is spared beyond few draws: what becomes of them the digits show.
WILD_WITH_MANY_DRAWS = ("sumo_variance", "multilevel_variance")


def arms(draws: int) -> dict[str, Arm]:
    """The losses that make so many draws of each datum in expectation."""
    tail = SHORT_TAIL if draws == 5 else MIDDLE_TAIL
    sumo = partial(SUMO, round(draws - tail.mean), stopping_time=tail, rotations=8)
    multilevel = partial(MultilevelSUMO, 2 * draws // 5, stopping_time=FEW_BLOCKS)
    return {
        "elbo": Arm("ELBO", Trace_ELBO(draws)),
        "iwelbo": Arm("IWELBO", IWELBO(draws)),
        "sumo": Arm("SUMO", sumo()),
        "sumo_variance": Arm("SUMO, guide by variance", sumo(guide_objective="variance")),
        "multilevel": Arm("multilevel SUMO", multilevel()),
        "multilevel_variance": Arm(
            "multilevel SUMO, guide by variance", multilevel(guide_objective="variance")
        ),
    }


def plans(quick: bool) -> dict[str, Plan]:
    """What is trained, by name."""
    if quick:
        few = {5: {name: arm for name, arm in arms(5).items() if name in QUICK_ARMS}}
        return {
            "digits": Plan(digits(), few, 3, 64, 3e-3, 500, 16),
            "moons": Plan(plane("moons"), few, 3, 100, 3e-3, 500, 16),
        }
    every = {draws: arms(draws) for draws in (5, 15, 50)}
    in_plane = {
        draws: {
            name: arm
            for name, arm in by_name.items()
            if draws == 5 or name not in WILD_WITH_MANY_DRAWS
        }
        for draws, by_name in every.items()
    }
    return {
        "digits": Plan(digits(), every, 40, 25, 5e-3, 5_000, 200),
        **{name: Plan(plane(name), in_plane, 25, 25, 3e-3, 2_000, 200) for name in PLANES},
    }


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    parser = benchmark_parser("density", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--seeds", type=positive_integer, metavar="N", help="repeat over N seeds (5; quick: 2)"
    )
    parser.add_argument("--quick", action="store_true", help="few steps; figures are rough")
    parser.add_argument(
        "--workers",
        type=positive_integer,
        metavar="N",
        help="trainings side by side, each on a core of its own (as many as there are; quick: 1)",
    )
    options = parser.parse_args(arguments)
    if refused("density", options.out):
        return 2
    num_seeds = options.seeds or (2 if options.quick else 5)
    num_workers = options.workers or (1 if options.quick else num_cores())
    bench = Bench(plans(options.quick), num_seeds, options.out)

    def write(folder: Path, results: dict[str, Any]) -> None:
        # Pictures of trainings whose checkpoints are gone stay as they are.
        for picture in options.out.glob("*.png"):
            shutil.copy(picture, folder)
        draw_pictures(folder, results, bench)
        write_report(folder, report(results))

    return run_bench("density", bench, options.out / "density.json", num_workers, write)


if __name__ == "__main__":
    sys.exit(main())
