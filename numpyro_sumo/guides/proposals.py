"""The proposal of any guide: with its known density, or with auxiliary sites to integrate out."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

import numpy as np

import jax

from numpyro.distributions import MultivariateNormal
from numpyro.infer.autoguide import (
    AutoDAIS,
    AutoDelta,
    AutoGuide,
    AutoLaplaceApproximation,
    AutoSemiDAIS,
)

from numpyro_sumo._compat import set_up_guide, with_posterior
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params

from .extended_draws import ExtendedDraws
from .hierarchical import HierarchicalGuide
from .known_density import KnownDensity
from .proposal import Proposal


def proposal_of(programs: Programs, num_particles: int, defensive_share: float) -> Proposal:
    """The proposal of a guide: exact where its density is known.

    :param programs: the target and the guide; params are those of the trained guide.
    :param num_particles: for a :class:`~numpyro_sumo.HierarchicalGuide`, draws of its auxiliary
        sites for each draw; likewise ``defensive_share``. See :class:`~.ExtendedDraws`.
    :raises ValueError: for a guide without a density.
    """
    extended = ExtendedDraws(programs, num_particles, defensive_share)
    if isinstance(programs.guide, HierarchicalGuide):
        return extended
    return KnownDensity(programs.replace(guide=density_program(programs)))


def check_guide(guide: object) -> None:
    """Refuses what is no program."""
    if not callable(guide):
        raise ValueError(
            f"Expected the guide to be a NumPyro program; got {guide!r}. Pass the guide that SVI "
            "trained."
        )


def density_program(programs: Programs) -> Callable[..., Any]:
    """The program whose density is the guide's: for a Laplace approximation, its Normal.

    :raises ValueError: for a guide without a density.
    """
    guide, params, args, kwargs = programs.guide, *programs.inputs
    check_guide(guide)
    if isinstance(guide, AutoDelta):
        raise ValueError(
            "Expected a guide with a density; AutoDelta is a point, which has none. Use "
            "AutoNormal, or AutoLaplaceApproximation for a mode."
        )
    if isinstance(guide, AutoDAIS | AutoSemiDAIS):
        raise ValueError(
            f"Expected a guide whose density is that of its latent sites; {type(guide).__name__} "
            "knows only that of a whole annealing trajectory. Use AutoNormal or "
            "AutoHierarchicalNormal, for instance."
        )
    if isinstance(guide, AutoGuide):
        set_up_guide(guide, args, kwargs)
    if isinstance(guide, AutoLaplaceApproximation):
        return _laplace(guide, params)
    return guide


def _laplace(guide: AutoLaplaceApproximation, params: Params) -> Callable[..., Any]:
    """The guide with its Normal around the mode, in place of the point that it is in training."""
    location = f"{guide.prefix}_loc"
    if location not in params:
        return guide  # refused with the other params that are missing
    location_and_scale = lambda params: attrgetter("loc", "scale_tril")(guide.get_posterior(params))
    loc, scale_tril = jax.jit(location_and_scale)(params)
    # NumPyro replaces the factor of a Hessian that is not positive definite by zeros.
    if not np.all(np.isfinite(scale_tril)) or np.any(np.diagonal(scale_tril) == 0.0):
        raise ValueError(
            "Expected AutoLaplaceApproximation at a mode, with a positive definite Hessian; at its "
            f"'{location}' it is not. Train it longer, or use AutoNormal."
        )
    return with_posterior(guide, MultivariateNormal(loc, scale_tril=scale_tril))
