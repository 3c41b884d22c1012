"""Draws of a guide whose density is known: its log-weights are exact."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from numpyro.distributions import Distribution, Unit, biject_to
from numpyro.handlers import seed

from numpyro_sumo._compat import jit_once
from numpyro_sumo.programs.check_params import check_params, check_params_of_both
from numpyro_sumo.programs.check_sites import check_auxiliary
from numpyro_sumo.programs.elements import plates_apart
from numpyro_sumo.programs.log_target import log_target
from numpyro_sumo.programs.log_weights import log_joint, sum_to_data
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import (
    JOINT,
    Params,
    Trace,
    is_auxiliary,
    is_delta,
    is_enumerated,
    is_masked_out,
    latent_sites,
    target_sites,
)
from numpyro_sumo.programs.traced_guide import TracedGuide
from numpyro_sumo.programs.validation import Inspection, check_programs, refuse_scales

from .hierarchical import Sites
from .invert_guide import invert_guide
from .proposal import Proposal, WeightedDraw, refuse_unknown_latents


@dataclass(frozen=True)
class KnownDensity(Proposal):
    r"""Draws z of a guide with the exact log-weights :math:`\log p(x, z) - \log q(z)`.

    For automatic guides, flows, and guides written by hand, reparameterised or not.

    :param data_dims: batch dimensions (negative) over which log-densities are kept apart: those of
        plates around all sites, each element of which has its own latents and its own evidence.
    """

    data_dims: frozenset[int] = JOINT

    def check(self) -> Inspection:
        check_params_of_both(self.programs)
        found = check_programs(
            lambda datum, split: self.programs, reparameterised=False, sums_out_discrete=True
        )
        _check_density(found.guide)
        refuse_scales(found.guide.trace, programs="the guide")
        refuse_unknown_latents(found)
        _check_supports(self.programs, found)
        if any(map(is_enumerated, latent_sites(found.model.trace).values())):
            return found
        found = found._replace(data_plates=frozenset.intersection(*found.plates_of_sites))
        return found._replace(data_plates=plates_apart(self.programs, found))

    def check_points(self) -> Sites:
        programs = self.programs
        check_params(programs.guide, *programs.inputs)
        guide = TracedGuide(lambda datum, split: programs, random.key(0))
        _check_density(guide)
        shapes: dict[str, Any] = {
            name: jax.ShapeDtypeStruct(site["value"].shape, site["value"].dtype)
            for name, site in target_sites(guide.trace).items()
        }
        try:
            jax.eval_shape(self.log_density, random.key(0), shapes)
        except NotImplementedError as error:
            raise ValueError(
                "Expected a guide with a density at given points; a transform of this one has no "
                "inverse (AutoBNAFNormal's, for instance). Use AutoIAFNormal or another guide."
            ) from error
        return shapes

    def split(self, data_dims: frozenset[int]) -> "KnownDensity":
        return replace(self, data_dims=data_dims)

    def draw(self, rng_key: jax.Array) -> WeightedDraw:
        guide_key, target_key = random.split(rng_key)
        guide_trace = self._trace(guide_key, {})
        latents = {name: site["value"] for name, site in target_sites(guide_trace).items()}
        log_q = sum_to_data(log_joint(guide_trace), self.data_dims)
        log_p = log_target(target_key, self.programs, latents, self.data_dims)
        return WeightedDraw(latents, log_p, log_q, log_q)

    def redraw(self, rng_key: jax.Array, latents: Sites) -> jax.Array:
        guide_key, target_key = random.split(rng_key)
        log_p = log_target(target_key, self.programs, latents, self.data_dims)
        return log_p - self.log_density(guide_key, latents)

    def log_density(self, rng_key: jax.Array, latents: Sites) -> jax.Array:
        values = {name: jnp.asarray(value) for name, value in latents.items()}
        drawn = invert_guide(self.programs.guide, values)
        return sum_to_data(log_joint(self._trace(rng_key, drawn)), self.data_dims)

    def _trace(self, rng_key: jax.Array, drawn: Params) -> Trace:
        """The guide's sites at values of those that are drawn."""
        programs = self.programs
        return programs.trace_at(seed(programs.guide, rng_key), {**programs.params, **drawn})


def _check_density(guide: TracedGuide) -> None:
    """Refuses a guide whose log-density at its own draws is not that of its latent sites.

    So is one with points (AutoDelta), with factors, or with draws that are masked out (AutoDAIS,
    whose density is that of a whole trajectory).
    """
    check_auxiliary(guide)
    sites = latent_sites(guide.trace)
    functions = {n for n, s in sites.items() if is_delta(s["fn"]) and not is_auxiliary(s)}
    computed = guide.dependences[0] if functions else {}
    if points := sorted(name for name in functions if not computed[name].draws):
        raise ValueError(
            f"Expected a guide with a density; its sites {points} are points (Delta sites, as in "
            "AutoDelta), which have none. Use AutoNormal, or AutoLaplaceApproximation for a "
            "mode."
        )
    auxiliary = {name for name, site in sites.items() if is_auxiliary(site)}
    if twice := sorted(name for name in functions if computed[name].draws - auxiliary):
        raise ValueError(
            f"Expected a guide with a density; its Delta sites {twice} are functions of other "
            "latent sites, so that all of them together have none. Draw each of them."
        )
    unknown = [n for n, s in guide.trace.items() if isinstance(s.get("fn"), Unit)]
    unknown += [name for name, site in sites.items() if is_masked_out(site["fn"])]
    if unknown:
        raise ValueError(
            f"Expected a guide whose density is that of its latent sites; {sorted(unknown)} are "
            "factors or draws without a density. Use a guide that samples its sites alone."
        )


def _check_supports(programs: Programs, found: Inspection) -> None:
    """Refuses a guide that cannot draw everywhere in the model's support."""
    in_model, in_guide = latent_sites(found.model.trace), target_sites(found.guide.trace)
    names = [
        name
        for name, site in in_guide.items()
        if not is_delta(site["fn"]) and not _same(site["fn"].support, in_model[name]["fn"].support)
    ]
    if not names:
        return

    def reaches(rng_key: jax.Array) -> dict[str, jax.Array]:
        params = programs.params
        guide_trace = programs.trace_at(seed(programs.guide, rng_key), params)
        values = {**params, **{name: guide_trace[name]["value"] for name in in_guide}}
        model_trace = programs.trace_at(seed(programs.model, rng_key), values)
        return {n: _covers(guide_trace[n]["fn"], model_trace[n]["fn"].support) for n in names}

    for name, is_reached in jit_once(reaches)(random.key(0)).items():
        if not is_reached:
            raise ValueError(
                f"Expected the guide to draw everywhere in the model's support; its site '{name}' "
                f"({type(in_guide[name]['fn']).__name__}) is confined to a part of it. Give it a "
                "distribution with the model's support."
            )


def _same(first: Any, second: Any) -> bool:
    """Whether two supports are known to be the same without looking at arrays."""
    return type(first) is type(second) and not jax.tree.leaves((first, second))


def _covers(distribution: Distribution, support: Any) -> jax.Array:
    """Whether the distribution's support holds some points all over another support."""
    transform = biject_to(support)
    shape = transform.inverse_shape(distribution.shape())
    points = [transform(jnp.full(shape, at)) for at in (-8.0, -1.0, 0.0, 1.0, 8.0)]
    return jnp.all(jnp.stack([jnp.all(distribution.support(point)) for point in points]))
