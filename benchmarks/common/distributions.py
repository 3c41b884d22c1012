"""One-dimensional distributions to compare draws with, with the methods of SciPy's frozen ones."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

#: Nodes of the trapezoidal rule over a standard normal, whose error falls exponentially.
_NODES = np.linspace(-8.0, 8.0, 401)

Values = np.ndarray | Sequence[float]


class Univariate(Protocol):
    """The methods that :mod:`.judge` calls; ``scipy.stats.norm(scale=3.0)`` has them."""

    def mean(self) -> float:
        """The mean."""

    def std(self) -> float:
        """The standard deviation."""

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """P(X ≤ x)."""

    def ppf(self, p: float) -> float:
        """The quantile at probability p."""


class Empirical:
    """The empirical distribution of draws.

    >>> from benchmarks.common.distributions import Empirical
    >>> draws = Empirical([3.0, 1.0, 2.0, 4.0])
    >>> draws.mean(), draws.ppf(0.5), draws.cdf([0.0, 2.0]).tolist()
    (2.5, 2.5, [0.0, 0.5])
    """

    def __init__(self, draws: Values):
        self._draws = np.sort(np.ravel(draws).astype(np.float64))

    def mean(self) -> float:
        """The mean of the draws."""
        return float(self._draws.mean())

    def std(self) -> float:
        """The standard deviation of the draws."""
        return float(self._draws.std())

    def cdf(self, x: Values) -> np.ndarray:
        """The share of draws ≤ x."""
        return np.searchsorted(self._draws, x, side="right") / self._draws.size

    def ppf(self, p: float) -> float:
        """The quantile at probability p, interpolated between draws."""
        return float(np.quantile(self._draws, p))


class MixtureOfNormals:
    """A mixture of normal distributions; locs, scales and weights broadcast to one shape.

    >>> from benchmarks.common.distributions import MixtureOfNormals
    >>> mixture = MixtureOfNormals([-1.0, 1.0], 0.5)
    >>> mixture.mean(), round(mixture.std() ** 2, 3), float(mixture.cdf(0.0))
    (0.0, 1.25, 0.5)
    >>> round(mixture.ppf(0.5), 9)
    0.0
    """

    def __init__(
        self, locs: Values | float, scales: Values | float, weights: np.ndarray | float = 1.0
    ):
        parts = np.broadcast_arrays(*(np.asarray(part, float) for part in (locs, scales, weights)))
        self._locs, self._scales, weights = map(np.atleast_1d, parts)
        self._weights = weights / weights.sum()

    def mean(self) -> float:
        """The mean."""
        return float(self._weights @ self._locs)

    def std(self) -> float:
        """The standard deviation."""
        squares = self._scales**2 + (self._locs - self.mean()) ** 2
        return float((self._weights @ squares) ** 0.5)

    def cdf(self, x: Values | float) -> np.ndarray:
        """P(X ≤ x)."""
        x = np.asarray(x, float)
        parts = (
            weight * ndtr((x - loc) / scale)
            for loc, scale, weight in zip(self._locs, self._scales, self._weights)
        )
        return sum(parts, np.zeros_like(x))

    def ppf(self, p: float) -> float:
        """The quantile at probability p, by root finding."""
        reach = 40.0 * self._scales
        low, high = (self._locs - reach).min(), (self._locs + reach).max()
        return float(brentq(lambda x: self.cdf(x) - p, low, high, xtol=1e-12 * (high - low)))


def normal_given_normal(
    loc: Callable[[np.ndarray], Values | float], scale: Callable[[np.ndarray], Values | float]
) -> MixtureOfNormals:
    """The marginal distribution of X with X | z ~ N(loc(z), scale(z)²) and z ~ N(0, 1).

    >>> from benchmarks.common.distributions import normal_given_normal
    >>> marginal = normal_given_normal(lambda z: 3.0 * z, lambda z: 4.0)  # N(0, 5²)
    >>> round(marginal.std(), 6), round(float(marginal.cdf(5.0)), 6)
    (5.0, 0.841345)
    """
    return MixtureOfNormals(loc(_NODES), scale(_NODES), np.exp(-0.5 * _NODES**2))
