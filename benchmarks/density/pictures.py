"""The pictures of the density benchmark."""

from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import seed, substitute, trace
from numpyro.infer import Predictive

from benchmarks.common import plots
from benchmarks.density.bench import Bench
from benchmarks.density.models import PIXELS, Task, plane_prior
from benchmarks.density.plans import Cell
from benchmarks.density.tables import groups, mean

COLOURS = {
    "elbo": plots.SKY,
    "iwelbo": plots.GREEN,
    "sumo": plots.VERMILION,
    "sumo_cut": plots.ORANGE,
    "multilevel": plots.PURPLE,
    "multilevel_cut": plots.PINK,
}
NUM_IMAGES = 14
GRID = 80


def draw_training(file: Path, results: dict[str, Any]) -> None:
    """Validation loss during training on the digits: mean over seeds and its standard error."""
    panels = [group for group in groups(results) if group[0] == "digits"]
    figure, axes = plt.subplots(1, len(panels), figsize=(4.2 * len(panels), 4.0), squeeze=False)
    lowest, highest = np.inf, -np.inf
    for axis, (_, draws, runs) in zip(axes[0], panels):
        arms = results["configuration"]["plans"]["digits"]["arms"][str(draws)]
        titles = {arm: config["title"] for arm, config in arms.items()}
        for arm, by_seed in runs.items():
            curves = np.array([run["validation"] for run in by_seed.values()], float)
            epochs, values = curves[0, 1:, 0], curves[:, 1:, 1]
            at, error = np.array([mean(of_epoch) for of_epoch in values.T]).T
            style = {"color": COLOURS[arm], "linestyle": "--" if "cut" in arm else "-"}
            axis.plot(epochs, at, marker="o", markersize=3, label=titles[arm], **style)
            axis.fill_between(epochs, at - error, at + error, alpha=0.2, color=COLOURS[arm])
            if np.isfinite(at).all():
                lowest, highest = min(lowest, at.min()), max(highest, np.quantile(at, 0.9))
        axis.set_title(f"{draws} draws")
        axis.set_xlabel("epoch")
    for axis in axes[0] if lowest < highest else []:
        axis.set_ylim(lowest - 0.1 * (highest - lowest), highest + 0.1 * (highest - lowest))
    axes[0, 0].set_ylabel("validation NLL, nats per image")
    axes[0, -1].legend(frameon=False, fontsize=8)
    plots.save(figure, file)


def draw_images(
    file: Path, images: np.ndarray, rows: list[tuple[str, np.ndarray, np.ndarray]]
) -> None:
    """Test images; for each arm, their reconstructions and draws from the prior.

    :param rows: title, then probabilities of reconstructions and of prior draws, each of shape
        ``(NUM_IMAGES, 64)``.
    """
    figure, axes = plt.subplots(1 + len(rows), 1, figsize=(11, 0.5 * (1 + len(rows)) + 0.4))
    blank = np.full((8, 6), np.nan)
    shades = matplotlib.colormaps["gray_r"].with_extremes(bad="white")
    top = ("data", images, np.full_like(images, np.nan))
    for axis, (title, left, right) in zip(np.atleast_1d(axes), [top, *rows]):
        strips = [_strip(left), blank, _strip(right)]
        axis.imshow(np.concatenate(strips, axis=1), cmap=shades, vmin=0, vmax=1)
        axis.set_yticks([3.5], [title])
        axis.set_xticks([])
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    width = NUM_IMAGES * 9
    first = np.atleast_1d(axes)[0]
    first.text(0, -1.5, "test images, and reconstructions", fontsize=10)
    first.text(width + 6, -1.5, "draws from the prior", fontsize=10)
    plots.save(figure, file, boxed=True)


def draw_plane(
    file: Path,
    points: np.ndarray,
    panels: list[tuple[str, np.ndarray]],
    extent: tuple[float, float, float, float],
) -> None:
    """The data, and each learned density on a grid."""
    figure, axes = plt.subplots(1, 1 + len(panels), figsize=(3.0 * (1 + len(panels)), 3.3))
    axes[0].scatter(*points.T, s=2, color="#333333", linewidth=0)
    axes[0].set_title("data")
    highest = max(np.quantile(np.exp(values), 0.995) for _, values in panels)
    for axis, (title, log_density) in zip(axes[1:], panels):
        density = np.exp(log_density).reshape(GRID, GRID)
        axis.imshow(density, origin="lower", extent=extent, cmap="magma_r", vmin=0, vmax=highest)
        axis.set_title(title)
    for axis in axes:
        axis.set_xlim(*extent[:2])
        axis.set_ylim(*extent[2:])
        axis.set_aspect("equal")
        axis.set_xticks([])
        axis.set_yticks([])
    plots.save(figure, file, boxed=True)


def draw_pictures(folder: Path, results: dict[str, Any], bench: Bench) -> None:
    """Draw all pictures for which there are finished trainings into ``folder``."""
    if any(group[0] == "digits" for group in groups(results)):
        draw_training(folder / "training.png", results)
    for name, plan in bench.plans.items():
        draws, judge = next(iter(plan.arms)), bench.judges[name]
        trained = {
            arm.title: params
            for key, arm in plan.arms[draws].items()
            if (params := bench.average(Cell(name, draws, key, 0))) is not None
        }
        if not trained:
            continue
        if name == "digits":
            images = judge.observed(plan.task.data.test[:NUM_IMAGES])
            rows = [(title, *_decoded(plan.task, p, images)) for title, p in trained.items()]
            draw_images(folder / "images.png", images, rows)
        else:
            points, extent = _grid()
            panels = [(t, judge.log_density(p, points, plane_prior)) for t, p in trained.items()]
            draw_plane(folder / f"plane_{name}.png", plan.task.data.train, panels, extent)


def _decoded(task: Task, params: Any, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixel probabilities given latents drawn from the guide, and given latents of the prior."""
    key = random.key(0)
    guided = Predictive(task.guide, params=params, num_samples=1)(key, jnp.asarray(images))
    prior = random.normal(key, guided["z"][0].shape)
    reconstructed, drawn = (_probabilities(task, params, z) for z in (guided["z"][0], prior))
    return np.asarray(reconstructed), np.asarray(drawn)


def _probabilities(task: Task, params: Any, z: jax.Array) -> jax.Array:
    """The mean of each pixel given latents."""
    model = seed(substitute(substitute(task.model, params), {"z": z}), 0)
    return trace(model).get_trace(jnp.zeros((len(z), PIXELS)))["x"]["fn"].mean


def _strip(images: np.ndarray) -> np.ndarray:
    """Images in a row, separated by a blank column."""
    gap = np.full((8, 1), np.nan)
    side = int(PIXELS**0.5)
    return np.concatenate([part for i in images for part in (i.reshape(side, side), gap)], axis=1)


def _grid() -> tuple[np.ndarray, tuple[float, float, float, float]]:
    ends = np.linspace(-2.4, 2.4, GRID)
    across, up = np.meshgrid(ends, ends)
    return np.stack([across.ravel(), up.ravel()], axis=1).astype(np.float32), (-2.4, 2.4, -2.4, 2.4)
