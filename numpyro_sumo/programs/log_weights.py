"""Log-weights of draws from a guide under a model, as their traces have it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.util import compute_log_probs

from .handlers import detach
from .path_gradient import along_path
from .programs import Programs
from .sites import JOINT, latent_sites, random_sites, scales_of

_PROPOSED = ["values", "indices", "log_density", "scale"]


@partial(jax.tree_util.register_dataclass, meta_fields=["event_dims"], data_fields=_PROPOSED)
@dataclass(frozen=True)
class Proposal:
    """What a guide proposed: a pytree of arrays.

    :param values: of the guide's latent sites, by name; likewise ``event_dims``, as pairs.
    :param indices: of its plates, by name.
    :param log_density: log q(z | x) in nats, one element for each of the data plates'.
    :param scale: what the guide's sites are scaled by (subsampling, ``handlers.scale``), of the
        same shape. It multiplies finished estimates: a scaled log-weight would be a power of one.
    """

    values: dict[str, jax.Array]
    indices: dict[str, jax.Array]
    log_density: jax.Array
    scale: jax.Array
    event_dims: tuple[tuple[str, int], ...]

    def spread(self, of_data: jax.Array, data_dims: frozenset[int]) -> "Proposal":
        """Numbers of the data, shaped as the log-density, such that they broadcast to all else."""
        sizes = dict(zip(sorted(data_dims), of_data.shape))
        shape = [sizes.get(dim, 1) for dim in range(min(data_dims, default=0), 0)]
        spread = {n: of_data.reshape(*shape, *[1] * dims) for n, dims in self.event_dims}
        ones = dict.fromkeys(self.indices, jnp.ones(()))
        return Proposal(spread, ones, of_data, of_data, self.event_dims)

    def sites(self) -> dict[str, dict]:
        """The messages that :class:`numpyro.handlers.replay` asks for."""

        def messages(kind, values):
            others = {"type": kind, "is_observed": False, "infer": {}}
            return {name: {"name": name, "value": v, **others} for name, v in values.items()}

        return messages("plate", self.indices) | messages("sample", self.values)


def propose(
    rng_key: jax.Array,
    programs: Programs,
    data_dims: frozenset[int] = JOINT,
    score_free: bool = False,
) -> Proposal:
    r"""A draw z from the guide with :math:`\log q_\phi(z \mid x)`.

    :param data_dims: batch dimensions (negative) over which weights are kept apart.
    :param score_free: whether the log-density is differentiated through z alone.
    :return: the draw; its log-density is a scalar where there are no data plates.
    """
    guide, (params, args, kwargs) = programs.guide, programs.inputs
    program = seed(guide, rng_key)
    if score_free:
        live = trace(substitute(program, data=params)).get_trace(*args, **kwargs)
        program = along_path(seed(guide, rng_key), random_sites(live))
        params, args, kwargs = detach((params, args, kwargs))
    log_probs, guide_trace = compute_log_probs(program, args, kwargs, params, sum_log_prob=False)
    scales = scales_of(guide_trace)
    unscaled = {name: _relative(log_prob, scales[name]) for name, log_prob in log_probs.items()}
    log_density = _sum_to_data(unscaled, data_dims)
    scale = jnp.asarray(_common_scale(scales), log_density.dtype)
    others = tuple(d for d in range(-scale.ndim, 0) if d not in data_dims)
    scale = jnp.broadcast_to(jnp.squeeze(scale, others), log_density.shape)
    latent = latent_sites(guide_trace)
    return Proposal(
        values={name: site["value"] for name, site in latent.items()},
        indices={n: site["value"] for n, site in guide_trace.items() if site["type"] == "plate"},
        log_density=log_density,
        scale=scale,
        event_dims=tuple((n, getattr(site["fn"], "event_dim", 0)) for n, site in latent.items()),
    )


def log_weight(
    rng_key: jax.Array,
    programs: Programs,
    proposal: Proposal,
    data_dims: frozenset[int] = JOINT,
) -> jax.Array:
    r"""One log-weight :math:`\ell = \log p_\theta(x, z) - \log q_\phi(z \mid x)` of a proposed z.

    The model's log-densities are taken relative to the guide's scale: what the two have in common
    is no part of the weight.

    :return: the log-weight in nats, shaped as the proposal's log-density.
    """
    params, args, kwargs = programs.inputs
    model = replay(seed(programs.model, rng_key), proposal.sites())
    log_probs, _ = compute_log_probs(model, args, kwargs, params, sum_log_prob=False)
    return _relative(_sum_to_data(log_probs, data_dims), proposal.scale) - proposal.log_density


def _common_scale(scales: dict[str, Any]) -> Any:
    """The scale that all sites share; NaN where they do not (and were traced, see the checks)."""
    if not scales:
        return 1.0
    first, *others = scales.values()
    if all(not isinstance(scale, jax.core.Tracer) for scale in scales.values()):
        return first
    same = jnp.asarray(True)
    for scale in others:
        same &= jnp.all(scale == first)
    return jnp.where(same, first, jnp.nan)


def _relative(log_prob: jax.Array, scale: Any) -> jax.Array:
    """A scaled log-density without its scale; what was scaled by zero stays zero."""
    return log_prob / jnp.where(scale == 0.0, 1.0, scale)


def _sum_to_data(log_probs: dict[str, jax.Array], data_dims: frozenset[int]) -> jax.Array:
    """Log-densities of all sites, summed over every dimension that is not of the data."""
    total = jnp.zeros(())
    for log_prob in log_probs.values():
        others = (d for d in range(-jnp.ndim(log_prob), 0) if d not in data_dims)
        total = total + jnp.sum(log_prob, axis=tuple(others))
    return total
