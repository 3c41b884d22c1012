"""The KL divergence of a guide from its target, and its log-density, or bounds on both."""

from typing import Any, NamedTuple

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro_sumo.checks import check_positive_integer, check_sample_size
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.hierarchical import Sites
from numpyro_sumo.guides.proposals import proposal_of
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Program

from .summaries import mean_and_error


class KLSandwich(NamedTuple):
    """A lower and an upper bound on KL(q ‖ p) − log Z, in nats, with standard errors."""

    lower: jax.Array
    lower_se: jax.Array
    upper: jax.Array
    upper_se: jax.Array


def kl_sandwich(
    rng_key: jax.Array,
    model: Program,
    guide: Program,
    params: Params,
    *args: Any,
    num_samples: int = 20_000,
    num_particles: int = 500,
    defensive_share: float = DEFENSIVE_SHARE,
    batch_size: int = 100,
    **kwargs: Any,
) -> KLSandwich:
    r"""A lower and an upper bound on the KL divergence of a guide from its target.

    .. math::
        E[L_n(x)] \le E[\log q(x)] \le E[U_{n+1}(x)]

    Both are log q(x) for a guide whose density is known. For a hierarchical one,
    :math:`L_n` is the importance-weighted bound over n draws from the reverse model mixed with a
    share of the sampler's own (:class:`~numpyro_sumo.guides.defensive_reverse.DefensiveReverse`);
    :math:`U_{n+1}` includes the u that generated x. Subtracting log p(x) gives bounds on
    KL(q ‖ p) − log Z, with Z the target's normaliser (1 for a model without observed sites or
    factors). If the gap is large, the reverse model misses some u: report the *upper* bound.
    Neither bound detects a mode of the target that the guide never draws.

    :param num_samples: draws of x, an integer ≥ 2. The other arguments are those of
        :func:`~numpyro_sumo.certify`.
    :return: bounds and standard errors over the draws of x: scalars, in nats.
    :raises ValueError: if model and guide do not match, for params that are not theirs, or for
        options outside their ranges.

    **Reference:** Sobolev and Vetrov 2019, *Importance weighted hierarchical variational
    inference*, section 5.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import HierarchicalGuide, kl_sandwich
    >>> def target():
    ...     numpyro.sample("x", dist.Normal(0.0, 2.0**0.5))
    >>> def sampler():
    ...     u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    ...     numpyro.sample("x", dist.Normal(u, 1.0))
    >>> def reverse(latents):
    ...     numpyro.sample("u", dist.Normal(0.5 * latents["x"], 0.8))
    >>> guide = HierarchicalGuide(sampler, reverse)
    >>> bounds = kl_sandwich(jax.random.key(0), target, guide, {}, num_samples=1_000)
    >>> bool(bounds.lower < 1e-3) and bool(bounds.upper > -1e-3)  # q equals p
    True
    """
    check_sample_size("num_samples", num_samples)
    programs = Programs(model, guide, params, args, kwargs)
    proposal = proposal_of(programs, num_particles, defensive_share)
    proposal.check()
    draws = jax.jit(lambda key: proposal.draws(key, num_samples, batch_size))(rng_key)
    bounds = draws.log_below - draws.log_target, draws.log_above - draws.log_target
    return KLSandwich(*mean_and_error(bounds[0]), *mean_and_error(bounds[1]))


def log_marginal(
    rng_key: jax.Array,
    guide: Program,
    params: Params,
    latents: Sites,
    *args: Any,
    num_particles: int = 500,
    defensive_share: float = DEFENSIVE_SHARE,
    batch_size: int = 100,
    **kwargs: Any,
) -> jax.Array:
    """A guide's log q(x) at given points; of a hierarchical guide, a lower bound.

    The bound is importance-weighted over draws of the auxiliary sites u.

    :param latents: values of the target's latent sites, each with a leading axis of n points.
    :param num_particles: draws of u for each point; ``defensive_share`` and ``batch_size`` are as
        in :func:`~numpyro_sumo.certify`.
    :return: shape ``(n,)``, in nats.
    :raises ValueError: for a guide without a density at given points, params of another guide,
        points whose sites or shapes are not the guide's, or options outside their ranges.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import HierarchicalGuide, log_marginal
    >>> def sampler():
    ...     u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    ...     numpyro.sample("x", dist.Normal(u, 1.0))
    >>> def reverse(latents):
    ...     numpyro.sample("u", dist.Normal(0.5 * latents["x"], 0.8))
    >>> guide, x = HierarchicalGuide(sampler, reverse), jnp.array([0.0, 1.0])
    >>> bound = log_marginal(jax.random.key(0), guide, {}, {"x": x})
    >>> bool(jnp.allclose(bound, dist.Normal(0.0, 2.0**0.5).log_prob(x), atol=0.05))
    True
    """
    check_positive_integer("batch_size", batch_size)
    programs = Programs(_no_model, guide, params, args, kwargs)
    proposal = proposal_of(programs, num_particles, defensive_share)
    latents = {name: jnp.asarray(values) for name, values in latents.items()}
    num_points = _check_points(latents, proposal.check_points())

    def one_point(key_and_point: tuple[jax.Array, Sites]) -> jax.Array:
        return proposal.log_density(*key_and_point)

    keys = random.split(rng_key, num_points)
    return lax.map(one_point, (keys, latents), batch_size=batch_size)


def _no_model(*args: Any, **kwargs: Any) -> None:
    """A target without sites: densities of a guide need none."""


def _check_points(latents: Sites, of_guide: Sites) -> int:
    """The number of points; refuses those that are not values of the guide's latent sites."""
    if latents.keys() != of_guide.keys():
        raise ValueError(
            f"Expected latents to hold values of {sorted(of_guide)}, the guide's latent sites; "
            f"got {sorted(latents)}. Pass one array for each."
        )
    shapes = {name: jnp.shape(values) for name, values in latents.items()}
    num_points = max((shape[0] for shape in shapes.values() if shape), default=0)
    for name, shape in shapes.items():
        expected = num_points, *of_guide[name].shape
        if shape != expected:
            raise ValueError(
                f"Expected latents with a leading axis of points; '{name}' has shape {shape}, and "
                f"not {expected}. Stack as many values of each site."
            )
    return num_points
