"""Guides that are spoilt on purpose: a Normal around the exact posterior with one thing wrong."""

from collections.abc import Callable

import numpy as np

import numpyro
import numpyro.distributions as dist
from numpyro.infer.autoguide import AutoMultivariateNormal
from numpyro.infer.initialization import init_to_value

from benchmarks.guides.guides import Fit, with_covariance
from benchmarks.guides.problems import Problem
from benchmarks.guides.simple import HALF_DISTANCE

#: Shift of the spoilt mean, in posterior sds.
SHIFT = 0.3


def _scaled_first(root: np.ndarray) -> np.ndarray:
    return np.column_stack([0.5 * root[:, 0], root[:, 1:]])


#: Titles, and functions from the mean and the Cholesky root of the covariance to spoilt ones. The
#: first column of the root moves the first latent, and the others as their regression on it, so
#: that all else stays as likely as it can.
CHANGES: dict[str, tuple[str, Callable]] = {
    "none": ("nothing spoilt", lambda loc, root: (loc, root)),
    "shift": ("mean shifted by 0.3 sd", lambda loc, root: (loc + SHIFT * root[:, 0], root)),
    "narrow": ("one sd halved", lambda loc, root: (loc, _scaled_first(root))),
    "narrow_all": ("all sds halved", lambda loc, root: (loc, 0.5 * root)),
    "independent": (
        "correlation dropped",
        lambda loc, root: (loc, np.diag(np.sqrt((root**2).sum(axis=1)))),
    ),
}

TITLES = {name: title for name, (title, _) in CHANGES.items()} | {
    "light_tail": "Normal for a heavy tail",
    "lost_mode": "lost mode",
}


def changes_of(name: str, problem: Problem) -> list[str]:
    """What can be spoilt in a guide of the problem."""
    size = len(problem.reference.loc)
    found = [change for change in CHANGES if size > 1 or change not in ("narrow", "independent")]
    special = {"student_t": ["light_tail"], "two_modes": ["lost_mode"]}
    return found + special.get(name, [])


def spoil(problem: Problem, change: str) -> Fit:
    """A guide of the problem with this change."""
    if change == "light_tail":
        return Fit(_unit_normals, {})
    if change == "lost_mode":
        return Fit(_right_mode, {})
    loc, covariance, _ = problem.reference
    params = with_covariance(*CHANGES[change][1](loc, np.linalg.cholesky(covariance)))
    near = init_to_value(values=problem.exact.mean)
    return Fit(AutoMultivariateNormal(problem.model, init_loc_fn=near), params)


def _unit_normals() -> None:
    """Normals of the density of Student's t at zero: its bulk without its tails."""
    numpyro.sample("z", dist.Normal(0.0, 1.06).expand([2]).to_event(1))


def _right_mode() -> None:
    """One of two modes, exactly."""
    numpyro.sample("z", dist.Normal(HALF_DISTANCE, 1.0))
