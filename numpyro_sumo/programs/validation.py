"""Check that log-weights log p - log q exist, and find the plates that keep them separate."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro.distributions import Unit

from .check_sites import check_auxiliary, check_masks, check_shapes, warn_of_points
from .sites import (
    Trace,
    is_enumerated,
    latent_sites,
    scales_of,
    target_sites,
    values_of_type,
)
from .traced_guide import ProgramsOf, TracedGuide
from .traced_model import TracedModel


class Inspection(NamedTuple):
    """Model and guide, each traced once, and the plates that enclose all their sample sites.

    :param data_plates: frames of these plates: a weight can be kept for each of their elements.
    :param scaled_apart: whether sites have scales of their own, so that there is no weight, but
        only a sum of scaled log-densities.
    """

    guide: TracedGuide
    model: TracedModel
    data_plates: frozenset[Any] = frozenset()
    scaled_apart: bool = False

    @property
    def data_dims(self) -> frozenset[int]:
        """Batch dimensions (negative) of the data plates."""
        return frozenset(frame.dim for frame in self.data_plates)

    @property
    def traces(self) -> dict[str, Trace]:
        """The traces of both programs; their arrays are abstract and of no use outside."""
        return {"model": self.model.trace, "guide": self.guide.trace}

    @property
    def sample_sites(self) -> dict[tuple[str, str], dict[str, Any]]:
        """The sample sites of both, by program and name."""
        return {
            (program, name): site
            for program, program_trace in self.traces.items()
            for name, site in program_trace.items()
            if site["type"] == "sample"
        }

    @property
    def has_mutable_state(self) -> bool:
        """Whether either program has mutable state, which single elements would update."""
        return any(values_of_type(each, "mutable") for each in self.traces.values())

    @property
    def plates_of_sites(self) -> list[frozenset[Any]]:
        """The frames of the plates that enclose each sample site."""
        return [frozenset(site["cond_indep_stack"]) for site in self.sample_sites.values()]

    def full_sizes(self, frame: Any) -> list[int]:
        """The number of elements that a plate is subsampled from, in each program that has it."""
        traces = self.traces.values()
        return [int(each[frame.name]["args"][0]) for each in traces if frame.name in each]

    def full_size(self, frame: Any) -> int:
        """The number of elements that a plate is subsampled from."""
        return next(iter(self.full_sizes(frame)), int(frame.size))


def inspect_programs(
    programs_of: ProgramsOf,
    rng_key: jax.Array | None = None,
    is_linear: bool = False,
    split: Sequence[jax.Array] = (),
) -> Inspection:
    """Traces model and guide, checks that log-weights exist, and finds the data plates.

    :param programs_of: maps a datum, an integer array, and ``split`` to the programs run for it.
    :param rng_key: any key.
    :param is_linear: whether an estimate is one log-weight, as in the ELBO: it is then unbiased
        under any scales and subsamples.
    :param split: arrays that are inputs of the traced programs, and not closed over.
    :raises ValueError: one line naming what was expected, what came, and the fix.
    """
    found = check_programs(programs_of, rng_key, split)
    warn_of_points(found.guide.trace)
    check_auxiliary(found.guide)
    if plates := found.plates_of_sites:
        found = found._replace(data_plates=frozenset.intersection(*plates))
    _check_full_sizes(found)
    try:
        _check_subsamples(found)
        _check_scales(found.guide.trace, found.data_dims)
    except ValueError:
        if not is_linear:
            raise
        return found._replace(data_plates=frozenset(), scaled_apart=True)
    return found


def check_programs(
    programs_of: ProgramsOf,
    rng_key: jax.Array | None = None,
    split: Sequence[jax.Array] = (),
    *,
    reparameterised: bool = True,
    sums_out_discrete: bool = False,
) -> Inspection:
    """Traces model and guide and refuses sites that do not match or cannot be weighted.

    Other arguments and errors are those of :func:`inspect_programs`; data plates are not looked
    for.

    :param reparameterised: whether gradients must flow through the guide's draws.
    :param sums_out_discrete: whether discrete sites of the model that are marked ``enumerate`` are
        summed out; see :func:`~.log_target.log_target`.
    """
    rng_key = random.key(0) if rng_key is None else rng_key
    guide = TracedGuide(programs_of, rng_key, split)
    check = partial(_check_sites, reparameterised, sums_out_discrete)
    model = TracedModel(programs_of, guide, rng_key, split, check)
    check_masks(programs_of(jnp.zeros((), jnp.int32), split), guide, model.trace)
    return Inspection(guide, model)


def refuse_scales(*traces: Trace, programs: str = "sampler and reverse model") -> None:
    """Refuses subsampled plates and scaled sites; ``programs`` is a part of the message."""
    for program_trace in traces:
        refuse_subsamples(program_trace, programs, "Subsample in the target alone.")
        for name, scale in scales_of(program_trace).items():
            known = known_scale(scale)
            if known is None or np.any(known != 1.0):
                raise ValueError(
                    f"Expected no scaled site in {programs}; '{name}' has scale {scale}. Scale the "
                    "target alone."
                )


def refuse_subsamples(
    program_trace: Trace,
    programs: str = "the model, whose weights are those of all data",
    fix: str = "Leave subsample_size out.",
) -> None:
    """Refuses subsampled plates; ``programs`` and ``fix`` are parts of the message."""
    for name, site in program_trace.items():
        if site["type"] == "plate" and site["value"].shape[0] < site["args"][0]:
            raise ValueError(
                f"Expected no subsampled plate in {programs}; '{name}' is subsampled. {fix}"
            )


def refuse_discrete(model_latents: Trace) -> None:
    """Refuses latent sites of a model that are not continuous."""
    for name, site in model_latents.items():
        if site["fn"].support.is_discrete:
            raise ValueError(
                f"Expected continuous latent sites; model site '{name}' is discrete. "
                "Sum it out of the model (a mixture distribution, for instance)."
            )


def _check_latents(model_trace: Trace, guide_trace: Trace, latents: Trace) -> None:
    """Refuses a guide that lacks a latent site of the model, or has one the model lacks."""
    refuse_discrete(latents)
    proposed = target_sites(guide_trace).keys()
    if missing := sorted(latents.keys() - proposed):
        raise ValueError(
            f"Expected the guide to sample every latent site of the model; it lacks {missing}. "
            "Add these sites to the guide."
        )
    if extra := sorted(proposed - latents.keys()):
        raise ValueError(
            f"Expected guide sites to be latent sites of the model; it also has {extra}. "
            "Remove them."
        )


def _check_sites(
    reparameterised: bool, sums_out_discrete: bool, model_trace: Trace, guide_trace: Trace
) -> None:
    """Refuses sites of model and guide that do not match or cannot be weighted.

    The density of an observed guide site that is no factor is no part of log q(z), and no gradient
    flows through a draw of a sampler that is not reparameterised.
    """
    model_latents = latent_sites(model_trace)
    if sums_out_discrete:
        model_latents = {n: s for n, s in model_latents.items() if not is_enumerated(s)}
    _check_latents(model_trace, guide_trace, model_latents)
    latents = latent_sites(guide_trace)
    for name, site in guide_trace.items():
        if site["type"] == "sample" and name not in latents and not isinstance(site["fn"], Unit):
            raise ValueError(
                f"Expected a guide without observed sites; '{name}' is observed. Move it to the "
                "model."
            )
        if reparameterised and name in latents and not site["fn"].has_rsample:
            raise ValueError(
                f"Expected reparameterised guide sites; '{name}' is {type(site['fn']).__name__}, "
                "which has no reparameterised sampler. Choose a distribution that has one."
            )
    check_shapes(model_latents, guide_trace)


def _check_scales(guide_trace: Trace, data_dims: frozenset[int]) -> None:
    """Refuses guides whose sites have different scales: the scaled density is not the draw's."""
    scales = scales_of(guide_trace)
    known = [(n, scale) for n, each in scales.items() if (scale := known_scale(each)) is not None]
    for name, scale in known:
        first_name, first = known[0]
        if not np.array_equal(scale, first):
            raise ValueError(
                f"Expected all guide sites to have one scale; '{first_name}' has {first} and "
                f"'{name}' has {scale}. Scale the whole guide, or only sites of the model."
            )
    for name, site_scale in scales.items():
        shape = jnp.shape(site_scale)
        if any(size > 1 and dim - len(shape) not in data_dims for dim, size in enumerate(shape)):
            raise ValueError(
                f"Expected one scale for each weight; guide site '{name}' has a scale of shape "
                f"{shape}, and weights are kept apart over dimensions {sorted(data_dims)}. Scale "
                "all of the guide by one number, or only sites of the model."
            )


def known_scale(scale: Any) -> np.ndarray | None:
    """The value of a scale, or None while it is being traced."""
    return None if isinstance(scale, jax.core.Tracer) else np.asarray(scale)


def _check_full_sizes(found: Inspection) -> None:
    """Refuse data plates whose full size differs between model and guide."""
    for frame in found.data_plates:
        sizes = found.full_sizes(frame)
        if len(set(sizes)) > 1:
            raise ValueError(
                f"Expected plate '{frame.name}' to have one full size in model and guide; got "
                f"{sizes[0]} and {sizes[1]}. Give both the same size and subsample_size."
            )


def _check_subsamples(found: Inspection) -> None:
    """Refuse subsampled plates that do not enclose all sample sites."""
    for frame in frozenset().union(*found.plates_of_sites) - found.data_plates:
        if found.full_size(frame) > frame.size:
            raise ValueError(
                f"Expected the subsampled plate '{frame.name}' to enclose every sample site of "
                "model and guide; it does not. Move all sites into it, do not subsample it, or "
                "use the ELBO, IWELBO(1)."
            )
