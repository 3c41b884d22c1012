"""The pictures of the posterior benchmark: marginals, pairs and ranks of each model."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm, rankdata

from benchmarks.common import plots
from benchmarks.posterior.problems import Problem
from benchmarks.posterior.reference import Reference
from benchmarks.posterior.samplers import TITLES, Samples

COLOURS = {
    "reference": plots.GREY,
    "raw": plots.ORANGE,
    "metropolis": plots.VERMILION,
    "nuts": plots.BLACK,
}
DIVERGENT = plots.SKY
CHAIN_COLOURS = (plots.BLUE, plots.VERMILION, plots.GREEN, plots.PINK)
NUM_DOTS = 4_000


def draw_pictures(
    folder: Path, problem: Problem, reference: Reference, samples: dict[str, Samples]
) -> None:
    """Draw all pictures of a problem into ``folder``.

    :param samples: by the names of :data:`.samplers.TITLES`.
    """
    draw_marginals(folder / f"marginals_{problem.name}.png", problem, reference, samples)
    draw_pairs(folder / f"pairs_{problem.name}.png", problem, samples)
    draw_ranks(folder / f"ranks_{problem.name}.png", problem, samples)


def draw_marginals(
    file: Path, problem: Problem, reference: Reference, samples: dict[str, Samples]
) -> None:
    """Densities of the shown quantities; below, errors of their quantiles."""
    names = problem.shown
    figure, axes = plt.subplots(2, len(names), figsize=(4.2 * len(names), 6.4), squeeze=False)
    shown = [name for name in ("nuts", "raw", "metropolis") if name in samples]
    for (density, error), quantity in zip(axes.T, names):
        exact = reference.exact[quantity]
        edges = np.linspace(exact.ppf(0.005), exact.ppf(0.995), 61)
        width = edges[1] - edges[0]
        style = {"color": COLOURS["reference"], "alpha": 0.35, "label": TITLES["reference"]}
        density.stairs(np.diff(exact.cdf(edges)) / width, edges, fill=True, **style)
        probabilities = np.concatenate([[0.005], norm.cdf(np.linspace(-2.5, 2.5, 51)), [0.995]])
        exact_quantiles = np.array([exact.ppf(p) for p in probabilities])
        error.axhline(0.0, color=COLOURS["reference"], alpha=0.5, linewidth=4)
        for name in shown:
            values = samples[name].draws[quantity]
            values = values[np.isfinite(values)]
            if values.size == 0:
                continue
            style = {"color": COLOURS[name], "linewidth": 1.3, "label": TITLES[name]}
            shares = np.histogram(values, edges)[0] / values.size
            density.stairs(shares / width, edges, baseline=None, **style)
            errors = (np.quantile(values, probabilities) - exact_quantiles) / exact.std()
            error.plot(exact_quantiles, errors, **style)
        density.set(title=quantity, yticks=[])
        for axis in (density, error):
            axis.locator_params(axis="x", nbins=6)
        error.set(xlabel=f"quantile of {quantity}", xlim=density.get_xlim())
        reach = max(np.abs(error.get_ylim()))
        error.set_ylim(-min(reach, 1.0), min(reach, 1.0))
    axes[0, 0].set_ylabel("density")
    axes[1, 0].set_ylabel("error of the quantile, in sds")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), frameon=False)
    plots.save(figure, file, top=0.94)


def draw_pairs(file: Path, problem: Problem, samples: dict[str, Samples]) -> None:
    """Two quantities against each other for each sampler, divergent transitions marked."""
    across, up = problem.pair
    shown = [n for n in ("reference", "raw", "metropolis", "nuts") if n in samples]
    figure, axes = plt.subplots(
        1, len(shown), figsize=(3.4 * len(shown), 3.7), sharex=True, sharey=True
    )
    limits = {name: _limits(samples["reference"].draws[name]) for name in (across, up)}
    for axis, name in zip(axes, shown):
        draws = {key: samples[name].draws[key].ravel() for key in (across, up)}
        every = max(1, draws[up].size // NUM_DOTS)
        style = {"s": 3, "alpha": 0.3, "linewidths": 0, "rasterized": True}
        axis.scatter(draws[across][::every], draws[up][::every], color=COLOURS[name], **style)
        heading = TITLES[name]
        in_view = min(_share_within(draws[key], limits[key]) for key in (across, up))
        if in_view < 0.9:
            heading += f": {100 * in_view:.0f} % in view"
        diverging = samples[name].diverging
        if name == "nuts" and diverging is not None:
            hit = diverging.ravel()
            axis.scatter(draws[across][hit], draws[up][hit], s=9, color=DIVERGENT, linewidths=0)
            heading += f": {hit.sum()} divergent (blue)" if hit.any() else ": none divergent"
        axis.set(title=heading, xlabel=across, xlim=limits[across], ylim=limits[up])
        axis.title.set_fontsize(10)
    axes[0].set_ylabel(up)
    plots.save(figure, file)


def _share_within(values: np.ndarray, limits: tuple[float, float]) -> float:
    return float(((values >= limits[0]) & (values <= limits[1])).mean())


def draw_ranks(file: Path, problem: Problem, samples: dict[str, Samples]) -> None:
    """Rank histograms of each chain: flat where the chains agree."""
    shown = [name for name in ("metropolis", "nuts") if name in samples]
    names = problem.shown[:2]
    figure, axes = plt.subplots(
        len(names), len(shown), figsize=(5.2 * len(shown), 2.6 * len(names)), squeeze=False
    )
    for row, quantity in zip(axes, names):
        for axis, name in zip(row, shown):
            draws = samples[name].draws[quantity]
            shares = rank_shares(draws)
            even = 1.0 / shares.shape[1]
            for chain, (share, colour) in enumerate(zip(shares, CHAIN_COLOURS)):
                edges = np.linspace(0.0, 1.0, share.size + 1)
                style = {"color": colour, "linewidth": 1.4, "label": f"{chain + 1}"}
                axis.stairs(share / even, edges, baseline=None, **style)
            spread = 2.0 * ((1.0 - even) / (even * draws.shape[1])) ** 0.5
            axis.axhspan(1.0 - spread, 1.0 + spread, color="#777777", alpha=0.2, linewidth=0)
            axis.set(title=f"{quantity}: {TITLES[name]}", xlim=(0.0, 1.0), ylim=(0.0, 2.5))
        row[0].set_ylabel("frequency / uniform")
    for axis in axes[-1]:
        axis.set_xlabel("rank among the draws of all chains")
    axes[0, -1].legend(title="chain", frameon=False, ncols=4, fontsize=8, title_fontsize=8)
    plots.save(figure, file)


def rank_shares(draws: np.ndarray, num_bins: int = 20) -> np.ndarray:
    """The share of each chain's draws whose rank among all draws falls in each bin.

    :param draws: shape ``(chain, draw)``.
    :return: shape ``(chain, bin)``; rows sum to one.
    """
    ranks = (rankdata(draws).reshape(draws.shape) - 0.5) / draws.size
    bins = np.minimum((ranks * num_bins).astype(int), num_bins - 1)
    return np.stack([np.bincount(row, minlength=num_bins) / row.size for row in bins])


def _limits(draws: np.ndarray) -> tuple[float, float]:
    """A range that holds nearly all reference draws, with a margin."""
    low, high = np.quantile(draws, [0.002, 0.998])
    margin = 0.08 * (high - low)
    return float(low - margin), float(high + margin)
