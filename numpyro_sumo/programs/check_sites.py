"""Checks that latent sites have a density, one shape and mask, and supports without latents."""

from typing import Any
import warnings

import numpy as np

import jax
from jax import random
from jax.extend.core import ClosedJaxpr, Literal
import jax.numpy as jnp

from numpyro.handlers import replay, seed, substitute, trace

from .jaxprs import sources_of
from .programs import Programs, with_initial_latents
from .sites import (
    Params,
    Program,
    Trace,
    is_auxiliary,
    is_delta,
    is_masked,
    is_masked_out,
    latent_sites,
    masks_of,
    random_sites,
    target_sites,
)
from .traced_guide import TracedGuide


def check_shapes(model_latents: Trace, guide_trace: Trace) -> None:
    """Refuses latent sites whose shapes differ: the model's density would broadcast the draws.

    The number of event dimensions matters only inside plates, where it decides which axis of the
    draw is the plate's.
    """
    for name, in_model in model_latents.items():
        in_guide = guide_trace[name]
        expected = (*in_model["kwargs"].get("sample_shape", ()), *in_model["fn"].shape())
        shape = jnp.shape(in_guide["value"])
        if shape != expected:
            raise ValueError(
                f"Expected latent site '{name}' to have one shape in model and guide; got "
                f"{expected} and {shape}. Expand the distributions alike, or use the same plates."
            )
        event_dims = in_model["fn"].event_dim, in_guide["fn"].event_dim
        shared = {*in_model["cond_indep_stack"]} & {*in_guide["cond_indep_stack"]}
        if shared and event_dims[0] != event_dims[1]:
            raise ValueError(
                f"Expected latent site '{name}' to have one event_dim in model and guide; got "
                f"{event_dims[0]} and {event_dims[1]}. Call to_event alike on both distributions."
            )


def warn_of_points(guide_trace: Trace) -> None:
    """Warns of a guide whose latent sites are all Deltas, so that all particles are equal."""
    if latent_sites(guide_trace) and not random_sites(guide_trace):
        warnings.warn(
            "Expected a guide that draws at random; all latent sites of this one are Deltas, so "
            "that the estimate is log p(x, z) at one point. Use Trace_ELBO for a point estimate, "
            "or another guide.",
            stacklevel=2,
        )


def check_auxiliary(guide: TracedGuide) -> None:
    """Refuses auxiliary guide sites u that are not integrated out.

    Latents that are functions of u (Delta sites, as in AutoGuides) have its density; otherwise
    log p(x, z) − log q(z, u) is no log-weight without a reverse model of u.
    """
    auxiliary = {n: site for n, site in random_sites(guide.trace).items() if is_auxiliary(site)}
    if not auxiliary:
        return
    latents = target_sites(guide.trace)
    functions = {n: found for n, found in guide.dependences[0].items() if n in latents}
    unused = set(auxiliary).difference(*(found.draws for found in functions.values()))
    # A function with fewer elements than u, a sum for instance, does not have the density of u.
    sizes = {n: jnp.size(s["value"]) for n, s in auxiliary.items() if not is_masked_out(s["fn"])}
    if unused or sum(sizes.values()) > sum(jnp.size(latents[name]["value"]) for name in functions):
        raise ValueError(
            f"Expected a guide whose density is known; it has auxiliary sites "
            f"{sorted(unused or sizes)} beside {sorted(latents)}. Use ReverseKL with a "
            "HierarchicalGuide, which integrates them out."
        )


def check_masks(programs: Programs, guide: TracedGuide, model_trace: Trace) -> None:
    """Refuses latent sites that are not masked alike in model and guide.

    If only one program masks an element, the weight is no ratio of densities, and the mean weight
    depends on the guide.
    """
    if not any(map(_is_masked, [*latent_sites(model_trace).values(), *guide.trace.values()])):
        return
    in_model, in_guide = _numbered_masks(programs)
    for name, others in _density_sites(guide, model_trace).items():
        if {in_guide.get(other) for other in others} <= {in_model.get(name)}:
            continue
        fix = "Apply the same numpyro.handlers.mask to the site in both"
        if name.endswith("_unobserved"):  # NumPyro's name for the latent elements of obs_mask
            fix = (
                "Replace obs_mask=m by numpyro.handlers.mask(mask=m), or mask the guide by m ^ True"
            )
        raise ValueError(
            f"Expected latent site '{name}' to have one mask in model and guide; its masks "
            f"differ, or depend on traced arrays in different ways. {fix}."
        )


def _is_masked(site: dict[str, Any]) -> bool:
    """Whether a site's density is masked, except auxiliary sites that are masked out altogether."""
    if site["type"] != "sample" or (is_auxiliary(site) and is_masked_out(site["fn"])):
        return False
    return is_masked(site["fn"])


def _density_sites(guide: TracedGuide, model_trace: Trace) -> dict[str, list[str]]:
    """The guide sites that have the density of each latent site of the model, by its name.

    A Delta site has that of the draws it is computed from: none if it is a point, as in AutoDelta.
    """
    found = {name: [name] for name in latent_sites(model_trace) if name in guide.trace}
    if deltas := [name for name in found if is_delta(guide.trace[name]["fn"])]:
        computed, _ = guide.dependences
        for name in deltas:
            draws = [n for n in computed[name].draws if not is_masked_out(guide.trace[n]["fn"])]
            found[name] = [name, *draws] if draws else []
    return found


def _numbered_masks(programs: Programs) -> tuple[dict[str, int], dict[str, int]]:
    """A number for the mask of each masked site in model and guide: the same for equal masks."""
    params, args, kwargs = programs.inputs

    def masks(rng_key: jax.Array) -> list[dict[str, Any]]:
        # Evaluates what is computed from known arrays only; the key, and so draws, are traced.
        with jax.ensure_compile_time_eval():
            guide = substitute(seed(programs.guide, rng_key), data=params)
            guide_trace = trace(guide).get_trace(*args, **kwargs)
            model = substitute(replay(seed(programs.model, rng_key), guide_trace), data=params)
            model_trace = trace(model).get_trace(*args, **kwargs)
            both = latent_sites(model_trace), latent_sites(guide_trace)
            return [{name: _mask(site) for name, site in sites.items()} for sites in both]

    jaxpr, shapes = jax.make_jaxpr(masks, return_shape=True)(random.key(0))
    in_model, in_guide = jax.tree.unflatten(jax.tree.structure(shapes), _numbers(jaxpr))
    return in_model, in_guide


def _mask(site: dict[str, Any]) -> Any:
    """The mask of a site's elements, of the shape of its value; None if all are True."""
    mask = jnp.ones(jnp.shape(site["value"]), bool)
    for of_layer, event_dim in masks_of(site["fn"]):
        of_layer = jnp.asarray(of_layer)
        mask = mask & of_layer.reshape(*of_layer.shape, *[1] * event_dim)
    return None if not isinstance(mask, jax.core.Tracer) and np.all(mask) else mask


def _numbers(closed: ClosedJaxpr) -> list[int]:
    """A number for each output: the same for the same operations on the same inputs."""
    jaxpr, numbers = closed.jaxpr, dict[Any, int]()
    number = lambda *expression: numbers.setdefault(expression, len(numbers))
    known = {v: number(_constant(const)) for v, const in zip(jaxpr.constvars, closed.consts)}
    known |= {variable: number("input", i) for i, variable in enumerate(jaxpr.invars)}
    of = lambda atom: number(_constant(atom.val)) if isinstance(atom, Literal) else known[atom]
    for equation in jaxpr.eqns:
        params = equation.params.values()
        inner = [_constant(c) for param in params for c in getattr(param, "consts", ())]
        operands = map(of, equation.invars)
        results = number(equation.primitive.name, str(equation.params), *inner, *operands)
        known |= {variable: number(results, i) for i, variable in enumerate(equation.outvars)}
    return [of(atom) for atom in jaxpr.outvars]


def _constant(value: Any) -> Any:
    """An expression for an array: its elements, or its identity while it is traced."""
    if isinstance(value, jax.core.Tracer) or jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        return "traced", id(value)
    array = np.asarray(value)
    return array.shape, str(array.dtype), array.tobytes()


def refuse_moving_supports(model: Program, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuses latent sites whose support depends on other latents."""

    def draws_and_supports(rng_key: jax.Array) -> tuple[Params, dict[str, list[Any]]]:
        seeded = with_initial_latents(rng_key, model)
        sites = latent_sites(trace(seeded).get_trace(*args, **kwargs))
        supports = {name: jax.tree.leaves(site["fn"].support) for name, site in sites.items()}
        return {name: site["value"] for name, site in sites.items()}, supports

    traced, shapes = jax.make_jaxpr(draws_and_supports, return_shape=True)(random.key(0))
    draws, supports = jax.tree.unflatten(jax.tree.structure(shapes), traced.jaxpr.outvars)
    sources = {v: frozenset([n]) for n, v in draws.items() if not isinstance(v, Literal)}
    for name, bounds in supports.items():
        latents = frozenset().union(*sources_of(traced.jaxpr, bounds, sources))
        if latents:
            others = ", ".join(f"'{other}'" for other in sorted(latents))
            raise ValueError(
                f"Expected supports that do not depend on latent sites; that of '{name}' depends "
                f"on {others}. Write it as a function of a site with a fixed support, by "
                "numpyro.deterministic."
            )
