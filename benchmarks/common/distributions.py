"""Laws of one variable that draws are held against, with the methods of SciPy's frozen ones."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr

#: Nodes of the trapezoid rule over a standard normal, whose error falls exponentially.
_NODES = np.linspace(-8.0, 8.0, 401)


class Law(Protocol):
    """What a judge asks of a law; ``scipy.stats.norm(scale=3.0)`` is one."""

    def mean(self) -> float:
        """The mean."""

    def std(self) -> float:
        """The standard deviation."""

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """P(X ≤ x)."""

    def ppf(self, p: float) -> float:
        """The quantile of that probability."""


class Empirical:
    """The law of draws.

    >>> from benchmarks.common.distributions import Empirical
    >>> law = Empirical([3.0, 1.0, 2.0, 4.0])
    >>> law.mean(), law.ppf(0.5), law.cdf([0.0, 2.0]).tolist()
    (2.5, 2.5, [0.0, 0.5])
    """

    def __init__(self, draws: np.ndarray | Sequence[float]):
        self._draws = np.sort(np.ravel(draws).astype(np.float64))

    def mean(self) -> float:
        """The mean of the draws."""
        return float(self._draws.mean())

    def std(self) -> float:
        """Their standard deviation."""
        return float(self._draws.std())

    def cdf(self, x: np.ndarray | Sequence[float]) -> np.ndarray:
        """The share of draws that are no larger."""
        return np.searchsorted(self._draws, x, side="right") / self._draws.size

    def ppf(self, p: float) -> float:
        """Their quantile, between two of them by interpolation."""
        return float(np.quantile(self._draws, p))


class MixtureOfNormals:
    """Normals at ``locs`` with ``scales``, weighed by ``weights``: of one shape, or one for all.

    >>> from benchmarks.common.distributions import MixtureOfNormals
    >>> law = MixtureOfNormals([-1.0, 1.0], 0.5)
    >>> law.mean(), round(law.std() ** 2, 3), float(law.cdf(0.0)), round(law.ppf(0.5), 9)
    (0.0, 1.25, 0.5, 0.0)
    """

    def __init__(
        self,
        locs: np.ndarray | Sequence[float] | float,
        scales: np.ndarray | Sequence[float] | float,
        weights: np.ndarray | float = 1.0,
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

    def cdf(self, x: np.ndarray | Sequence[float] | float) -> np.ndarray:
        """P(X ≤ x)."""
        x = np.asarray(x, float)
        parts = (
            weight * ndtr((x - loc) / scale)
            for loc, scale, weight in zip(self._locs, self._scales, self._weights)
        )
        return sum(parts, np.zeros_like(x))

    def ppf(self, p: float) -> float:
        """The quantile, by bracketing."""
        reach = 40.0 * self._scales
        low, high = (self._locs - reach).min(), (self._locs + reach).max()
        return float(brentq(lambda x: self.cdf(x) - p, low, high, xtol=1e-12 * (high - low)))


def mixed_over_normal(loc, scale) -> MixtureOfNormals:
    """The law of N(loc(z), scale(z)), the second a standard deviation, with z standard normal.

    >>> import numpy as np
    >>> from benchmarks.common.distributions import mixed_over_normal
    >>> law = mixed_over_normal(lambda z: 3.0 * z, lambda z: 4.0)  # N(0, 5)
    >>> round(law.std(), 6), round(float(law.cdf(5.0)), 6)
    (5.0, 0.841345)
    """
    return MixtureOfNormals(loc(_NODES), scale(_NODES), np.exp(-0.5 * _NODES**2))
