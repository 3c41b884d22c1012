"""Random stopping times: one object owns both how K is drawn and how likely it is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
import math

import numpy as np

import jax
from jax import random
import jax.numpy as jnp


class StoppingTime(ABC):
    """A random integer K in 1 … ``cap`` with survival S(k) = P(K ≥ k), S(1) = 1.

    A subclass gives :meth:`log_survival` and :attr:`cap`. Drawing is written once, here, by
    inversion of that same survival function, so the two cannot disagree.
    """

    @property
    @abstractmethod
    def cap(self) -> int:
        """The largest value that can be drawn."""

    @abstractmethod
    def log_survival(self, k):
        """log P(K ≥ k) for integers 1 ≤ k ≤ ``cap`` (an array gives an array of its shape)."""

    @cached_property
    def survival(self) -> np.ndarray:
        """P(K ≥ k) for k = 1 … ``cap``: float64 array of shape ``(cap,)``."""
        return np.exp(np.asarray(self.log_survival(np.arange(1, self.cap + 1)), np.float64))

    @cached_property
    def probabilities(self) -> np.ndarray:
        """P(K = k) for k = 1 … ``cap``: float64 array of shape ``(cap,)``."""
        return self.survival - np.append(self.survival[1:], 0.0)

    @property
    def mean(self) -> float:
        """E[K], which is the sum of the survival function."""
        return float(self.survival.sum())

    def sample(self, rng_key: jax.Array, shape: tuple[int, ...] = ()) -> jax.Array:
        """Draws K = max{k : P(K ≥ k) ≥ u}, u uniform in (0, 1]; int32 of the given shape."""
        u = _uniform_fine_near_zero(rng_key, shape)
        # A descending table searched as an ascending one: the count of k with S(k) >= u.
        table = -jnp.asarray(self.survival, u.dtype)
        return jnp.searchsorted(table, -u, side="right").astype(jnp.int32)


def _uniform_fine_near_zero(rng_key, shape):
    """Uniform in (0, 1] whose *relative* resolution near zero is that of its dtype.

    A plain float32 uniform is a multiple of 2⁻²³, so events of probability 10⁻⁶ would come up
    with errors of ten per cent, and those are the ones that carry the largest weights.
    """
    coarse_key, fine_key = random.split(rng_key)
    dtype = jnp.result_type(float)
    cells = 2.0 ** jnp.finfo(dtype).nmant
    cell = jnp.floor(random.uniform(coarse_key, shape, dtype) * cells)
    return (cell + (1.0 - random.uniform(fine_key, shape, dtype))) / cells


@dataclass(frozen=True)
class ReciprocalTail(StoppingTime):
    r"""The stopping time of SUMO.

    .. math::
        P(K \ge k) = 1/k \text{ for } k < \kappa, \qquad
        P(K \ge k) = \rho^{\,k - \kappa} / \kappa \text{ for } k \ge \kappa,

    with knee :math:`\kappa` and decay :math:`\rho`. The default is the paper's: E[K] = 5.08, median
    1, 99th percentile 82. The largest value is where the survival falls below 2⁻²⁴, the resolution
    of float32 (196 by default); the tail is cut there, so an estimator that uses it is unbiased for
    the bound at that many draws.

    Beyond the knee the inverse survival, by which increments are multiplied, grows geometrically:
    a *larger* knee is a lighter hand. ``decay=0`` stops at the knee, where no weight exceeds
    ``knee``.

    :param knee: where the reciprocal law ends; an integer ≥ 1.
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

    def __post_init__(self):
        if isinstance(self.knee, bool) or not (isinstance(self.knee, int) and self.knee >= 1):
            raise ValueError(f"Expected knee to be an integer >= 1; got {self.knee!r}.")
        if not 0.0 <= self.decay < 1.0:
            raise ValueError(f"Expected decay in [0, 1); got {self.decay!r}.")

    @property
    def cap(self) -> int:
        if self.decay == 0.0:
            return self.knee
        return self.knee + max(0, math.floor(math.log(self.knee * 2.0**-24) / math.log(self.decay)))

    def log_survival(self, k):
        k = jnp.asarray(k) if isinstance(k, jax.Array) else np.asarray(k)
        beyond_knee = (k > self.knee) * (k - self.knee)
        log_decay = math.log(self.decay) if self.decay > 0.0 else 0.0
        xp = jnp if isinstance(k, jax.Array) else np
        return -xp.log(xp.minimum(k, self.knee) * 1.0) + beyond_knee * log_decay
