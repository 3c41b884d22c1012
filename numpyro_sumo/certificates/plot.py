"""The picture of a certificate: the tail of its weights, and its marginals."""

from typing import Any

import numpy as np

from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

from .certified_draws import CertifiedDraws
from .marginals import in_columns, weight_columns

_MOST_MARGINALS = 12
_COLUMNS = 3
_AS_DRAWN, _CORRECTED = "#b35806", "#2166ac"


def plot_certificate(certificate: CertifiedDraws, sites: list[str] | None) -> Any:
    """See :meth:`.Certificate.plot`."""
    numbers = _chosen_numbers(certificate, sites)
    latents, relative = certificate.latents, certificate.weights.relative
    values, weights = in_columns(latents), weight_columns(latents, certificate.plated, relative)
    rows = 1 + -(-len(numbers) // _COLUMNS)
    figure = new_figure(2.6 * rows)
    grid = figure.add_gridspec(rows, _COLUMNS)
    _draw_tail(figure.add_subplot(grid[0, :]), certificate)
    for place, number in enumerate(numbers):
        axes = figure.add_subplot(grid[1 + place // _COLUMNS, place % _COLUMNS])
        _draw_marginal(axes, values[:, number], weights[:, number])
        axes.set_title(certificate.marginals.names[number], fontsize="medium")
        if place == 0:
            axes.legend(frameon=False, fontsize="small")
    return figure


def new_figure(height: float) -> Any:
    """An empty figure of matplotlib, so many inches high.

    :raises ValueError: without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(
            "Expected the package matplotlib, which draws the picture; it is not installed. Run "
            "pip install matplotlib."
        ) from error
    return Figure(figsize=(9.0, height), layout="constrained")


def _chosen_numbers(certificate: CertifiedDraws, sites: list[str] | None) -> list[int]:
    """Places in the marginals: those of the sites, or the six whose mean or sd is worst."""
    marginals, known = certificate.marginals, certificate.plated.event_dims
    if sites is None:
        badness = np.maximum(np.abs(marginals.shift), np.abs(marginals.sd_ratio - 1.0))
        return [int(place) for place in np.argsort(-badness)[: 2 * _COLUMNS]]
    if unknown := [site for site in sites if site not in known]:
        raise ValueError(
            f"Expected latent sites, of {sorted(known)}; got {unknown}. Name some of these."
        )
    of_sites = [k for k, name in enumerate(marginals.names) if name.partition("[")[0] in set(sites)]
    return of_sites[:_MOST_MARGINALS]


def _draw_tail(axes: Any, certificate: CertifiedDraws) -> None:
    """The largest relative weights against their rank; of the datum with the largest k-hat."""
    relative = certificate.weights.relative.reshape(certificate.num_samples, -1)
    worst = int(np.argmax(certificate.weights.pareto_k))
    largest = np.sort(relative[:, worst])[::-1][: max(certificate.num_samples // 5, 1)]
    axes.loglog(np.arange(1, len(largest) + 1), largest, ".", color=_CORRECTED, markersize=3)
    axes.set_xlabel("rank of the draw, largest weight first")
    axes.set_ylabel("weight / mean weight")
    trusted = "trusted" if certificate.pareto_k <= LARGEST_PARETO_K else "not trusted"
    where = " of the worst datum" if certificate.per_datum is not None else ""
    axes.set_title(
        f"Largest fifth of the weights{where}: k-hat {certificate.pareto_k:.2f}, {trusted}",
        fontsize="medium",
    )


def _draw_marginal(axes: Any, values: np.ndarray, weights: np.ndarray) -> None:
    low, high = np.quantile(values, [0.001, 0.999])
    bins = np.linspace(low, high, 50) if high > low else 10
    options = {"bins": bins, "density": True, "histtype": "step"}
    axes.hist(values, color=_AS_DRAWN, label="as drawn", **options)
    axes.hist(values, weights=weights, color=_CORRECTED, label="corrected", **options)
    axes.set_yticks([])
