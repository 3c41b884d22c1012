"""The pictures of the funnel benchmark."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator
import numpy as np
from scipy.stats import norm

import jax
import jax.numpy as jnp

from benchmarks.common import plots
from benchmarks.funnel.models import GUIDE, SCALE_OF_V, TITLES, log_target
from benchmarks.funnel.run import Outcome, Scale, draw_learned
from numpyro_sumo import log_marginal

#: One colour per sampler in every picture.
COLOURS = {
    "sumo": plots.VERMILION,
    "multilevel": plots.PURPLE,
    "iwhvi": plots.BLUE,
    "iwelbo": plots.GREEN,
    "iwelbo_standard": plots.PINK,
    "iwelbo_few": plots.ORANGE,
    "nuts_centred": plots.BLACK,
    "nuts_noncentred": plots.SKY,
    "exact": plots.GREY,
}
#: The samplers shown side by side by :func:`draw_pairs`, as far as there are any.
SIDE_BY_SIDE = ("nuts_centred", "sumo", "multilevel", "iwhvi", "exact")
X_LIMIT, V_LIMIT = 12.0, 4.4
LOG_DENSITY_LEVELS = [-12.0, -9.0, -7.0, -5.0, -3.5, -2.0, -0.5]

Points = dict[str, np.ndarray]


def draw_pictures(folder: Path, outcome: Outcome, rng_key: jax.Array, scale: Scale) -> None:
    """Draw all pictures into ``folder``."""
    points = jax.tree.map(jnp.asarray, grid()[2])

    @jax.jit
    def log_q(params):
        num_particles = scale.contour_particles
        return log_marginal(rng_key, GUIDE, params, points, num_particles=num_particles)

    samplers = outcome.results["samplers"]
    runs = {name: run for name, run in outcome.runs.items() if name in samplers}
    for name, run in runs.items():
        panels = []
        for step, params in every_fifth(run.snapshots).items():
            draws = draw_learned(rng_key, params, scale.draws)
            few = {site: draws[site][:1_500] for site in ("v", "x")}
            panels.append((f"step {step}", np.asarray(log_q(params)), few))
        draw_contours(folder / f"contours_{name}.png", name, panels)
    draw_training(folder / "training.png", {name: samplers[name] for name in runs})
    draws_of = {
        name: {site: data.posterior[site].values.ravel() for site in ("v", "x")}
        for name, data in outcome.data.items()
    }
    diverging = {
        name: data.sample_stats["diverging"].values.ravel()
        for name, data in outcome.data.items()
        if name == "nuts_centred"
    }
    shown = {name: draws_of[name] for name in SIDE_BY_SIDE if name in draws_of}
    draw_pairs(folder / "pairs.png", shown, diverging)
    draw_quantiles(folder / "quantiles.png", {name: of["v"] for name, of in draws_of.items()})


def every_fifth(snapshots: dict[int, Any]) -> dict[int, Any]:
    """The snapshots nearest to 0 %, 20 % … 100 % of the training."""
    steps = np.array(list(snapshots))
    wanted = steps[-1] * np.linspace(0, 1, 6)
    return {int(s): snapshots[int(s)] for s in steps[np.abs(steps[:, None] - wanted).argmin(0)]}


def grid(size: int = 72) -> tuple[np.ndarray, np.ndarray, Points]:
    """Axes and points of the contour plots; x is spaced finely about zero."""
    x = np.sinh(np.linspace(-1, 1, size) * np.arcsinh(X_LIMIT / 0.05)) * 0.05
    v = np.linspace(-V_LIMIT, V_LIMIT, size)
    x_grid, v_grid = np.meshgrid(x, v)
    return x, v, {"x": x_grid.ravel(), "v": v_grid.ravel()}


def draw_contours(file: Path, name: str, panels: list[tuple[str, np.ndarray, Points]]) -> None:
    """Contours of the target and of the learned density during training, with draws.

    :param panels: heading, learned log-density on :func:`grid`, and some draws of each panel.
    """
    x, v, points = grid()
    colour = COLOURS[name]
    exact = log_target(points).reshape(v.size, x.size)
    figure, axes = plt.subplots(2, 3, figsize=(11, 7.4), sharex=True, sharey=True)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (heading, log_q, draws) in zip(axes.flat, panels):
        axis.scatter(draws["x"], draws["v"], s=3, color=colour, alpha=0.25, linewidths=0)
        contour = {"levels": LOG_DENSITY_LEVELS, "linestyles": "solid"}
        axis.contour(x, v, exact, colors=plots.LIGHT_GREY, linewidths=1.6, **contour)
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
    figure.suptitle(f"{TITLES[name]}: learned density (coloured) and target (grey)")
    plots.save(figure, file)


def draw_training(file: Path, verdicts: dict[str, Any]) -> None:
    """Objective of each loss during training, and the KL divergence from separate draws."""
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
        axis.axhline(0.0, color=plots.LIGHT_GREY, linewidth=0.8)
        if not np.isfinite(objective).all():
            first = steps[~np.isfinite(objective)][0]
            axis.axvline(first, color=plots.LIGHT_GREY, linestyle=":")
            axis.text(first, 0.02, f"not finite\nby step {first} ", ha="right", va="center")
        axis.set_yscale("symlog", linthresh=0.01)
        axis.set(title=verdict["title"], ylim=(-5, 20))
        axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes[0, 0].legend(loc="upper right", fontsize=8, frameon=False)
    for axis in axes[-1]:
        axis.set_xlabel("step")
    for axis in axes[:, 0]:
        axis.set_ylabel("nats (linear within ± 0.01)")
    plots.save(figure, file)


def draw_pairs(
    file: Path, samplers: dict[str, Points], diverging: dict[str, np.ndarray], most: int = 4_000
) -> None:
    """Draws of x against v of several samplers side by side, divergent transitions marked."""
    size = 4.2 * len(samplers), 4.6
    figure, ((*axes,),) = plt.subplots(
        1, len(samplers), figsize=size, sharex=True, sharey=True, squeeze=False
    )
    for axis, (name, draws) in zip(axes, samplers.items()):
        x, v = draws["x"][:most], draws["v"][:most]
        axis.scatter(x, v, s=4, color=COLOURS[name], alpha=0.3, linewidths=0)
        heading = TITLES[name]
        if name in diverging:
            hit = diverging[name][:most]
            style = {"color": plots.VERMILION, "linewidths": 0, "label": "divergent"}
            axis.scatter(x[hit], v[hit], s=9, **style)
            axis.legend(loc="lower right", frameon=False, markerscale=2)
            heading += f": {hit.sum()} divergent of {hit.size}"
        axis.set(title=heading, xlabel="x", xlim=(-X_LIMIT, X_LIMIT), ylim=(-5, 5))
    axes[0].set_ylabel("v")
    plots.save(figure, file)


def draw_quantiles(file: Path, draws: dict[str, np.ndarray]) -> None:
    """Quantiles of v of each sampler against the exact ones, and their differences."""
    probabilities = norm.cdf(np.linspace(-3.1, 3.1, 80))
    exact = norm.ppf(probabilities, scale=SCALE_OF_V)
    figure, (both, difference) = plt.subplots(1, 2, figsize=(11, 4.8))
    both.plot(exact, exact, color="#bbbbbb", linewidth=4)
    difference.axhline(0.0, color="#bbbbbb", linewidth=4)
    for name, values in draws.items():
        values = values[np.isfinite(values)]
        if values.size == 0:
            continue
        empirical = np.quantile(values, probabilities)
        style = {"color": COLOURS[name], "linewidth": 1.4, "label": TITLES[name]}
        both.plot(exact, empirical, **style)
        difference.plot(exact, empirical - exact, **style)
    both.set(xlabel="exact quantile of v", ylabel="quantile of the draws", ylim=(-6, 6))
    difference.set(xlabel="exact quantile of v", ylabel="difference", ylim=(-1.5, 1.5))
    difference.legend(frameon=False, fontsize=8, ncols=2)
    plots.save(figure, file)
