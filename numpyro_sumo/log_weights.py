"""Log-weights of draws from a guide under a model, as their traces have it."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro.handlers import replay, seed, substitute, trace
from numpyro.infer.util import compute_log_probs

from .paths import along_path
from .sites import Params, random_sites, scales_of


class Proposal(NamedTuple):
    """What a guide proposed.

    :param trace: of the guide.
    :param log_density: log q(z | x) in nats, one element for each of the data plates'.
    :param scale: what the guide's sites are scaled by (subsampling, ``handlers.scale``), of the
        same shape. It multiplies finished estimates: a scaled log-weight would be a power of one.
    """

    trace: dict
    log_density: jax.Array
    scale: jax.Array

    def held(self) -> "Proposal":
        """The same values, through which no gradient flows."""
        sites = {name: _with_value(site, stop_gradient) for name, site in self.trace.items()}
        return Proposal(sites, stop_gradient(self.log_density), stop_gradient(self.scale))

    def held_unless(self, counts: jax.Array, data_dims: frozenset[int]) -> "Proposal":
        """The same values, through which gradients flow only where ``counts``.

        For weights that are zero: their log-density is −∞ by overflow, say, and has no derivative,
        and nought times that would be no number.

        :param counts: booleans shaped as the log-density.
        """
        sizes = dict(zip(sorted(data_dims), counts.shape))
        shape = [sizes.get(dim, 1) for dim in range(min(data_dims, default=0), 0)]

        def choose(value, event_dim=0):
            chosen = counts.reshape(*shape, *[1] * event_dim)
            return jnp.where(chosen, value, stop_gradient(value))

        sites = {
            name: _with_value(site, partial(choose, event_dim=getattr(site["fn"], "event_dim", 0)))
            for name, site in self.trace.items()
        }
        log_density = jnp.where(counts, self.log_density, stop_gradient(self.log_density))
        return Proposal(sites, log_density, self.scale)


def hold(tree: Any) -> Any:
    """The same values, through which no gradient flows."""
    is_array = lambda leaf: isinstance(leaf, jax.Array)
    return jax.tree.map(lambda leaf: stop_gradient(leaf) if is_array(leaf) else leaf, tree)


def _with_value(site: dict, change: Callable[[jax.Array], jax.Array]) -> dict:
    """A sample site with another value; any other site as it is."""
    return {**site, "value": change(site["value"])} if site["type"] == "sample" else site


def propose(
    guide: Callable,
    args: tuple,
    kwargs: dict,
    data_dims: frozenset[int],
    rng_key: jax.Array,
    params: Params,
    score_free: bool = False,
) -> Proposal:
    r"""A draw z from the guide with :math:`\log q_\phi(z \mid x)`.

    :param data_dims: from :func:`inspect_programs`.
    :param params: φ, values of the guide's param sites.
    :param score_free: whether the log-density is differentiated through z alone.
    :return: the draw; its log-density is a scalar where there are no data plates.
    """
    program = seed(guide, rng_key)
    if score_free:
        live = trace(substitute(program, data=params)).get_trace(*args, **kwargs)
        program = along_path(seed(guide, rng_key), random_sites(live))
        params, args, kwargs = hold((params, args, kwargs))
    log_probs, guide_trace = compute_log_probs(program, args, kwargs, params, sum_log_prob=False)
    scales = scales_of(guide_trace)
    unscaled = {name: _relative(log_prob, scales[name]) for name, log_prob in log_probs.items()}
    log_density = _sum_to_data(unscaled, data_dims)
    scale = jnp.asarray(_common_scale(scales), log_density.dtype)
    others = tuple(d for d in range(-scale.ndim, 0) if d not in data_dims)
    scale = jnp.broadcast_to(jnp.squeeze(scale, others), log_density.shape)
    return Proposal(guide_trace, log_density, scale)


def log_weight(
    model: Callable,
    proposal: Proposal,
    args: tuple,
    kwargs: dict,
    data_dims: frozenset[int],
    rng_key: jax.Array,
    params: Params,
) -> jax.Array:
    r"""One log-weight :math:`\ell = \log p_\theta(x, z) - \log q_\phi(z \mid x)` of a proposed z.

    The model's log-densities are taken relative to the guide's scale: what the two have in common
    is no part of the weight.

    :param params: θ, values of the model's param sites. They come apart from the guide's because
        the two are differentiated apart, also where model and guide share a parameter.
    :return: the log-weight in nats, shaped as the proposal's log-density.
    """
    log_probs, _ = compute_log_probs(
        replay(seed(model, rng_key), proposal.trace), args, kwargs, params, sum_log_prob=False
    )
    return _relative(_sum_to_data(log_probs, data_dims), proposal.scale) - proposal.log_density


def updated_mutable_state(
    model: Callable, guide: Callable, rng_key: jax.Array, params: Params, args: tuple, kwargs: dict
) -> dict[str, Any]:
    """The values of the mutable sites after one draw from the guide, weighed by the model."""

    def run(program):
        sites = trace(substitute(program, data=params)).get_trace(*args, **kwargs)
        state = {n: site["value"] for n, site in sites.items() if site["type"] == "mutable"}
        return sites, state

    guide_key, model_key = random.split(rng_key)
    guide_trace, state = run(seed(guide, guide_key))
    params = {**params, **state}
    _, model_state = run(replay(seed(model, model_key), guide_trace))
    return {**state, **model_state}


def with_shared_subsample(program: Callable, rng_key: jax.Array) -> Callable:
    """The program with its plates subsampled by ``rng_key``: one batch for all particles."""
    return seed(program, rng_key, hide_types=["sample", "prng_key", "control_flow"])


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
