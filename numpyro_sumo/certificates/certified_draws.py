"""Draws of a guide with their weights, and what is estimated from them."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

import jax

from numpyro_sumo.guides.hierarchical import Sites
from numpyro_sumo.programs.programs import Programs

from .marginals import Marginals, marginals_of
from .plated import Plated
from .weights import WeightSummary


class PerDatum(NamedTuple):
    """Estimates for each element of the plates that enclose all sites, in nats.

    :param log_evidence: log p(xᵢ), with error ``log_evidence_se``, that of the tail included.
    :param pareto_k: k-hat of the element's weights.
    :param ess: its effective number of draws.
    """

    log_evidence: np.ndarray
    log_evidence_se: np.ndarray
    pareto_k: np.ndarray
    ess: np.ndarray


@dataclass(frozen=True, eq=False, repr=False)
class CertifiedDraws:
    """Draws of a guide, with estimates in nats and their errors (``_se``).

    :param elbo_lower: E[log p(x, z) − log q(z)], or a lower bound on it, from an upper bound on
        log q, for a hierarchical guide.
    :param elbo_upper: the same, or an upper bound; far above ``elbo_lower`` where the reverse model
        is poor.
    :param log_evidence: log Z of the target p; the importance weights are unbiased for Z. Its error
        includes that of not knowing how heavy the weights' tail is
        (:func:`~.weights.tail_error`), and so do those of both KLs.
    :param kl_lower: KL(q ‖ p/Z), or a lower bound on it: log-evidence minus ``elbo_upper``.
    :param kl_upper: the same, or an upper bound: report this one. Both rely on log-evidence.
    :param pareto_k: k-hat of the weights. Up to 0.5 their variance is finite; above 0.7 do not
        trust log-evidence and resampled draws. If the guide misses large weights, log-evidence is
        too low, and so are ``kl_lower`` and ``kl_upper``. −∞ where all weights are equal.
    :param ess: (Σw)² / Σw², the effective number of independent draws of p.
    :param draws: draws of q by site, with the model's deterministic sites and a leading axis of
        ``num_samples``.
    :param resampled: ``num_samples`` of the draws, resampled by Pareto-smoothed weights: close to
        draws of p where k-hat is small. Repeated draws are adjacent.
    :param log_weights: log-weights of the draws, shape ``(num_samples,)``.
    :param log_target: log p(x, z) of the draws, of the same shape.
    :param per_datum: for plates that enclose all sites, evidence and k-hat of each element; else
        None. ``pareto_k`` is then the largest, and ``ess`` the smallest.
    :param weights: what the weights say, for each datum that has its own.
    :param chosen: indices of the resampled draws.
    :param programs: model, guide, params and arguments.
    :param rng_key: the key that the draws were made from.
    """

    elbo_lower: float
    elbo_lower_se: float
    elbo_upper: float
    elbo_upper_se: float
    log_evidence: float
    log_evidence_se: float
    kl_lower: float
    kl_lower_se: float
    kl_upper: float
    kl_upper_se: float
    pareto_k: float
    ess: float
    draws: Sites
    resampled: Sites
    log_weights: np.ndarray
    log_target: np.ndarray
    per_datum: PerDatum | None
    weights: WeightSummary
    chosen: np.ndarray
    programs: Programs
    plated: Plated
    rng_key: jax.Array

    @property
    def num_samples(self) -> int:
        """The number of draws."""
        return len(self.log_weights)

    @property
    def figures(self) -> dict[str, float]:
        """All estimates that are single numbers, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, float)}

    @cached_property
    def marginals(self) -> Marginals:
        """Means and sds of each latent number, as drawn and as corrected, with error bounds."""
        return marginals_of(self.latents, self.weights, self.plated)

    @property
    def latents(self) -> dict[str, np.ndarray]:
        """The draws of the latent sites, without deterministic ones."""
        return {name: np.asarray(self.draws[name]) for name in self.plated.event_dims}
