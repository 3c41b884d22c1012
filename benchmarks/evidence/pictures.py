"""The pictures of the evidence benchmark."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
import matplotlib.pyplot as plt
import numpy as np

from benchmarks.common import plots
from benchmarks.evidence.report import TITLES

COLOURS = {
    "iwelbo": plots.GREEN,
    "sumo": plots.VERMILION,
    "multilevel": plots.PURPLE,
}


def draw_biases(file: Path, results: dict[str, Any]) -> None:
    """Bias of each estimator against the mismatch, ± four standard errors."""

    def draw(axis: Axes, name: str, mismatch: np.ndarray, figures: list[dict[str, float]]) -> None:
        bias = np.array([of["bias"] for of in figures])
        error = 4.0 * np.array([of["bias_se"] for of in figures])
        x = mismatch + 0.008 * (list(TITLES).index(name) - 1)
        style: dict[str, Any] = {"markersize": 4, "color": COLOURS[name], "label": TITLES[name]}
        axis.errorbar(x, bias, error, fmt="o", capsize=2, **style)
        if name == next(iter(TITLES)):
            axis.axhline(0.0, color=plots.LIGHT_GREY, linewidth=0.8)
        axis.set_yscale("symlog", linthresh=0.01)

    _draw_by_model(
        file, results, draw, "bias ± 4 standard errors, nats\n(linear within ± 0.01)", "lower left"
    )


def draw_costs(file: Path, results: dict[str, Any]) -> None:
    """Variance times mean draws of each estimator against the mismatch."""

    def draw(axis: Axes, name: str, mismatch: np.ndarray, figures: list[dict[str, float]]) -> None:
        cost = np.array([of["variance_times_draws"] for of in figures])
        shown = mismatch > 0.0  # at the exact posterior the variance is zero but for rounding
        style: dict[str, Any] = {"markersize": 4, "color": COLOURS[name], "label": TITLES[name]}
        axis.plot(mismatch[shown], cost[shown], "o-", **style)
        axis.set_yscale("log")

    _draw_by_model(file, results, draw, "variance × draws, nats²", "upper left")


def _draw_by_model(file: Path, results: dict[str, Any], draw: Any, label: str, legend: str) -> None:
    """One panel per model, with the curve of each estimator by ``draw``."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.4), sharex=True)
    for axis, entry in zip(axes.flat, results["models"].values()):
        axis.set_title(entry["title"])
        for name in TITLES:
            cells = [cell for cell in entry["cells"] if name in cell["estimators"]]
            if cells:
                mismatch = np.array([cell["mismatch"] for cell in cells])
                draw(axis, name, mismatch, [cell["estimators"][name] for cell in cells])
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    for axis in axes[-1]:
        axis.set_xlabel("mismatch of the guide")
    axes[0, 0].legend(frameon=False, fontsize=8, loc=legend)
    plots.save(figure, file)
