"""A model together with values of its param sites."""

from collections.abc import Callable

from jax import random

from numpyro.handlers import block, seed, substitute, trace

from .sites import Params


def with_params(model: Callable, params: Params) -> Callable:
    """The model with its parameters known: it has no param sites left."""
    return block(substitute(model, data=params), hide_fn=_is_param)


def with_deterministic(
    model: Callable, params: Params, latents: Params, args: tuple, kwargs: dict
) -> Params:
    """Values of the latent sites together with those of the model's deterministic sites there."""
    known = substitute(seed(model, random.key(0)), data={**params, **latents})
    sites = trace(known).get_trace(*args, **kwargs)
    computed = {n: site["value"] for n, site in sites.items() if site["type"] == "deterministic"}
    return {**latents, **computed}


def _is_param(site: dict) -> bool:
    return site["type"] == "param"
