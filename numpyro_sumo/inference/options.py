"""Options of :func:`~numpyro_sumo.fit`."""

from collections.abc import Sequence
from dataclasses import dataclass
import math

from numpyro_sumo.checks import check_positive_integer, check_sample_size
from numpyro_sumo.guides.skip_network import check_hidden_sizes


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How long :func:`~numpyro_sumo.fit` works, and how good its draws must be.

    :param minutes: time after which no new work begins; compilation may take longer.
    :param min_ess: effective draws of each latent number that chains are to have, bulk and tail.
    :param max_r_hat: the largest R-hat of a latent number that counts as converged.
    :param num_chains: chains, an integer ≥ 2.
    :param num_starts: initial values that modes are sought from; see :func:`~numpyro_sumo.place`.
    :param num_samples: draws of the guide that it is certified by; see
        :func:`~numpyro_sumo.certify`.
    :param num_particles: draws of the auxiliary sites for each of them.
    :param hidden_sizes: units of the guide's networks; see
        :class:`~numpyro_sumo.AutoHierarchicalNormal`.
    :param full_covariance: as in :func:`~numpyro_sumo.place`.
    :param learning_rate: of Adam at the start of each round of training; it falls to zero in each.
    :param num_steps: of the first round of training; each further one takes twice as many.
    :param progress_bar: whether to show a bar for each phase.
    :raises ValueError: for values outside these ranges.
    """

    minutes: float = 3.0
    min_ess: float = 400.0
    max_r_hat: float = 1.01
    num_chains: int = 4
    num_starts: int = 8
    num_samples: int = 10_000
    num_particles: int = 64
    hidden_sizes: Sequence[int] = (64, 64)
    full_covariance: bool | None = None
    learning_rate: float = 5e-3
    num_steps: int = 2_000
    progress_bar: bool = True

    def __post_init__(self) -> None:
        for name in ("num_starts", "num_particles", "num_steps"):
            check_positive_integer(name, getattr(self, name))
        check_sample_size("num_chains", self.num_chains)
        check_hidden_sizes(self.hidden_sizes)
        if self.full_covariance not in (None, True, False):
            raise ValueError(
                f"Expected full_covariance to be True, False or None; got {self.full_covariance!r}."
            )
        for name, least in (("minutes", 0.0), ("min_ess", 0.0), ("learning_rate", 0.0)):
            _check_above(name, getattr(self, name), least)
        _check_above("max_r_hat", self.max_r_hat, 1.0)
        least_samples = 100 * self.num_chains
        if not isinstance(self.num_samples, int) or self.num_samples < least_samples:
            raise ValueError(
                f"Expected num_samples to be an integer of at least {least_samples}, 100 for each "
                f"chain; got {self.num_samples!r}. Raise it."
            )


def _check_above(name: str, value: object, least: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and least < value < math.inf):  # type: ignore[operator]
        raise ValueError(f"Expected {name} to be a finite number above {least:g}; got {value!r}.")
