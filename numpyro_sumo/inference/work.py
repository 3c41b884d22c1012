"""What a fit has found and compiled so far, with which a further fit can go on."""

from functools import cached_property
from typing import Any

import numpy as np

import jax
from jax import lax, random

from numpyro_sumo.certificates import Certificate
from numpyro_sumo.certificates.certify import certificate_of
from numpyro_sumo.certificates.weights import summarise_weights
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.placement import Placement
from numpyro_sumo.guides.proposal import WeightedDraw
from numpyro_sumo.guides.proposals import proposal_of
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params

from .background import CompiledSoon
from .nuts import NutsChains
from .options import FitOptions
from .training import Trainer, initial_params

#: Draws that are evaluated at a time.
_BATCH = 100


#: A guide is good when its KL is so small, in nats: for few latent numbers, and for each of many.
_SMALL_KL, _SMALL_KL_EACH = 0.005, 0.0005


def good_kl(dim: int) -> float:
    """The KL in nats below which a guide of so many latent numbers is not trained any further."""
    return max(_SMALL_KL, _SMALL_KL_EACH * dim)


class Weighed:
    """Params of a guide with its draws, and figures of their importance weights in nats.

    :param draws: with their log-densities.
    """

    def __init__(self, params: Params, draws: WeightedDraw):
        self.params, self.draws = params, draws
        self.log_weights = np.asarray(draws.log_weight, np.float64)
        summary = summarise_weights(self.log_weights)
        self.pareto_k = float(np.max(summary.pareto_k))
        self.kl = float(summary.log_evidence.sum() - self.log_weights.mean())


class Work:
    """The guide of a model, its params so far, and functions that are compiled in the background.

    :param programs: the model with its arguments.
    :param options: of the fit that begins.
    """

    def __init__(
        self, rng_key: jax.Array, programs: Programs, placement: Placement, options: FitOptions
    ):
        params_key, self._nuts_key = random.split(rng_key)
        guide = AutoHierarchicalNormal(
            programs.model, hidden_sizes=options.hidden_sizes, placement=placement
        )
        guide.prepare(*programs.args, **programs.kwargs)  # inside jit it takes longer
        self.placement, self.options = placement, options
        self.programs = programs.replace(guide=guide)
        self.params = initial_params(params_key, self.programs)
        self.programs = self.programs.replace(params=self.params)
        self.particles = options.num_particles, DEFENSIVE_SHARE
        self._found = proposal_of(self.programs, *self.particles).check()
        self._weigh = CompiledSoon(self._draws, self.params, rng_key)
        flat = {n: np.zeros((options.num_samples, *v.shape), v.dtype) for n, v in self._latents()}
        self._complete = CompiledSoon(self.with_deterministic, flat)
        if placement.log_evidence - placement.elbo > good_kl(placement.dim):
            self.trainer  # noqa: B018  (compiled in the background from here on)
        self.steps, self.next_steps, self.retreats = 0, options.num_steps, 0

    @cached_property
    def nuts(self) -> NutsChains:
        """Chains of NUTS, compiled at first use, while others are compiled in the background."""
        num_chains = self.options.num_chains
        return NutsChains(self._nuts_key, self.programs, self.placement, num_chains)

    @cached_property
    def trainer(self) -> Trainer:
        """Trains the guide, except for its coordinates."""
        guide: AutoHierarchicalNormal = self.programs.guide  # type: ignore[assignment]
        return Trainer(self.programs, f"{guide.prefix}_whitening")

    def weighed(self, rng_key: jax.Array, params: Params) -> Weighed:
        """Draws of the guide with weights."""
        return Weighed(params, self._weigh(params, rng_key))

    def certificate(self, rng_key: jax.Array, weighed: Weighed) -> Certificate:
        """The certificate of params, from draws that are weighed already."""
        programs = self.programs.replace(params=weighed.params)
        return certificate_of(programs, self._found, weighed.draws, rng_key, self._complete)

    def with_deterministic(self, latents: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """Adds deterministic sites to latent ones, both with a leading axis of draws."""
        return lax.map(self.programs.with_deterministic, latents, batch_size=_BATCH)

    def _draws(self, params: Params, rng_key: jax.Array) -> WeightedDraw:
        proposal = proposal_of(self.programs.replace(params=params), *self.particles)
        return proposal.draws(rng_key, self.options.num_samples, _BATCH)

    def _latents(self) -> Any:
        guide: AutoHierarchicalNormal = self.programs.guide  # type: ignore[assignment]
        return jax.eval_shape(guide.constrained, self.placement.whitening.loc).items()
