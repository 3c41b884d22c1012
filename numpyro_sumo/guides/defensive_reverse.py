"""A reverse model that is defended: a share of its draws of u are the sampler's own."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import block, condition

from numpyro_sumo.programs.programs import Programs

from .hierarchical import HierarchicalGuide, Sites

#: So small that it is not felt where the reverse model is good.
DEFENSIVE_SHARE = 0.01


@dataclass(frozen=True)
class DefensiveReverse:
    r"""The reverse model of a guide mixed with what the sampler itself draws of u.

    .. math::
        \bar r(u \mid x) = (1 - \epsilon)\, r(u \mid x) + \epsilon\, q(u), \qquad
        \frac{q(x, u)}{\bar r(u \mid x)} \le \frac{q(x \mid u)}{\epsilon}

    A reverse model that is too narrow at some rare x gives the u that x was drawn with next to no
    density, and so q(x, u) / r(u | x), its part in an estimate of q(x), may be anything; here it is
    at most q(x | u) / ε. Where r(u | x) is exact this costs estimates by n draws a relative
    standard deviation of up to √(ε / ((1 − ε) n)). Auxiliary sites that depend on the sampler's
    latent ones are drawn given x.

    :param programs: with the hierarchical guide, whose reverse model is r(u | x).
    :param share: ε, in [0, 1).

    **References:** Hesterberg 1995, *Weighted average importance sampling and defensive mixture
    distributions*, section 2; Owen and Zhou 2000, *Safe and effective importance sampling*.
    """

    programs: Programs
    share: float

    @property
    def guide(self) -> HierarchicalGuide:
        """The hierarchical guide."""
        guide: HierarchicalGuide = self.programs.guide  # type: ignore[assignment]
        return guide

    def draw(self, rng_key: jax.Array, latents: Sites) -> Sites:
        """u of the mixture at x."""
        reverse_key, own_key, choice_key = random.split(rng_key, 3)
        reverse = self.guide.propose(reverse_key, self.programs, latents).values
        if not self.share:
            return reverse
        own = self._own().propose(own_key, self.programs, latents).values
        chosen = random.bernoulli(choice_key, self.share)
        return {name: jnp.where(chosen, own[name], reverse[name]) for name in reverse}

    def log_weight(self, rng_key: jax.Array, latents: Sites, auxiliary: Sites) -> jax.Array:
        """log q(x, u) − log r̄(u | x), in nats: one particle of an estimate of log q(x)."""
        # As in ``draw``, so that programs with randomness of their own have the same of it.
        reverse_key, own_key, _ = random.split(rng_key, 3)
        proposal = self.guide.propose(reverse_key, self.programs, latents, auxiliary)
        if self.share:
            own = self._own().propose(own_key, self.programs, latents, auxiliary)
            log_density = jnp.logaddexp(
                jnp.log1p(-self.share) + proposal.log_density,
                jnp.log(self.share) + own.log_density,
            )
            proposal = replace(proposal, log_density=log_density)
        return self.guide.log_weight(own_key, self.programs, latents, proposal)

    def _own(self) -> HierarchicalGuide:
        """The sampler as its own reverse model: it draws u as it does by itself, at a given x."""
        sampler = self.guide.sampler

        def reverse(latents: Sites, *args: Any, **kwargs: Any) -> None:
            block(condition(sampler, latents), hide=list(latents))(*args, **kwargs)

        return HierarchicalGuide(sampler, reverse)
