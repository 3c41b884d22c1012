"""Checks that all latent sites of a model can be transformed to one unconstrained vector."""

from typing import Any

from jax import random

from numpyro.handlers import block, trace

from .check_sites import refuse_moving_supports
from .programs import with_initial_latents
from .sites import Program, latent_sites
from .validation import refuse_discrete


def check_continuous_latents(model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses a model of which :class:`~numpyro_sumo.AutoHierarchicalNormal` is no guide.

    :raises ValueError: without latents, for discrete ones, for those in a subsampled plate, and for
        supports that depend on another latent site.
    """
    with block():
        model_trace = trace(with_initial_latents(random.key(0), model)).get_trace(*args, **kwargs)
    latents = latent_sites(model_trace)
    if not latents:
        raise ValueError(
            "Expected a model with latent sites; it has none. Use no guide for it, or leave out "
            "obs= at the sites to be inferred."
        )
    refuse_discrete(latents)
    for name, site in latents.items():
        for frame in site["cond_indep_stack"]:
            size = model_trace[frame.name]["args"][0] if frame.name in model_trace else frame.size
            if frame.size < size:
                raise ValueError(
                    f"Expected latent sites outside of subsampled plates; '{name}' is in "
                    f"'{frame.name}', which takes {frame.size} of {size} elements. Leave "
                    "subsample_size out."
                )
    refuse_moving_supports(model, args, kwargs)
