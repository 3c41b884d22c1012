"""How far learned figures are from the exact estimate: in percent, and in standard errors."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

#: A figure is right within this many percent, or within this many Monte Carlo errors.
PERCENT, MONTE_CARLO_ERRORS = 0.2, 2.0
#: A figure is wrong beyond this many Monte Carlo errors.
WRONG = 3.0


class Deviation(NamedTuple):
    """A learned figure less the exact estimate: mean over seeds.

    :param percent: of the exact estimate.
    :param percent_error: its Monte Carlo error, the standard error over seeds; NaN with one seed.
    :param in_standard_errors: in statistical standard errors of the exact estimate.
    :param of_one_seed: the root mean square deviation of one seed, in the same unit.
    """

    percent: float
    percent_error: float
    in_standard_errors: float
    of_one_seed: float

    @property
    def z(self) -> float:
        """In Monte Carlo errors."""
        return self.percent / self.percent_error

    @property
    def is_right(self) -> bool:
        """Within 0.2 % of the exact estimate, or within 2 Monte Carlo errors."""
        return abs(self.percent) <= PERCENT or abs(self.z) <= MONTE_CARLO_ERRORS


def deviations(results: dict[str, Any], cell: dict[str, Any]) -> dict[str, Deviation]:
    """The deviation of each figure of a cell; NaN where a seed diverged."""
    exact = results["exact"][cell["model"]]
    found = {}
    for name, seeds in cell["estimates"].items():
        values = np.array([np.nan if value is None else value for value in seeds])
        estimate = exact["estimate"][name]
        difference = values.mean() - estimate
        error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
        to_percent = 100.0 / abs(estimate)
        found[name] = Deviation(
            float(to_percent * difference),
            float(to_percent * error),
            float(difference / exact["standard_error"][name]),
            float(np.mean((values - estimate) ** 2) ** 0.5 / exact["standard_error"][name]),
        )
    return found


def root_mean_square(found: dict[str, Deviation], which: str = "in_standard_errors") -> float:
    """Root mean square over figures, in statistical standard errors.

    :param which: the deviation of the mean over seeds, or ``"of_one_seed"``.
    """
    return float(np.mean([getattr(each, which) ** 2 for each in found.values()]) ** 0.5)


def count_right(found: dict[str, Deviation]) -> str:
    """How many figures are right, of how many."""
    return f"{sum(each.is_right for each in found.values())} / {len(found)}"


def furthest(found: dict[str, Deviation]) -> tuple[str, Deviation]:
    """The figure that is furthest off, in statistical standard errors."""
    return max(
        found.items(),
        key=lambda item: (
            abs(item[1].in_standard_errors) if np.isfinite(item[1].percent) else np.inf
        ),
    )


def select(results: dict[str, Any], **wanted: Any) -> Iterator[dict[str, Any]]:
    """The finished cells with these values of model, guide, loss, draws or optimiser."""
    for cell in results["cells"].values():
        if all(cell[key] == value for key, value in wanted.items()):
            yield cell
