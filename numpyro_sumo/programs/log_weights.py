"""Log-weights log p(x, z) - log q(z | x), and the draws z that they are of."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from .sites import Trace

_ARRAYS = ["values", "indices", "log_density", "scale"]


@partial(jax.tree_util.register_dataclass, meta_fields=["event_dims"], data_fields=_ARRAYS)
@dataclass(frozen=True)
class GuideDraw:
    """A draw from a guide with its log-density: a pytree of arrays.

    :param values: of the guide's latent sites, by name; likewise ``event_dims``, as pairs.
    :param indices: of its plates, by name.
    :param log_density: log q(z | x) in nats, with an axis for each data plate.
    :param scale: of the guide's sites (subsampling, ``handlers.scale``), of the same shape. It
        multiplies finished estimates: a scaled log-weight would be a power of the weight.
    """

    values: dict[str, jax.Array]
    indices: dict[str, jax.Array]
    log_density: jax.Array
    scale: jax.Array
    event_dims: tuple[tuple[str, int], ...]

    def spread(self, of_data: jax.Array, data_dims: frozenset[int]) -> "GuideDraw":
        """Numbers of the data in a pytree like this one, with leaves that broadcast to its own."""
        sizes = dict(zip(sorted(data_dims), of_data.shape))
        shape = [sizes.get(dim, 1) for dim in range(min(data_dims, default=0), 0)]
        spread = {n: of_data.reshape(*shape, *[1] * dims) for n, dims in self.event_dims}
        ones = dict.fromkeys(self.indices, jnp.ones(()))
        return GuideDraw(spread, ones, of_data, of_data, self.event_dims)

    def messages(self) -> dict[str, dict[str, Any]]:
        """The sites in the form that :class:`numpyro.handlers.replay` reads."""

        def of_type(kind: str, values: dict[str, jax.Array]) -> dict[str, dict[str, Any]]:
            others = {"type": kind, "is_observed": False, "infer": {}}
            return {name: {"name": name, "value": v, **others} for name, v in values.items()}

        return of_type("plate", self.indices) | of_type("sample", self.values)


def weight_of(
    log_probs: dict[str, jax.Array], proposal: GuideDraw, data_dims: frozenset[int]
) -> jax.Array:
    """The log-weight from the model's log-densities, in nats."""
    return without_scale(sum_to_data(log_probs, data_dims), proposal.scale) - proposal.log_density


def without_scale(log_prob: jax.Array, scale: jax.Array) -> jax.Array:
    """A scaled log-density without its scale; what was scaled by zero stays zero."""
    return log_prob / jnp.where(scale == 0.0, 1.0, scale)


def sum_to_data(log_probs: dict[str, jax.Array], data_dims: frozenset[int]) -> jax.Array:
    """Log-densities of all sites, summed over every dimension except the data's."""
    total = jnp.zeros(())
    for log_prob in log_probs.values():
        others = (d for d in range(-jnp.ndim(log_prob), 0) if d not in data_dims)
        total = total + jnp.sum(log_prob, axis=tuple(others))
    return total


def log_joint(model_trace: Trace) -> dict[str, jax.Array]:
    """Scaled log-densities of the sites of a model, not summed, in nats."""
    log_probs = {}
    for name, site in model_trace.items():
        if site["type"] == "sample":
            log_prob = log_prob_of(site, site["intermediates"])
            log_probs[name] = log_prob if site["scale"] is None else site["scale"] * log_prob
    return log_probs


def log_prob_of(site: dict[str, Any], intermediates: list[Any]) -> jax.Array:
    """The log-density of a site at its value, not scaled; zero where it is scaled by zero."""
    known = (intermediates,) if intermediates else ()
    log_prob: jax.Array = site["fn"].log_prob(site["value"], *known)
    scale = site["scale"]
    return log_prob if scale is None else jnp.where(scale == 0.0, 0.0, log_prob)
