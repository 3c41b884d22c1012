"""Bounds on the error of a guide's means, sds and quantiles, from the variance of its weights."""

from typing import NamedTuple

import numpy as np

#: Largest k-hat at which the variance of weights is finite.
LARGEST_FINITE_VARIANCE_K = 0.5

#: The variance of the weights is raised by so many of its standard errors.
_ERRORS = 3.0


class ErrorBounds(NamedTuple):
    r"""Bounds, one for each number, ∞ where they are vacuous.

    With weights of mean one and variance χ² under the guide q, the Cauchy–Schwarz inequality gives
    for any f

    .. math::
        |E_p f - E_q f| = |\operatorname{Cov}_q(f, w)| \le \chi\, \operatorname{sd}_q(f)

    :param mean: on |mean of q − mean of p|, in the number's own units.
    :param sd: on |sd of q − sd of p|, from the bounds on the second moment.
    :param probability: on |P_q(z ≤ t) − P_p(z ≤ t)| for any t, at most 1: half of χ. The quantile
        of q at level a is then one of p at a level within this of a.
    :param vacuous: where the bound on the mean exceeds one sd of q, or that on the sd the sd.

    **Reference:** Huggins et al. 2020, *Validated variational inference via practical posterior
    error bounds*, section 3, which bounds Wasserstein distances by the same divergence.
    """

    mean: np.ndarray
    sd: np.ndarray
    probability: np.ndarray
    vacuous: np.ndarray


def error_bounds(values: np.ndarray, relative: np.ndarray, pareto_k: np.ndarray) -> ErrorBounds:
    """Bounds from draws of q and their weights.

    :param values: shape ``(draws, numbers)``.
    :param relative: weights divided by their mean, of the same shape.
    :param pareto_k: of the weights of each number. Above 0.5 their variance is infinite.
    """
    chi = np.where(pareto_k > LARGEST_FINITE_VARIANCE_K, np.inf, _chi(relative))
    centred = values - values.mean(axis=0)
    sd = centred.std(axis=0)
    with np.errstate(invalid="ignore"):  # ∞ · 0 for a number that is constant
        on_mean = np.nan_to_num(chi * sd, nan=0.0, posinf=np.inf)
        spread = np.nan_to_num(chi * (centred**2).std(axis=0), nan=0.0, posinf=np.inf)
        largest = np.sqrt(sd**2 + spread)
        smallest = np.sqrt(np.maximum(sd**2 - spread - on_mean**2, 0.0))
    on_sd = np.maximum(largest - sd, sd - smallest)
    vacuous = (on_mean > sd) | (on_sd >= sd) & (sd > 0.0)
    return ErrorBounds(on_mean, on_sd, np.minimum(0.5 * chi, 1.0), vacuous)


def _chi(relative: np.ndarray) -> np.ndarray:
    """The square root of an upper confidence limit of χ²."""
    count = len(relative)
    squared = (relative**2).mean(axis=0)
    # Linearised, in the weights and in their mean, which they are divided by.
    influence = relative**2 - 2.0 * squared * relative
    upper = squared - 1.0 + _ERRORS * influence.std(axis=0) / count**0.5
    return np.asarray(np.sqrt(np.maximum(upper, 0.0)))
