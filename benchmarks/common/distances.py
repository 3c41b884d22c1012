"""Distances between draws and a distribution that is known."""

from collections.abc import Callable, Sequence

import numpy as np


def kolmogorov_smirnov(draws: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """The largest gap between the empirical distribution function of draws and ``cdf``.

    For n independent draws from the distribution itself it is about 0.87/√n.

    >>> import numpy as np
    >>> from scipy.stats import norm
    >>> from numpyro_sumo.diagnostics import kolmogorov_smirnov
    >>> round(kolmogorov_smirnov(np.zeros(10), norm.cdf), 3)
    0.5
    """
    from scipy.stats import kstest

    return float(kstest(np.ravel(draws), cdf).statistic)


def quantiles(draws: np.ndarray, probabilities: Sequence[float]) -> dict[str, float]:
    """Empirical quantiles by the name of their probability, "0.01" for instance."""
    values = np.quantile(np.ravel(draws), probabilities)
    return {str(p): float(value) for p, value in zip(probabilities, values)}
