"""Checks of what :func:`~numpyro_sumo.fit` is given, before long work."""

from dataclasses import fields, replace
import inspect
from typing import Any

import numpy as np

import jax
from jax import random

from numpyro.handlers import block, trace

from numpyro_sumo.programs.check_latents import check_continuous_latents
from numpyro_sumo.programs.programs import Programs, with_initial_latents
from numpyro_sumo.programs.sites import Program, is_masked, values_of_type
from numpyro_sumo.programs.validation import refuse_subsamples

from .options import FitOptions
from .posterior import Posterior
from .work import Work

#: Options with which a fit may go on that others than the first one had.
_FREE = ("minutes", "min_ess", "max_r_hat", "learning_rate", "progress_bar")


def check_options(options: object, resume: object, model: Program, kwargs: dict[str, Any]) -> None:
    """Refuses options of the wrong kind, and those that were meant for FitOptions."""
    if not isinstance(options, FitOptions):
        raise ValueError(
            f"Expected options to be FitOptions; got {options!r}. Pass FitOptions(minutes=3)."
        )
    known = inspect.signature(model).parameters
    names = {field.name for field in fields(FitOptions)} - known.keys()
    if meant := sorted(names & kwargs.keys()):
        raise ValueError(
            f"Expected {meant[0]} as an option; got it as an argument of the model. Pass "
            f"options=FitOptions({meant[0]}=...)."
        )
    if resume is not None and not isinstance(resume, Posterior):
        raise ValueError(
            f"Expected resume to be what fit has returned; got {resume!r}. Leave it out."
        )


def check_model(model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses models that cannot be fitted, before long work."""
    check_continuous_latents(model, args, kwargs)
    with block():
        sites = trace(with_initial_latents(random.key(0), model)).get_trace(*args, **kwargs)
    if params := sorted(values_of_type(sites, "param")):
        raise ValueError(
            f"Expected a model without param sites, since a posterior is sought; it has {params}. "
            "Fix them by numpyro.handlers.substitute, or give them priors."
        )
    refuse_subsamples(sites)
    for name, site in sites.items():
        if site["type"] != "sample" or not site["is_observed"]:
            continue
        value = np.asarray(site["value"])
        count = int(np.isnan(value).sum()) if np.issubdtype(value.dtype, np.floating) else 0
        if count and not is_masked(site["fn"]):
            raise ValueError(
                f"Expected observed values without NaN; {count} of '{name}' are NaN. Drop them, or "
                "mask them by numpyro.handlers.mask."
            )


def check_resumed(work: object, programs: Programs, options: FitOptions) -> Work:
    """Refuses to go on with another model, other data, or options that cannot change."""
    if not isinstance(work, Work):
        raise ValueError(
            "Expected a posterior of this process, whose compiled functions can be used again; got "
            "one that was read from a file. Fit again."
        )
    known = work.programs
    inputs = [(each.args, each.kwargs) for each in (known, programs)]
    (old, new), structures = map(jax.tree.leaves, inputs), map(jax.tree.structure, inputs)
    same_data = len(set(structures)) == 1 and all(map(_is_equal, old, new))
    if known.model != programs.model or not same_data:
        raise ValueError(
            "Expected the model and data of the posterior to resume; got others. Leave resume out."
        )
    free = {name: getattr(options, name) for name in _FREE}
    if options != replace(work.options, **free):
        raise ValueError(
            f"Expected the options of the posterior to resume, of which {', '.join(_FREE)} may "
            "change; got others. Leave resume out."
        )
    return work


def _is_equal(one: Any, other: Any) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return np.array_equal(one, other, equal_nan=bool(np.issubdtype(one.dtype, np.floating)))
