"""Means and sds of each latent number as the guide draws it and as its weights correct it."""

from typing import NamedTuple

import numpy as np

from .error_bounds import ErrorBounds, error_bounds
from .moment_tails import MomentTails, moment_tails
from .plated import Plated
from .weights import WeightSummary


class Marginals(NamedTuple):
    """A row for each number among the latent sites.

    :param names: ``site`` or ``site[i, j]``.
    :param mean: of the guide's draws; likewise ``sd``.
    :param corrected_mean: under the weights; likewise ``corrected_sd``.
    :param shift: (mean − corrected mean) / corrected sd, with standard error ``shift_se``.
    :param sd_ratio: sd / corrected sd, with standard error ``sd_ratio_se``.
    :param bounds: bounds on the errors of the guide's means, sds and quantiles.
    :param pareto_k: k-hats of the corrected mean (``pareto_k.mean``) and of the corrected sd
        (``pareto_k.sd``).
    """

    names: tuple[str, ...]
    mean: np.ndarray
    sd: np.ndarray
    corrected_mean: np.ndarray
    corrected_sd: np.ndarray
    shift: np.ndarray
    shift_se: np.ndarray
    sd_ratio: np.ndarray
    sd_ratio_se: np.ndarray
    bounds: ErrorBounds
    pareto_k: MomentTails


def marginals_of(
    latents: dict[str, np.ndarray], weights: WeightSummary, plated: Plated
) -> Marginals:
    """The marginals of draws, by the weights of the datum that each number belongs to.

    :param latents: values by site, with a leading axis of draws.
    """
    names = tuple(name for site, values in latents.items() for name in _names(site, values))
    values = in_columns(latents)
    smoothed, relative = (
        weight_columns(latents, plated, of_data) for of_data in (weights.smoothed, weights.relative)
    )
    pareto_ks = _pareto_ks(latents, weights, plated)
    mean, sd = values.mean(axis=0), values.std(axis=0)
    corrected_mean = (smoothed * values).sum(axis=0)
    deviation = values - corrected_mean
    variance = (smoothed * deviation**2).sum(axis=0)
    corrected_sd = np.sqrt(variance)
    count = len(values)
    # The same draws under both measures: what they have in common is no error of the difference.
    difference = 1.0 - count * smoothed
    error = lambda terms: np.sqrt((terms**2).sum(axis=0)) / count
    safe_sd = np.where(corrected_sd > 0.0, corrected_sd, 1.0)
    shift = (mean - corrected_mean) / safe_sd
    # A self-normalised mean of squares is linear in weights times squares less that mean.
    squares = (values - mean) ** 2 - sd**2 - count * smoothed * (deviation**2 - variance)
    ratio = np.where(corrected_sd > 0.0, sd / safe_sd, np.where(sd > 0.0, np.inf, 1.0))
    squares_error = error(squares) / safe_sd**2
    return Marginals(
        names,
        mean,
        sd,
        corrected_mean,
        corrected_sd,
        shift,
        error(difference * deviation) / safe_sd,
        ratio,
        squares_error / np.maximum(ratio + 1.0, 1.0),
        error_bounds(values, relative, pareto_ks),
        moment_tails(deviation, relative, pareto_ks),
    )


def in_columns(latents: dict[str, np.ndarray]) -> np.ndarray:
    """Arrays with a leading axis of draws as one, of shape ``(draws, numbers)``."""
    flat = [values.reshape(len(values), -1) for values in latents.values()]
    return np.concatenate(flat, axis=1).astype(np.float64)


def weight_columns(
    latents: dict[str, np.ndarray], plated: Plated, of_data: np.ndarray
) -> np.ndarray:
    """For each number among the latents that of the datum it belongs to, in columns as they are.

    :param of_data: shape ``(draws, *data)``.
    """
    return in_columns(
        {
            site: np.broadcast_to(plated.spread(site, values, of_data), values.shape)
            for site, values in latents.items()
        }
    )


def _names(site: str, values: np.ndarray) -> list[str]:
    places = np.ndindex(values.shape[1:])
    return [f"{site}[{', '.join(map(str, place))}]" if place else site for place in places]


def _pareto_ks(
    latents: dict[str, np.ndarray], weights: WeightSummary, plated: Plated
) -> np.ndarray:
    """The k-hat of the weights of each number."""
    one_draw = {name: values[:1] for name, values in latents.items()}
    return weight_columns(one_draw, plated, np.asarray(weights.pareto_k)[None])[0]
