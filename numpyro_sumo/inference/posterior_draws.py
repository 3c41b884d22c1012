"""Draws of a posterior, with how they were made."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.certificates import Certificate
from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.placement import Placement

from .convergence import Summary
from .options import FitOptions


class Diagnostics(NamedTuple):
    """How the draws were made.

    :param kernel: "proposals of the guide", "NUTS", or "NUTS, alternated with proposals of the
        guide".
    :param acceptance: the rate at which proposals of the guide were accepted.
    :param summary: means, sds, R-hat and ESS of each latent number, of :attr:`Posterior.draws`.
    :param nuts: the same of NUTS alone, in the coordinates of the placement; None if there was no
        time.
    :param spread: the largest sd of one of these coordinates in draws of NUTS; about 1 if the
        placement is right.
    :param steps: of training.
    :param retreats: how often training went back because the loss was NaN or rose.
    :param invalid: draws of the guide with a log-weight of NaN or +∞, which count as impossible.
    :param seconds: by phase.
    :param interrupted: phases that Ctrl-C has ended.
    """

    kernel: str
    acceptance: float
    summary: Summary
    nuts: Summary | None
    spread: float
    steps: int
    retreats: int
    invalid: int
    seconds: dict[str, float]
    interrupted: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorDraws:
    """Draws of a posterior with what is known of them.

    :param draws: values of latent and deterministic sites, shape ``(chain, draw, ...)``, of chains
        for which the posterior is invariant.
    :param certificate: of the trained guide, with its own draws.
    :param placement: the modes that were found, and the coordinates.
    :param diagnostics: how the draws were made.
    :param options: of the fit.
    """

    draws: dict[str, np.ndarray]
    certificate: Certificate
    placement: Placement
    diagnostics: Diagnostics
    options: FitOptions
    #: What a further fit goes on with.
    state: Any = field(default=None, repr=False)

    @property
    def log_evidence(self) -> float:
        """log Z of the model in nats, from importance weights of the guide."""
        return self.certificate.log_evidence

    @property
    def log_evidence_se(self) -> float:
        """The standard error of :attr:`log_evidence` in nats; ∞ where it is not to be trusted."""
        return self.certificate.log_evidence_se

    def sample(self, rng_key: jax.Array, num_draws: int) -> dict[str, np.ndarray]:
        """Draws picked from all chains at random, with replacement: shape ``(num_draws, ...)``."""
        check_positive_integer("num_draws", num_draws)
        flat = self._flat(self.draws)
        total = len(next(iter(flat.values())))
        at = np.asarray(random.choice(rng_key, total, (num_draws,)))
        return {name: values[at] for name, values in flat.items()}

    def unconstrained(self, most: int) -> np.ndarray:
        """Unconstrained coordinates of at most so many draws, shape ``(draws, d)``."""
        guide: AutoHierarchicalNormal = self.certificate.programs.guide  # type: ignore[assignment]
        flat = self._flat({name: self.draws[name] for name in self.certificate.latents})
        total = len(next(iter(flat.values())))
        at = np.linspace(0, total - 1, min(most, total)).astype(int)
        few = {name: jnp.asarray(values[at]) for name, values in flat.items()}
        return np.asarray(jax.jit(jax.vmap(guide.unconstrained))(few))

    @staticmethod
    def _flat(draws: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: values.reshape(-1, *values.shape[2:]) for name, values in draws.items()}
