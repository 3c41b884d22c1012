"""A hierarchical guide whose reverse model is defended by the sampler's own law of u."""

from dataclasses import replace

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import block, condition, substitute

from .hierarchical_guide import HierarchicalGuide, Sites
from .inspection import JOINT
from .log_weights import Proposal, propose
from .sites import Params


class DefensiveGuide(HierarchicalGuide):
    r"""A hierarchical guide that proposes u from a mixture.

    .. math::
        \bar r(u \mid x) = (1 - \epsilon)\, r(u \mid x) + \epsilon\, q(u), \qquad
        \frac{q(x, u)}{\bar r(u \mid x)} \le \frac{q(x \mid u)}{\epsilon}

    A reverse model that is too narrow at some rare x gives the u that x was drawn with next to no
    density, and its weight q(x, u) / r(u | x) knows no bounds; here it has one. What it costs is
    little: where r(u | x) is exact, estimates of q(x) by n draws have a relative standard deviation
    of √(ε / n). Auxiliary sites that depend on the sampler's latent ones are drawn given x.

    :param guide: the guide with the reverse model r(u | x).
    :param share: ε, in (0, 1).

    **References:** Hesterberg 1995, *Weighted average importance sampling and defensive mixture
    distributions*, section 2; Owen and Zhou 2000, *Safe and effective importance sampling*.
    """

    def __init__(self, guide: HierarchicalGuide, share: float):
        super().__init__(guide.sampler, guide.reverse)
        self.guide = guide
        self.share = share

    def draw(self, rng_key, params, args, kwargs):
        """As the guide draws (x, u)."""
        return self.guide.draw(rng_key, params, args, kwargs)

    def propose(
        self,
        rng_key: jax.Array,
        latents: Sites,
        args: tuple,
        kwargs: dict,
        params: Params,
        auxiliary: Sites | None = None,
        score_free: bool = False,
    ) -> Proposal:
        """u from the mixture at x, with its log-density; see :meth:`HierarchicalGuide.propose`."""
        programs = latents, args, kwargs, params
        if auxiliary is None:
            reverse_key, own_key, choice_key = random.split(rng_key, 3)
            chosen = random.bernoulli(choice_key, self.share)
            auxiliary = jax.tree.map(
                lambda own, reverse: jnp.where(chosen, own, reverse),
                self._propose_own(own_key, *programs).values,
                self.guide.propose(reverse_key, *programs).values,
            )
        of_reverse = self.guide.propose(rng_key, *programs, auxiliary, score_free)
        of_own = self._propose_own(rng_key, *programs, auxiliary)
        log_density = jnp.logaddexp(
            jnp.log1p(-self.share) + of_reverse.log_density,
            jnp.log(self.share) + of_own.log_density,
        )
        return replace(of_reverse, log_density=log_density)

    def _propose_own(self, rng_key, latents, args, kwargs, params, auxiliary=None) -> Proposal:
        """u as the sampler draws it, with its log-density there."""
        program = block(condition(self.sampler, data=latents), hide=list(latents))
        if auxiliary is not None:
            program = substitute(program, data=auxiliary)
        return propose(program, args, kwargs, JOINT, rng_key, params)
