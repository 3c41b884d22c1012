"""The pictures of the funnel benchmark."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
import numpy as np
from scipy.stats import norm

#: One colour per sampler in every picture (Okabe and Ito's palette, safe for colour blindness).
COLOURS = {
    "sumo": "#D55E00",
    "multilevel": "#7B3294",
    "iwhvi": "#0072B2",
    "iwelbo": "#009E73",
    "iwelbo_standard": "#CC79A7",
    "iwelbo_few": "#E69F00",
    "nuts_centred": "#000000",
    "nuts_noncentred": "#56B4E9",
    "exact": "#777777",
}
X_LIMIT, V_LIMIT = 12.0, 4.4
LOG_DENSITY_LEVELS = [-12.0, -9.0, -7.0, -5.0, -3.5, -2.0, -0.5]

Points = dict[str, np.ndarray]


def grid(size: int = 72) -> tuple[np.ndarray, np.ndarray, Points]:
    """Axes and points of the picture plane; x is spaced finely about the neck of the funnel."""
    x = np.sinh(np.linspace(-1, 1, size) * np.arcsinh(X_LIMIT / 0.05)) * 0.05
    v = np.linspace(-V_LIMIT, V_LIMIT, size)
    x_grid, v_grid = np.meshgrid(x, v)
    return x, v, {"x": x_grid.ravel(), "v": v_grid.ravel()}


def draw_contours(
    file: Path,
    title: str,
    colour: str,
    log_target: Callable[[Points], np.ndarray],
    panels: list[tuple[str, np.ndarray, Points]],
) -> None:
    """Target and learned density along the training, draws laid over.

    :param panels: for each, its heading, the learned log-density on :func:`grid`, and some draws.
    """
    x, v, points = grid()
    exact = log_target(points).reshape(v.size, x.size)
    figure, axes = plt.subplots(2, 3, figsize=(11, 7.4), sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (heading, log_q, draws) in zip(axes.flat, panels):
        axis.scatter(draws["x"], draws["v"], s=3, color=colour, alpha=0.25, linewidths=0)
        contour = {"levels": LOG_DENSITY_LEVELS, "linestyles": "solid"}
        axis.contour(x, v, exact, colors="#999999", linewidths=1.6, **contour)
        if np.isfinite(log_q).any():
            learned = np.nan_to_num(log_q, nan=-1e3, neginf=-1e3).reshape(exact.shape)
            if learned.max() > LOG_DENSITY_LEVELS[0]:
                axis.contour(x, v, learned, colors=colour, linewidths=0.9, **contour)
        else:
            heading += ": not finite"
        axis.set(title=heading, xlim=(-X_LIMIT, X_LIMIT), ylim=(-V_LIMIT, V_LIMIT))
    for axis in axes[-1]:
        axis.set_xlabel("x")
    for axis in axes[:, 0]:
        axis.set_ylabel("v")
    figure.suptitle(f"{title}: learned density (coloured) and target (grey)")
    _save(figure, file)


def draw_training(file: Path, verdicts: dict[str, Any]) -> None:
    """Objective of each arm along its training, with the KL divergence evaluated apart."""
    rows = -(-len(verdicts) // 3)
    figure, axes = plt.subplots(rows, 3, figsize=(11, 3.4 * rows), sharey=True, squeeze=False)
    for axis in axes.flat[len(verdicts) :]:
        axis.set_axis_off()
    for axis, (name, verdict) in zip(axes.flat, verdicts.items()):
        curve, colour = verdict["curve"], COLOURS[name]
        steps, objective = np.array(curve["objective_steps"]), np.array(curve["objective"])
        axis.plot(steps, objective, color=colour, linewidth=1, label="objective")
        lower = np.array([kl["lower"] for kl in curve["kl"]])
        upper = np.array([kl["upper"] for kl in curve["kl"]])
        axis.fill_between(curve["kl_steps"], lower, upper, color="black", alpha=0.25, linewidth=0)
        axis.plot(
            curve["kl_steps"], upper, "k.-", linewidth=1, markersize=5, label="KL, upper bound"
        )
        axis.axhline(0.0, color="#999999", linewidth=0.8)
        if not np.isfinite(objective).all():
            first = steps[~np.isfinite(objective)][0]
            axis.axvline(first, color="#999999", linestyle=":")
            axis.text(first, 0.02, f"not finite\nby step {first} ", ha="right", va="center")
        axis.set_yscale("symlog", linthresh=0.01)
        axis.set(title=verdict["title"], ylim=(-5, 20))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].legend(loc="upper right", fontsize=8, frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    for axis in axes[:, 0]:
        axis.set_ylabel("nats (linear within ± 0.01)")
    _save(figure, file)


def draw_pairs(
    file: Path, panels: list[tuple[str, str, Points]], diverging: dict[str, np.ndarray]
) -> None:
    """Draws of several samplers side by side in the plane, divergent transitions marked."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.2 * len(panels), 4.6), sharex=True, sharey=True
    )
    for axis, (name, title, draws) in zip(axes, panels):
        x, v = draws["x"].ravel(), draws["v"].ravel()
        axis.scatter(x, v, s=4, color=COLOURS[name], alpha=0.3, linewidths=0)
        heading = title
        if name in diverging:
            hit = diverging[name].ravel()
            axis.scatter(x[hit], v[hit], s=9, color="#D55E00", linewidths=0, label="divergent")
            axis.legend(loc="lower right", frameon=False, markerscale=2)
            heading = f"{title}: {hit.sum()} divergent of {hit.size}"
        axis.set(title=heading, xlabel="x", xlim=(-X_LIMIT, X_LIMIT), ylim=(-5, 5))
    axes[0].set_ylabel("v")
    _save(figure, file)


def draw_quantiles(
    file: Path, scale: float, draws: dict[str, np.ndarray], titles: dict[str, str]
) -> None:
    """Quantiles of v of all samplers against the exact ones, and their differences."""
    probabilities = norm.cdf(np.linspace(-3.1, 3.1, 80))
    exact = norm.ppf(probabilities, scale=scale)
    figure, (both, difference) = plt.subplots(1, 2, figsize=(11, 4.8))
    both.plot(exact, exact, color="#bbbbbb", linewidth=4)
    difference.axhline(0.0, color="#bbbbbb", linewidth=4)
    for name, values in draws.items():
        values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        empirical = np.quantile(values, probabilities)
        style = {"color": COLOURS[name], "linewidth": 1.4, "label": titles[name]}
        both.plot(exact, empirical, **style)
        difference.plot(exact, empirical - exact, **style)
    both.set(xlabel="exact quantile of v", ylabel="quantile of the draws", ylim=(-6, 6))
    difference.set(xlabel="exact quantile of v", ylabel="difference", ylim=(-1.5, 1.5))
    difference.legend(frameon=False, fontsize=8, ncols=2)
    _save(figure, file)


def _save(figure, file: Path) -> None:
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=130)
    plt.close(figure)
