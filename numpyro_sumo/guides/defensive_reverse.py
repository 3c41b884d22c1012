"""A reverse model that is defended: a share of its draws of u are the sampler's own."""

from dataclasses import dataclass, replace

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import block, condition

from numpyro_sumo.programs.log_weights import Proposal, propose
from numpyro_sumo.programs.sites import Params
from numpyro_sumo.programs.validation import JOINT

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

    :param guide: the sampler with the reverse model r(u | x).
    :param share: ε, in [0, 1).

    **References:** Hesterberg 1995, *Weighted average importance sampling and defensive mixture
    distributions*, section 2; Owen and Zhou 2000, *Safe and effective importance sampling*.
    """

    guide: HierarchicalGuide
    share: float

    def draw(
        self, rng_key: jax.Array, latents: Sites, args: tuple, kwargs: dict, params: Params
    ) -> Sites:
        """u of the mixture at x."""
        reverse_key, own_key, choice_key = random.split(rng_key, 3)
        programs = latents, args, kwargs, params
        reverse = self.guide.propose(reverse_key, *programs).values
        if not self.share:
            return reverse
        own = self._propose_own(own_key, *programs).values
        chosen = random.bernoulli(choice_key, self.share)
        return {name: jnp.where(chosen, own[name], reverse[name]) for name in reverse}

    def log_weight(
        self,
        rng_key: jax.Array,
        latents: Sites,
        auxiliary: Sites,
        args: tuple,
        kwargs: dict,
        params: Params,
    ) -> jax.Array:
        """log q(x, u) − log r̄(u | x), in nats: one particle of an estimate of log q(x)."""
        # As in ``draw``, so that programs with randomness of their own have the same of it.
        reverse_key, own_key, _ = random.split(rng_key, 3)
        programs = latents, args, kwargs, params
        proposal = self.guide.propose(reverse_key, *programs, auxiliary)
        if self.share:
            own = self._propose_own(own_key, *programs, auxiliary)
            log_density = jnp.logaddexp(
                jnp.log1p(-self.share) + proposal.log_density,
                jnp.log(self.share) + own.log_density,
            )
            proposal = replace(proposal, log_density=log_density)
        return self.guide.log_weight(own_key, latents, proposal, args, kwargs, params)

    def _propose_own(
        self,
        rng_key: jax.Array,
        latents: Sites,
        args: tuple,
        kwargs: dict,
        params: Params,
        auxiliary: Sites | None = None,
    ) -> Proposal:
        """u as the sampler draws it, with its log-density there."""
        program = block(condition(self.guide.sampler, latents), hide=list(latents))
        values = params if auxiliary is None else {**params, **auxiliary}
        return propose(program, args, kwargs, JOINT, rng_key, values)
