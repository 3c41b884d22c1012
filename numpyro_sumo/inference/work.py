"""What a fit has found and compiled so far, with which a further fit can go on."""

from functools import cached_property
from typing import Any

import numpy as np

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro_sumo.background import CompiledSoon
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

from .convergence import Summary, summarise_chains
from .nuts import NUTS_ALONE, NutsChains
from .options import FitOptions
from .training import Trainer, initial_params

#: Draws that are evaluated at a time.
_BATCH = 100

#: A guide is good when its KL is so small, in nats: for few latent numbers, and for each of many.
_SMALL_KL, _SMALL_KL_EACH = 0.003, 0.0003


def good_kl(dim: int) -> float:
    """The KL in nats below which a guide of so many latent numbers is not trained any further."""
    return max(_SMALL_KL, _SMALL_KL_EACH * dim)


class Weighed:
    """Params of a guide with its draws, and figures of their importance weights in nats.

    Log-weights of NaN and +∞ become −∞; ``invalid`` is their number.

    :param draws: with their log-densities.
    """

    def __init__(self, params: Params, draws: WeightedDraw):
        log_weights = np.asarray(draws.log_weight, np.float64)
        invalid = np.isnan(log_weights) | (log_weights == np.inf)
        self.invalid = int(invalid.sum())
        if self.invalid:
            draws = draws._replace(
                log_target=jnp.where(invalid, -jnp.inf, draws.log_target),
                log_above=jnp.where(invalid, 0.0, draws.log_above),
                log_below=jnp.where(invalid, 0.0, draws.log_below),
            )
        self.params, self.draws = params, draws
        self.log_weights = np.where(invalid, -np.inf, log_weights)
        summary = summarise_weights(self.log_weights)
        self.pareto_k = float(np.max(summary.pareto_k))
        self.kl = float(summary.log_evidence.sum() - self.log_weights.mean())


class Work:
    """The guide of a model, its params so far, and functions that are compiled in the background.

    Nothing of this depends on the placement, which :meth:`place` tells.

    :param programs: the model with its arguments.
    :param options: of the fit that begins.
    """

    placement: Placement

    def __init__(self, rng_key: jax.Array, programs: Programs, options: FitOptions):
        params_key, self._nuts_key = random.split(rng_key)
        sizes, full_covariance = options.hidden_sizes, options.full_covariance
        guide = AutoHierarchicalNormal(
            programs.model, hidden_sizes=sizes, full_covariance=full_covariance
        )
        guide.prepare(*programs.args, **programs.kwargs)  # inside jit it takes longer
        self.options = options
        self._coordinates = f"{guide.prefix}_whitening"
        self.params = initial_params(params_key, guide, programs)
        self.programs = programs.replace(guide=guide, params=self.params)
        self.particles = options.num_particles, DEFENSIVE_SHARE
        self._found = proposal_of(self.programs, *self.particles).check()
        self._weigh = CompiledSoon(self._draws, self.params, rng_key)
        self.trainer = Trainer(self.programs, self._coordinates)
        shapes = jax.eval_shape(guide.constrained, jnp.zeros(guide.latent_dim))
        flat = {n: np.zeros((options.num_samples, *v.shape), v.dtype) for n, v in shapes.items()}
        self._complete = CompiledSoon(self.with_deterministic, flat)
        self.steps, self.next_steps, self.retreats = 0, options.num_steps, 0
        self.num_fits = 0
        self._nuts_alone: tuple[Summary | None, float] = None, 0.0

    def place(self, placement: Placement) -> None:
        """Sets the coordinates of the guide."""
        self.placement = placement
        coordinates: Any = placement.whitening._asdict()
        self.params = {**self.params, self._coordinates: coordinates}
        if placement.log_evidence - placement.elbo <= good_kl(placement.dim):
            self.trainer.postpone()

    @cached_property
    def nuts(self) -> NutsChains:
        """Chains of NUTS, compiled at first use, while others are compiled in the background."""
        num_chains = self.options.num_chains
        return NutsChains(self._nuts_key, self.programs, self.placement, num_chains)

    def nuts_alone(self) -> tuple[Summary | None, float]:
        """Figures of chains of NUTS that nothing else has moved, and their spread."""
        found = self.nuts.draws
        if found is not None and self.nuts.kernel == NUTS_ALONE:
            self._nuts_alone = summarise_chains(found.latents, found.diverging), found.spread
        return self._nuts_alone

    def postpone(self) -> None:
        """Leaves what has not been compiled yet for its first call."""
        for compiled in (self._weigh, self._complete, self.trainer):
            compiled.postpone()

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
