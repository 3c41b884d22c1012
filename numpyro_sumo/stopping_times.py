"""Random stopping times K: each class gives the survival function that draws K and weights it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
import math
from typing import Any
import warnings

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from .checks import check_positive_integer

#: The resolution of float32: smaller survival probabilities are set to zero.
_SMALLEST_SURVIVAL = 2.0**-24

#: A tail that ends while it is likelier than this was cut short on purpose.
_NEARLY_IMPOSSIBLE = 2.0**-20

#: Comparisons in memory at a time, at most, where K is drawn.
_FEW_COMPARISONS = 2**20


class StoppingTime(ABC):
    """A random integer K in 1 … ``cap`` with survival S(k) = P(K ≥ k), S(1) = 1.

    A subclass gives :meth:`log_survival` and :attr:`cap`; K is drawn by inverting that survival
    function.

    >>> import numpy as np
    >>> from numpyro_sumo.stopping_times import StoppingTime
    >>> class OneOrTwo(StoppingTime):
    ...     cap = 2
    ...     def log_survival(self, k):
    ...         return np.log(1 / k)
    >>> OneOrTwo().probabilities
    array([0.5, 0.5])
    """

    @property
    @abstractmethod
    def cap(self) -> int:
        """The largest value that can be drawn."""

    @abstractmethod
    def log_survival(self, k: Any) -> Any:
        """log P(K ≥ k) for integers 1 ≤ k ≤ ``cap``, of the shape of k."""

    @cached_property
    def survival(self) -> np.ndarray:
        """P(K ≥ k) for k = 1 … ``cap``: float64 array of shape ``(cap,)``.

        :raises ValueError: if it is not a survival function on 1 … ``cap``.
        """
        if self.cap < 1:
            raise ValueError(
                f"Expected a stopping time with cap >= 1; {self!r} has {self.cap}. Raise its cap."
            )
        k = np.arange(1, self.cap + 1)
        survival: np.ndarray = np.exp(np.asarray(self.log_survival(k), np.float64))
        if survival.shape != (self.cap,) or not np.isclose(survival[0], 1.0, rtol=1e-6):
            raise ValueError(
                f"Expected a stopping time that is at least 1, P(K >= 1) = 1; {self!r} has "
                f"P(K >= 1) = {survival.flat[0]:.4g}. Fix its log_survival."
            )
        if not (np.all(np.diff(survival) < 0.0) and survival[-1] > 0.0):
            raise ValueError(
                f"Expected survival probabilities that decrease and stay positive up to the cap; "
                f"those of {self!r} do not. Fix its log_survival, or lower its cap."
            )
        return survival

    @cached_property
    def probabilities(self) -> np.ndarray:
        """P(K = k) for k = 1 … ``cap``: float64 array of shape ``(cap,)``."""
        return -np.diff(self.survival, append=0.0)

    @property
    def mean(self) -> float:
        """E[K], the sum of the survival function."""
        return float(self.survival.sum())

    @property
    def is_cut_short(self) -> bool:
        """Whether the tail ends while it is likelier than 2⁻²⁰, about one in a million."""
        return bool(self.survival[-1] > _NEARLY_IMPOSSIBLE)

    def sample(self, rng_key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws K = max{k : P(K ≥ k) ≥ u}, u uniform in (0, 1]; int32 of the given shape."""
        u = _uniform_fine_near_zero(rng_key, shape)
        # The number of k with S(k) >= u; searchsorted needs an ascending table.
        table = -jnp.asarray(self.survival, u.dtype)
        # Comparing with all of it compiles faster, but its memory is their product.
        method = "compare_all" if table.size * u.size <= _FEW_COMPARISONS else "scan"
        return jnp.searchsorted(table, -u, side="right", method=method).astype(jnp.int32)


def _uniform_fine_near_zero(rng_key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Uniform in (0, 1], resolved near zero to the relative precision of its dtype.

    ``random.uniform`` gives multiples of 2⁻²³ in float32. Probabilities of 10⁻⁶, whose events have
    the largest weights, would be wrong by ten per cent.
    """
    dtype = jnp.result_type(float)
    # Both in one call: every call of the generator costs compilation.
    coarse, fine = jax.vmap(lambda key: random.uniform(key, shape, dtype))(random.split(rng_key))
    cells = 2.0 ** np.finfo(dtype).nmant
    return (jnp.floor(coarse * cells) + (1.0 - fine)) / cells


@dataclass(frozen=True)
class ReciprocalTail(StoppingTime):
    r"""The stopping time of SUMO.

    .. math::
        P(K \ge k) = 1/k \text{ for } k < \kappa, \qquad
        P(K \ge k) = \rho^{\,k - \kappa} / \kappa \text{ for } k \ge \kappa,

    with knee :math:`\kappa` and decay :math:`\rho`. The default is the paper's: E[K] = 5.08, median
    1, 99th percentile 82. The cap c is where the survival falls below 2⁻²⁴, the resolution of
    float32 (196 by default), so an estimator is unbiased for the bound over m + c draws.

    Increment j is divided by P(K ≥ j). With ``decay > 0`` the factor grows up to 2²⁴ at the cap;
    with ``decay=0`` it is at most ``knee``.

    :param knee: the last k of the reciprocal law; an integer ≥ 1.
    :param decay: ratio of the geometric law beyond it; 0 ≤ decay < 1.
    :raises ValueError: for a knee or decay outside these ranges.

    **Reference:** Luo et al. 2020, *SUMO: Unbiased estimation of log marginal probability for
    latent variable models*, section 3.3.

    >>> from numpyro_sumo.stopping_times import ReciprocalTail
    >>> round(ReciprocalTail().mean, 2)
    5.08
    """

    knee: int = 80
    decay: float = 0.9

    def __post_init__(self) -> None:
        check_positive_integer("knee", self.knee)
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"Expected decay in [0, 1); got {self.decay!r}.")

    @property
    def cap(self) -> int:
        if self.decay == 0.0:
            return self.knee
        beyond = math.log(self.knee * _SMALLEST_SURVIVAL) / math.log(self.decay)
        return self.knee + max(0, math.floor(beyond))

    def log_survival(self, k: Any) -> Any:
        xp = jnp if isinstance(k, jax.Array) else np
        k = xp.asarray(k)
        log_decay = math.log(self.decay) if self.decay > 0.0 else 0.0
        return xp.maximum(k - self.knee, 0) * log_decay - xp.log(xp.minimum(k, self.knee) * 1.0)


@dataclass(frozen=True)
class GeometricTail(StoppingTime):
    r"""The stopping time of multilevel estimates, which take :math:`2^K` blocks of draws.

    .. math::
        P(K \ge k) = (1 - r)^{k - 1}

    Cost doubles from level to level and variance falls fourfold: both are finite for
    1/2 < r < 3/4. Work times variance is least at r = 0.6340. The largest level c is where the
    survival falls below 2⁻²⁴, the resolution of float32 (17 by default), so an estimator is
    unbiased for the bound over 2ᶜ m draws.

    :param success_probability: r, in (0, 1).
    :param max_level: a smaller largest value, an integer ≥ 1; None leaves it as above.
    :raises ValueError: for options outside these ranges.

    **Reference:** Shi and Cornish 2021, *On multilevel Monte Carlo unbiased gradient estimation for
    deep latent variable models*.

    >>> from numpyro_sumo.stopping_times import GeometricTail
    >>> round(GeometricTail().mean, 2)
    1.58
    """

    success_probability: float = 0.6340
    max_level: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.success_probability < 1.0:
            raise ValueError(
                "Expected success_probability between 0 and 1; "
                f"got {self.success_probability!r}. Choose one between 1/2 and 3/4."
            )
        if self.max_level is not None:
            check_positive_integer("max_level", self.max_level)

    @property
    def cap(self) -> int:
        possible = 1 + math.floor(
            math.log(_SMALLEST_SURVIVAL) / math.log1p(-self.success_probability)
        )
        return possible if self.max_level is None else min(possible, self.max_level)

    def log_survival(self, k: Any) -> Any:
        return (k - 1.0) * math.log1p(-self.success_probability)


def check_stopping_time(value: Any) -> None:
    """Refuses what is not a stopping time with a valid survival function."""
    if not isinstance(value, StoppingTime):
        raise ValueError(
            f"Expected stopping_time to be a StoppingTime; got {value!r}. "
            "Pass ReciprocalTail() or GeometricTail(), for instance."
        )
    value.survival  # noqa: B018 - computing it checks it


def warn_of_shared_stopping_time(why: str) -> None:
    """Warns that all data share one stopping time.

    :param why: the reason, a clause.
    """
    warnings.warn(
        f"Expected a stopping time for each element of the data; {why}. Their estimates are large "
        "or small together, and the variance of the loss grows as the square of their number. "
        "Write model and guide such that the draws of one element do not affect another, or pass "
        "share_stopping_times=True to accept one stopping time.",
        stacklevel=4,
    )
