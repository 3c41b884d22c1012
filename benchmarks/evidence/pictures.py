"""The pictures of the evidence benchmark."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

#: Okabe and Ito's palette, safe for colour blindness.
COLOURS = {"iwelbo": "#009E73", "sumo": "#D55E00", "roulette": "#7B3294", "single": "#0072B2"}


def draw_biases(file: Path, results: dict[str, Any], titles: dict[str, str]) -> None:
    """Bias of each estimator against mismatch, with four standard errors either side."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.4), sharex=True)
    for axis, entry in zip(axes.flat, results["models"].values()):
        for offset, name in zip((-0.012, -0.004, 0.004, 0.012), titles):
            mismatch, values = _curve(entry, name)
            bias = np.array([v["bias"] for v in values])
            error = 4.0 * np.array([v["bias_se"] for v in values])
            style = {"color": COLOURS[name], "label": titles[name]}
            axis.errorbar(mismatch + offset, bias, error, fmt="o", markersize=4, capsize=2, **style)
        axis.axhline(0.0, color="#999999", linewidth=0.8)
        axis.set_yscale("symlog", linthresh=0.01)
        axis.set_title(entry["title"])
    for axis in axes[:, 0]:
        axis.set_ylabel("bias ± 4 standard errors, nats\n(linear within ± 0.01)")
    _finish(figure, axes, file, "lower left")


def draw_costs(file: Path, results: dict[str, Any], titles: dict[str, str]) -> None:
    """Variance times mean draws against mismatch."""
    figure, axes = plt.subplots(2, 2, figsize=(11, 7.4), sharex=True)
    for axis, entry in zip(axes.flat, results["models"].values()):
        for name in titles:
            mismatch, values = _curve(entry, name)
            cost = np.array([v["variance_times_draws"] for v in values])
            shown = mismatch > 0.0  # at the exact posterior there is none, but for rounding
            style = {"color": COLOURS[name], "label": titles[name]}
            axis.plot(mismatch[shown], cost[shown], "o-", markersize=4, **style)
        axis.set_yscale("log")
        axis.set_title(entry["title"])
    for axis in axes[:, 0]:
        axis.set_ylabel("variance × draws, nats²")
    _finish(figure, axes, file, "upper left")


def _curve(entry: dict[str, Any], name: str) -> tuple[np.ndarray, list[dict[str, float]]]:
    cells = [cell for cell in entry["cells"] if name in cell["estimators"]]
    return np.array([c["mismatch"] for c in cells]), [c["estimators"][name] for c in cells]


def _finish(figure, axes, file: Path, legend: str) -> None:
    for axis in axes[-1]:
        axis.set_xlabel("mismatch of the guide")
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(frameon=False, fontsize=8, loc=legend)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
