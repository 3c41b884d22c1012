"""Draws of a hierarchical sampler with extra draws of u, which make their weights unbiased."""

from dataclasses import dataclass

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.checks import check_positive_integer, check_share
from numpyro_sumo.estimators import importance_weighted_bound
from numpyro_sumo.programs.check_params import check_params, check_params_of_both
from numpyro_sumo.programs.log_target import log_target
from numpyro_sumo.programs.validation import Inspection

from .defensive_reverse import DefensiveReverse
from .hierarchical import Sites, check_hierarchical, check_reverse, hierarchical
from .proposal import Proposal, WeightedDraw, refuse_unknown_latents


@dataclass(frozen=True)
class ExtendedDraws(Proposal):
    r"""Draws x of the sampler with n + 1 draws of u, the generating one and n of the reverse model.

    With :math:`x, u_0 \sim q(x, u)` and :math:`u_1, \dots, u_n \sim \bar r(u \mid x)`, the density,
    averaged over which of the n + 1 draws generated x, is

    .. math::
        q(x, u_{0:n}) = \hat q(x, u_{0:n}) \prod_{j=0}^n \bar r(u_j \mid x), \qquad
        \hat q(x, u_{0:n}) = \frac{1}{n+1} \sum_{j=0}^n \frac{q(x, u_j)}{\bar r(u_j \mid x)}

    The target :math:`p(x) \prod_j \bar r(u_j \mid x)` has the marginal p, so draws have the weights
    :math:`p(x) / \hat q`, and for any f and any reverse model
    :math:`E[f(x)\, p(x) / \hat q] = \int f(x)\, p(x)\, dx`.

    Here r̄ is the :class:`~.defensive_reverse.DefensiveReverse` mixture. Without its share of q(u),
    q̂ is infinite and the weight zero where r(u₀ | x) is zero. If q(x, u) = 0 for all n + 1 draws,
    the weights are no longer unbiased; r(u | x) must be zero where q(u) is zero.

    :param num_particles: n, fresh draws of u for each x.
    :param defensive_share: ε, the share of q(u) in r̄(u | x), in [0, 1).

    **Reference:** Sobolev and Vetrov 2019, *Importance weighted hierarchical variational
    inference*: the density behind the upper bound on log q.
    """

    num_particles: int
    defensive_share: float = 0.0

    def __post_init__(self) -> None:
        check_positive_integer("num_particles", self.num_particles)
        check_share("defensive_share", self.defensive_share)

    def check(self) -> Inspection:
        check_params_of_both(self.programs)
        found = check_hierarchical(self.programs, reparameterised=False)
        refuse_unknown_latents(found)
        return found

    def check_points(self) -> Sites:
        check_params(self.programs.guide, *self.programs.inputs)
        return check_reverse(self.programs)

    def draw(self, rng_key: jax.Array) -> WeightedDraw:
        draw_key, u_key, target_key = random.split(rng_key, 3)
        x, u = hierarchical(self.programs.guide).draw(draw_key, self.programs)
        log_weights = self.u_log_weights(u_key, x, self.num_particles, u)
        return WeightedDraw(
            latents=x,
            log_target=log_target(target_key, self.programs, x),
            log_below=importance_weighted_bound(log_weights[:-1]),
            log_above=importance_weighted_bound(log_weights),
        )

    def redraw(self, rng_key: jax.Array, latents: Sites) -> jax.Array:
        u_key, target_key = random.split(rng_key)
        log_weights = self.u_log_weights(u_key, latents, self.num_particles + 1)
        log_p = log_target(target_key, self.programs, latents)
        return log_p - importance_weighted_bound(log_weights)

    def log_density(self, rng_key: jax.Array, latents: Sites) -> jax.Array:
        return importance_weighted_bound(self.u_log_weights(rng_key, latents, self.num_particles))

    def u_log_weights(
        self,
        rng_key: jax.Array,
        latents: Sites,
        num_fresh: int,
        generating: Sites | None = None,
    ) -> jax.Array:
        """log q(x, u) − log r̄(u | x) of draws of u at x, in nats.

        :param num_fresh: number of draws of u from r̄(u | x).
        :param generating: the u that generated x; its log-weight is appended.
        :return: shape ``(num_fresh,)``, or ``(num_fresh + 1,)`` with ``generating``.
        """
        reverse = DefensiveReverse(self.programs, self.defensive_share)
        keys = random.split(rng_key, num_fresh + (generating is not None))
        u = jax.vmap(lambda key: reverse.draw(key, latents))(keys[:num_fresh])
        if generating is not None:
            u = {name: jnp.append(u[name], last[None], axis=0) for name, last in generating.items()}
        return jax.vmap(lambda key, u: reverse.log_weight(key, latents, u))(keys, u)
