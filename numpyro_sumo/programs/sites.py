"""The sites of a traced program: which are latent, random, auxiliary; what scales them."""

from collections.abc import Callable
from typing import Any

import jax

from numpyro.distributions import Delta, Distribution, TransformedDistribution

#: A NumPyro program: a function with sample, param and other sites.
Program = Callable[..., Any]

#: Values of param or sample sites, by name.
Params = dict[str, jax.Array]

#: A trace of a program: its sites, by name.
Trace = dict[str, dict[str, Any]]

#: Batch dimensions (negative) over which weights are kept apart: none, one joint weight.
JOINT: frozenset[int] = frozenset()


def values_of_type(program_trace: Trace, kind: str) -> Params:
    """The values of the sites of a type, "param" for instance, by name."""
    return {name: site["value"] for name, site in program_trace.items() if site["type"] == kind}


def latent_sites(program_trace: Trace) -> Trace:
    """The sample sites of a trace that are not observed, by name."""
    return {
        name: site
        for name, site in program_trace.items()
        if site["type"] == "sample" and not site["is_observed"]
    }


def target_sites(guide_trace: Trace) -> Trace:
    """The latent sites of a guide's trace that are latent sites of the model, not auxiliary."""
    return {n: site for n, site in latent_sites(guide_trace).items() if not is_auxiliary(site)}


def random_sites(guide_trace: Trace) -> Trace:
    """The latent sites of a guide's trace that are drawn, and not computed from other draws."""
    return {
        name: site for name, site in latent_sites(guide_trace).items() if not is_delta(site["fn"])
    }


def is_delta(distribution: Distribution) -> bool:
    """Whether the distribution is a Delta, possibly expanded, wrapped or masked."""
    return any(isinstance(layer, Delta) for layer in layers(distribution))


def is_transformed(distribution: Distribution) -> bool:
    """Whether draws are transformed base draws, possibly expanded, wrapped or masked."""
    return any(isinstance(layer, TransformedDistribution) for layer in layers(distribution))


def is_masked_out(distribution: Distribution) -> bool:
    """Whether the whole log-density is masked to zero."""
    return any(getattr(layer, "_mask", None) is False for layer in layers(distribution))


def is_masked(distribution: Distribution) -> bool:
    """Whether the log-density is masked to zero for some elements."""
    return any(mask is not True for mask, _ in masks_of(distribution))


def masks_of(distribution: Distribution) -> list[tuple[Any, int]]:
    """The masks of a distribution and of those it wraps, each with that layer's event_dim."""
    masked = [layer for layer in layers(distribution) if hasattr(layer, "_mask")]
    return [(layer._mask, layer.event_dim) for layer in masked]


def layers(distribution: Distribution) -> list[Distribution]:
    """A distribution and those that it wraps, from the outside in."""
    found = [distribution]
    while hasattr(found[-1], "base_dist"):
        found.append(found[-1].base_dist)
    return found


def is_auxiliary(site: dict[str, Any]) -> bool:
    """Whether a sample site is marked as integrated out."""
    return bool(site["infer"].get("is_auxiliary", False))


def is_enumerated(site: dict[str, Any]) -> bool:
    """Whether a latent site is discrete and marked to be summed out."""
    return site["infer"].get("enumerate") == "parallel" and bool(site["fn"].support.is_discrete)


def scale_of(site: dict[str, Any]) -> Any:
    """The scale of a sample site: that of its plates and handlers together."""
    return 1.0 if site["scale"] is None else site["scale"]


def scales_of(program_trace: Trace) -> dict[str, Any]:
    """The scale of each sample site, by name."""
    return {
        name: scale_of(site) for name, site in program_trace.items() if site["type"] == "sample"
    }
