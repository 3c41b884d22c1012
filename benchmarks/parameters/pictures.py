"""The picture of the parameters benchmark."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

from benchmarks.common import plots
from benchmarks.parameters.errors import deviations, root_mean_square, select
from benchmarks.parameters.models import MODELS

COLOURS = {
    "ELBO": plots.GREY,
    "IWELBO": plots.GREEN,
    "SUMO": plots.VERMILION,
    "MultilevelSUMO": plots.PURPLE,
}


def draw_deviations(file: Path, results: dict[str, Any]) -> None:
    """Deviation from the exact estimate against seconds, a panel for each model."""
    figure, axes = plt.subplots(2, 4, figsize=(15, 7), sharex=True, sharey=True)
    num_seeds = results["configuration"]["seeds"]
    for axis, model in zip(axes.flat, results["exact"]):
        axis.set_title(MODELS[model].title, fontsize=10)
        for loss, colour in COLOURS.items():
            found = sorted(
                (cell["draws"], cell["seconds"] / num_seeds, deviations(results, cell))
                for cell in select(results, model=model, guide="local", loss=loss)
            )
            if found:
                seconds = [each[1] for each in found]
                biases = [root_mean_square(each[2]) for each in found]
                axis.loglog(seconds, biases, "o-", color=colour, label=loss, markersize=4)
                for draws, x, of in found:
                    axis.annotate(str(draws), (x, root_mean_square(of)), fontsize=7)
    for axis in axes.flat:
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.xaxis.set_major_formatter("{x:g}")
    for axis in axes[:, 0]:
        axis.set_ylabel("deviation, statistical standard errors")
    for axis in axes[-1]:
        axis.set_xlabel("seconds of one core for one seed")
    axes[0, 0].legend(frameon=False, fontsize=8)
    plots.save(figure, file)
