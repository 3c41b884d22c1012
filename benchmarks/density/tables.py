"""Comparisons over seeds for the tables of the density benchmark."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from benchmarks.common.tables import bold, number, with_error

#: The loss that all others are compared with.
REFERENCE = "iwelbo"

#: Figures of one arm by seed.
BySeed = dict[int, dict[str, Any]]


class Mean(NamedTuple):
    """A mean over seeds and its standard error; NaN if a run diverged, or for a single seed."""

    value: float
    error: float

    def __str__(self) -> str:
        is_finite = np.isfinite(self.value)
        return with_error(self.value, self.error) if is_finite else bold("diverged")


def mean(values: Any) -> Mean:
    """The mean of one figure per seed; None stands for a figure that is not finite."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return Mean(float(values.mean()), float(error))


def has_diverged(run: dict[str, Any]) -> bool:
    """Whether its parameters are not finite, or its model is worse than before training."""
    return run["nll"] is None or not run["nll"] < run["validation"][0][1]


def figures(by_seed: BySeed, name: str) -> list[float | None]:
    """One figure of each run; None for runs that diverged."""
    return [None if has_diverged(run) else run[name] for run in by_seed.values()]


def groups(results: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, BySeed]]]:
    """The finished runs: plan, expected draws, and runs by arm and seed."""
    for name, plan in results["configuration"]["plans"].items():
        for draws, arms in plan["arms"].items():
            runs: dict[str, BySeed] = {arm: {} for arm in arms}
            for run in results["runs"].values():
                if (run["plan"], str(run["draws"])) == (name, draws):
                    runs[run["arm"]][run["seed"]] = run
            runs = {arm: by_seed for arm, by_seed in runs.items() if by_seed}
            if runs:
                yield name, int(draws), runs


def paired_difference(
    runs: dict[str, BySeed], arm: str, figure: str, reference: str = REFERENCE
) -> Mean | None:
    """The mean difference of a figure between two arms, over the seeds that both have."""
    common = sorted(runs.get(arm, {}).keys() & runs.get(reference, {}).keys())
    if arm == reference or not common:
        return None
    one, other = (
        np.array(figures({seed: runs[name][seed] for seed in common}, figure), float)
        for name in (arm, reference)
    )
    return mean(one - other)


def difference_cell(difference: Mean | None) -> str:
    """The difference, in bold if it is more than two standard errors from zero."""
    if difference is None or not np.isfinite(difference.value):
        return "–"
    return bold(str(difference), abs(difference.value) > 2.0 * difference.error)


def diverged_cell(by_seed: BySeed) -> str:
    """How many runs diverged, in bold; empty if none did."""
    count = sum(map(has_diverged, by_seed.values()))
    return bold(f"{count} of {len(by_seed)} diverged") if count else ""


def chance(results: dict[str, Any]) -> str:
    """How often chance alone makes a mean difference exceed two standard errors (Student's t)."""
    num_seeds = len({run["seed"] for run in results["runs"].values()})
    return f"{100 * 2 * student_t.sf(2.0, num_seeds - 1):.0f} %" if num_seeds > 1 else "none"


def draws_cell(arm: dict[str, Any]) -> str:
    """Expected draws of each datum, and those of the baseline."""
    return number(arm["draws"], 1) + baseline_suffix(arm)


def baseline_suffix(arm: dict[str, Any]) -> str:
    """The draws of the baseline, as a summand; empty if there are none."""
    return f" + {arm['baseline_draws']}" if arm["baseline_draws"] else ""


def bias_cell(by_seed: BySeed) -> str:
    """The bias of the training objective; a dash if a run has none."""
    bias = mean(figures(by_seed, "bias"))
    return str(bias) if np.isfinite(bias.value) else "–"


def gradient_header(clipped: bool) -> list[str]:
    """The names of :func:`gradient_cells`."""
    figures = ("norm", "99.9 %", "clipped") if clipped else ("norm", "99.9 %")
    return [f"{part}'s {figure}" for part in ("model", "guide") for figure in figures]


def gradient_cells(by_seed: BySeed, clipped: bool) -> list[str]:
    """Median norm and 99.9 % quantile of the model's gradients, then of the guide's.

    :param clipped: whether each is followed by the share of steps that were clipped.
    """
    cells = []
    for part in ("model", "guide"):
        norms = [run["gradient_norms"][part] for run in by_seed.values()]
        of = lambda figure, norms=norms: mean([each[figure] for each in norms]).value
        cells += [number(of("median"), 1), number(of("99.9 %"), 1)]
        cells += [f"{100 * of('clipped'):.1f} %"] if clipped else []
    return cells
