"""The reverse model mixed with a share of the sampler's own distribution of u."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import block, condition

from numpyro_sumo.programs.programs import Programs

from .hierarchical import HierarchicalGuide, Sites, hierarchical

#: Small enough to cost almost no variance where the reverse model is accurate.
DEFENSIVE_SHARE = 0.01


@dataclass(frozen=True)
class DefensiveReverse:
    r"""The reverse model r(u | x) mixed with the sampler's own distribution q(u).

    .. math::
        \bar r(u \mid x) = (1 - \epsilon)\, r(u \mid x) + \epsilon\, q(u), \qquad
        \frac{q(x, u)}{\bar r(u \mid x)} \le \frac{q(x \mid u)}{\epsilon}

    Where r(u | x) is too narrow it can give the u that generated x almost no density, and the ratio
    q(x, u) / r(u | x) in an estimate of q(x) is unbounded; the ratio with the mixture is at most
    q(x | u) / ε. Where r(u | x) is exact, estimates from n draws gain a relative standard deviation
    of at most √(ε / ((1 − ε) n)). Auxiliary sites that depend on the sampler's latent sites are
    drawn given x.

    :param programs: a model, and the hierarchical guide with the reverse model r(u | x).
    :param share: ε, in [0, 1).

    **References:** Hesterberg 1995, *Weighted average importance sampling and defensive mixture
    distributions*, section 2; Owen and Zhou 2000, *Safe and effective importance sampling*.
    """

    programs: Programs
    share: float

    @property
    def guide(self) -> HierarchicalGuide:
        """The hierarchical guide."""
        return hierarchical(self.programs.guide)

    def draw(self, rng_key: jax.Array, latents: Sites) -> Sites:
        """A draw of u from the mixture at x."""
        reverse_key, own_key, choice_key = random.split(rng_key, 3)
        reverse = self.guide.propose(reverse_key, self.programs, latents).values
        if not self.share:
            return reverse
        own = self._own().propose(own_key, self.programs, latents).values
        chosen = random.bernoulli(choice_key, self.share)
        return {name: jnp.where(chosen, own[name], reverse[name]) for name in reverse}

    def log_weight(self, rng_key: jax.Array, latents: Sites, auxiliary: Sites) -> jax.Array:
        """log q(x, u) − log r̄(u | x), in nats: one particle of an estimate of log q(x)."""
        # The keys of ``draw``, so that other random numbers in the programs are the same.
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
        """The sampler as its own reverse model: u from q(u) at a given x."""
        sampler = self.guide.sampler

        def reverse(latents: Sites, *args: Any, **kwargs: Any) -> None:
            block(condition(sampler, latents), hide=list(latents))(*args, **kwargs)

        return HierarchicalGuide(sampler, reverse)
