"""The picture of a posterior: marginals by chain, beside those of the guide."""

from typing import Any

import numpy as np

from numpyro_sumo.certificates.marginals import in_columns
from numpyro_sumo.certificates.plot import new_figure

from .posterior_draws import PosteriorDraws

_MOST_MARGINALS, _COLUMNS, _BINS = 12, 3, 40
_CHAIN, _GUIDE = "#2166ac", "#b35806"


def plot_posterior(posterior: PosteriorDraws) -> Any:
    """See :meth:`.Posterior.plot`."""
    summary, names = posterior.diagnostics.summary, list(posterior.certificate.latents)
    chains, draws = posterior.draws[names[0]].shape[:2]
    flat = {
        n: posterior.draws[n].reshape(chains * draws, *posterior.draws[n].shape[2:]) for n in names
    }
    of_chains = in_columns(flat).reshape(chains, draws, -1)
    of_guide = in_columns(posterior.certificate.latents)
    labels = posterior.certificate.marginals.names
    r_hat = dict(zip(summary.names, np.nan_to_num(summary.r_hat, nan=np.inf)))
    order = sorted(range(len(labels)), key=lambda i: -r_hat.get(labels[i], 0.0))[:_MOST_MARGINALS]
    rows = -(-len(order) // _COLUMNS)
    figure = new_figure(2.4 * rows + 0.4)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes, number in zip(grid.flat, order):
        _draw_marginal(axes, of_chains[..., number], of_guide[:, number])
        label = labels[number]
        axes.set_title(f"{label}: R-hat {r_hat.get(label, np.nan):.3f}", fontsize="medium")
    for axes in list(grid.flat)[len(order) :]:
        axes.axis("off")
    handles, texts = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_marginal(axes: Any, of_chains: np.ndarray, of_guide: np.ndarray) -> None:
    """A curve for each chain, before the guide's histogram."""
    low, high = np.quantile(of_chains, [0.001, 0.999])
    edges = np.linspace(low, high, _BINS + 1)
    axes.hist(
        np.clip(of_guide, low, high),
        edges,
        density=True,
        color=_GUIDE,
        alpha=0.35,
        label="draws of the guide",
    )
    for number, chain in enumerate(of_chains):
        heights = np.histogram(np.clip(chain, low, high), edges, density=True)[0]
        label = "chains" if number == 0 else None
        axes.stairs(heights, edges, color=_CHAIN, linewidth=0.9, label=label)
    axes.set_yticks([])
