"""Where a posterior is: modes found from many starts, and the Normal that a guide starts as."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

import jax

from numpyro.infer.initialization import init_to_uniform

from numpyro_sumo.background import CompiledSoon
from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.programs.check_latents import check_continuous_latents
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Program

from .normal_fit import LARGEST_FULL, Candidates, NormalFit, normal_fit
from .whitening import Whitening

#: Two Normals stand for one mode if their means are at most so many sds apart, in every direction.
_LARGEST_DISTANCE = 1.0


class Mode(NamedTuple):
    """A mode in unconstrained space, with a Normal around it.

    :param normal: its mean, and a triangular root of its covariance.
    :param elbo: of that Normal, in nats.
    :param log_evidence: the part of log Z near the mode in nats, from weighted draws of the Normal.
    :param num_starts: starts that led there; the mean-field fit counts as one.
    :param converged: whether the search came to its end from one of them.
    """

    normal: Whitening
    elbo: float
    log_evidence: float
    num_starts: int
    converged: bool


@dataclass(frozen=True)
class Placement:
    """The Normal z = c + L y that a guide starts as, and the modes that were found for it.

    Print it for a table of the modes. Modes apart whose log-evidence differs by less than about 5
    nats share the posterior mass; a guide that starts at one of them may miss the others.

    :param whitening: c and L, in unconstrained space, sites in the order of their names.
    :param elbo: of the Normal with that mean and root, in nats.
    :param log_evidence: log Z in nats from weighted draws of that Normal. The difference estimates
        the Normal's KL from the posterior, or less where it is poor.
    :param modes: the largest ELBO first.
    """

    whitening: Whitening
    elbo: float
    log_evidence: float
    modes: tuple[Mode, ...]

    @property
    def dim(self) -> int:
        """The number of unconstrained coordinates."""
        return int(self.whitening.loc.size)

    def __str__(self) -> str:
        lines = [
            f"Placement of {self.dim} unconstrained coordinates by a Normal of ELBO "
            f"{self.elbo:.3f} nats",
            "mode  starts  ELBO, nats  log-evidence around it, nats",
        ]
        lines += [
            f"{number:4}  {mode.num_starts:6}  {mode.elbo:10.3f}  {mode.log_evidence:10.3f}"
            + ("" if mode.converged else "  (the search did not end)")
            for number, mode in enumerate(self.modes, 1)
        ]
        return "\n".join(lines)


def place(
    rng_key: jax.Array,
    model: Program,
    *args: Any,
    num_starts: int = 8,
    init_loc_fn: Callable[..., Any] = init_to_uniform,
    full_covariance: bool | None = None,
    **kwargs: Any,
) -> Placement:
    r"""Finds the modes of a posterior, and a Normal for a guide to start as.

    .. math::
        z = c + L y, \qquad y \approx N(0, I)

    From each start Newton's method climbs to a mode, where minus the inverse Hessian is the
    covariance of a Normal (Laplace). A mean-field fit is one more candidate. c and L are those of
    the candidate of the largest ELBO, improved by Newton steps in expectation. Pass the result as
    ``AutoHierarchicalNormal(model, placement=...)``.

    :param model: a NumPyro model with continuous latent sites, its arguments ``args`` and
        ``kwargs``.
    :param num_starts: initial values that modes are sought from, an integer ≥ 1; see
        ``init_loc_fn``.
    :param init_loc_fn: see NumPyro's initialisation strategies; with any but the default there is
        one start.
    :param full_covariance: as in :class:`~numpyro_sumo.AutoHierarchicalNormal`.
    :raises ValueError: for a model that the guide refuses, and if the log-density is finite near
        none of the starts.

    **References:** Dauphin et al. 2014, *Identifying and attacking the saddle point problem*,
    section 4; Lin, Schmidt and Khan 2020, *Handling the positive-definite constraint in the
    Bayesian learning rule*.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import place
    >>> def model():
    ...     numpyro.sample("x", dist.Normal(1_000.0, 0.01))
    >>> placement = place(jax.random.key(0), model)
    >>> round(float(placement.whitening.loc[0]))
    1000
    >>> len(placement.modes)
    1
    """
    options = {"init_loc_fn": init_loc_fn, "full_covariance": full_covariance}
    programs = Programs(model, model, {}, args, kwargs)
    return begin_placement(rng_key, programs, num_starts, **options)()


def begin_placement(
    rng_key: jax.Array, programs: Programs, num_starts: int, **options: Any
) -> Callable[[], Placement]:
    """Traces the work of :func:`place`, which is then compiled in the background.

    :param programs: the model with its arguments.
    :param options: as those of :func:`place`.
    :return: a function that waits for the compiler and does the work.
    """
    check_positive_integer("num_starts", num_starts)
    model, args, kwargs = programs.model, programs.args, programs.kwargs
    check_continuous_latents(model, args, kwargs)
    fit, fit_key = normal_fit(rng_key, programs, num_starts=num_starts, **options)
    compiled = CompiledSoon(fit, fit_key)
    return lambda: _placement(compiled(fit_key), options["full_covariance"])


def _placement(fit: NormalFit, full_covariance: bool | None) -> Placement:
    """The placement from a fit, unless that has failed."""
    if full_covariance and fit.whitening.loc.size > LARGEST_FULL:
        raise ValueError(
            f"Expected full_covariance for at most {LARGEST_FULL:,} unconstrained coordinates; the "
            f"model has {fit.whitening.loc.size:,}. Leave it out."
        )
    candidates = jax.tree.map(np.asarray, fit.candidates)
    if not np.isfinite(candidates.elbo).any():
        raise ValueError(
            "Expected a model whose log-density is finite in some neighbourhood; it is NaN or "
            f"infinite at draws around all {len(candidates.elbo)} starts. Check the data for NaN, "
            "and give latent sites distributions whose support is where the density is finite."
        )
    figures = float(fit.elbo), float(fit.log_evidence)
    return Placement(fit.whitening, *figures, tuple(_modes(candidates)))


def check_placement(placement: object) -> None:
    """Refuses what is no placement."""
    if not isinstance(placement, Placement):
        raise ValueError(
            f"Expected a placement; got {placement!r}. Pass place(rng_key, model, ...)."
        )


def _modes(candidates: Candidates) -> list[Mode]:
    """The modes among candidates whose ELBO is finite, the largest first.

    The mean-field fit, which is the first candidate, is one only if its ELBO is the largest.
    """
    order = [int(i) for i in np.argsort(-candidates.elbo) if np.isfinite(candidates.elbo[i])]
    order = [i for place, i in enumerate(order) if i > 0 or place == 0]
    modes: list[Mode] = []
    for i in order:
        normal = Whitening(candidates.normals.loc[i], candidates.normals.root[i])
        figures = float(candidates.elbo[i]), float(candidates.log_evidence[i])
        found = Mode(normal, *figures, 1, bool(candidates.converged[i]))
        same = next((k for k, mode in enumerate(modes) if _is_same(mode, found)), None)
        if same is None:
            modes.append(found)
        else:
            known = modes[same]
            modes[same] = known._replace(
                num_starts=known.num_starts + 1, converged=known.converged or found.converged
            )
    return modes


def _is_same(one: Mode, other: Mode) -> bool:
    return sds_apart(one.normal, np.asarray(other.normal.loc)[None])[0] <= _LARGEST_DISTANCE


def sds_apart(normal: Whitening, points: np.ndarray) -> np.ndarray:
    """The Mahalanobis distance of each point, shape ``(points, d)``, from a Normal's mean."""
    offset = (np.asarray(points, np.float64) - np.asarray(normal.loc)).T
    root = np.asarray(normal.root, np.float64)
    whitened = (
        offset / root[:, None] if root.ndim == 1 else solve_triangular(root, offset, lower=True)
    )
    return np.sqrt(np.square(whitened).sum(axis=0))
