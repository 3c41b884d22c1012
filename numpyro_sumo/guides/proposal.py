"""What proposes draws for a target, with the log-weights that correct them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import jax
from jax import lax, random

from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import latent_sites
from numpyro_sumo.programs.validation import Inspection

from .hierarchical import Sites


class WeightedDraw(NamedTuple):
    """A draw z of a guide with its log-densities in nats.

    :param latents: z, values of the model's latent sites.
    :param log_target: log p(x, z), −∞ outside the support.
    :param log_below: log q(z), or an estimate whose mean is a lower bound.
    :param log_above: log q(z), or an estimate q̂ whose mean is an upper bound.
    """

    latents: Sites
    log_target: jax.Array
    log_below: jax.Array
    log_above: jax.Array

    @property
    def log_weight(self) -> jax.Array:
        """log p(x, z) − log q̂(z): weighted averages are unbiased for integrals over p."""
        return self.log_target - self.log_above


def refuse_unknown_latents(found: Inspection) -> None:
    """Refuses models without latent sites, and state whose trained values params do not have."""
    if not latent_sites(found.model.trace):
        raise ValueError(
            "Expected a model with latent sites, which the guide draws; it has none. Evaluate its "
            "log-density by numpyro.infer.util.log_density."
        )
    if found.has_mutable_state:
        raise ValueError(
            "Expected model and guide without mutable state (numpyro.mutable, batch statistics), "
            "whose trained values are not among the params. Fix them by "
            "numpyro.handlers.substitute(program, data=svi_state.mutable_state)."
        )


@dataclass(frozen=True)
class Proposal(ABC):
    """Draws of a guide with log-weights, and log-weights of given points.

    A guide whose density is known is a :class:`~.known_density.KnownDensity`; one with auxiliary
    sites, a :class:`~.extended_draws.ExtendedDraws`. See :func:`~.proposals.proposal_of`.

    :param programs: the target, and the guide.
    """

    programs: Programs

    @abstractmethod
    def check(self) -> Inspection:
        """Refuses programs and params that do not match; returns what they were found to be."""

    @abstractmethod
    def draw(self, rng_key: jax.Array) -> WeightedDraw:
        """A draw of the guide with its log-densities."""

    @abstractmethod
    def redraw(self, rng_key: jax.Array, latents: Sites) -> jax.Array:
        """The log-weight of given values z in nats; with auxiliary sites, of new draws of them."""

    @abstractmethod
    def log_density(self, rng_key: jax.Array, latents: Sites) -> jax.Array:
        """log q(z) of given values in nats, or an estimate whose mean is a lower bound."""

    @abstractmethod
    def check_points(self) -> Sites:
        """Refuses a guide without a density at given points; returns shapes and dtypes of z."""

    def split(self, data_dims: frozenset[int]) -> "Proposal":
        """The proposal with log-densities for each element along these batch dimensions.

        Where density and draw are not of one element alone, as with auxiliary sites, itself.
        """
        return self

    def draws(self, rng_key: jax.Array, num_draws: int, batch_size: int) -> WeightedDraw:
        """Independent draws, ``batch_size`` at a time: arrays with a leading axis of draws."""
        check_positive_integer("batch_size", batch_size)
        return lax.map(self.draw, random.split(rng_key, num_draws), batch_size=batch_size)
