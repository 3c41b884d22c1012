"""The verdict on the draws of a posterior, in words."""

from typing import NamedTuple

import numpy as np
from scipy.special import expit

from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K
from numpyro_sumo.guides.placement import Mode, sds_apart

from .convergence import Summary, disagreements, wanders
from .correcting import BOTH, GUIDE, is_apart
from .nuts import NUTS_ALONE as NUTS
from .posterior_draws import PosteriorDraws

#: A mode that may hold a smaller share of the posterior mass than this is not missed.
_SMALL_SHARE = 0.01

#: A mode is missed if its share of the draws is smaller than this factor times that of its mass.
_MISSED = 0.1

#: A Normal describes its mode if log-evidence from its weights is at most so far above its ELBO.
_DESCRIBED = 2.0

#: Draws of a Normal in d dimensions are within √d + 3 sds of its mean, nearly all.
_REACH = 3.0


#: A guide of which so many proposals are accepted reaches narrow parts that NUTS does not.
_OFTEN_ACCEPTED = 0.1


class Verdict(NamedTuple):
    """Problems of the draws, with what to do about each, and remarks."""

    problems: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def text(self) -> str:
        """ "good", or "bad:" with a line for each problem; then the remarks."""
        first = "good" if not self.problems else "bad:"
        return "\n".join([first, *(f"- {line}" for line in (*self.problems, *self.remarks))])


def judge_posterior(posterior: PosteriorDraws) -> Verdict:
    """Whether the draws of a posterior can be used, and why not."""
    problems = [
        *_not_converged(posterior),
        *_heavy_tails(posterior),
        *_wandering(posterior),
        *_missed_modes(posterior),
        *_contradicted(posterior),
        *_interrupted(posterior),
    ]
    return Verdict(tuple(problems), tuple(_remarks(posterior)))


def _not_converged(posterior: PosteriorDraws) -> list[str]:
    options, summary = posterior.options, posterior.diagnostics.summary
    where_r_hat, r_hat, where_ess, ess = summary.worst
    lines = []
    if not r_hat <= options.max_r_hat:
        lines.append(
            f"R-hat of {where_r_hat} is {r_hat:.3f}, above {options.max_r_hat}: the chains have "
            "not converged. Go on by fit(..., resume=posterior), with more minutes."
        )
    if not ess >= options.min_ess:
        lines.append(
            f"{where_ess} has {ess:,.0f} effective draws, fewer than {options.min_ess:,g}. Go on "
            "by fit(..., resume=posterior), with more minutes."
        )
    of_nuts = posterior.diagnostics.kernel == NUTS
    of_both = posterior.diagnostics.kernel == BOTH
    seldom_moved = of_both and posterior.diagnostics.acceptance < _OFTEN_ACCEPTED
    if summary.diverges and (of_nuts or seldom_moved):
        lines.append(
            f"{summary.diverging:.1%} of the draws followed a divergence of NUTS: narrow parts of "
            "the posterior may be missing. Reparameterise the model, or train the guide for longer."
        )
    return lines


def _heavy_tails(posterior: PosteriorDraws) -> list[str]:
    """A chain of the guide's proposals whose largest weights may be still to come."""
    pareto_k = posterior.certificate.pareto_k
    if posterior.diagnostics.kernel != GUIDE or pareto_k <= LARGEST_PARETO_K:
        return []
    return [
        f"k-hat of the guide's weights is {pareto_k:.2f}, above {LARGEST_PARETO_K}: a chain of its "
        "proposals may miss a part of the posterior, and there was no time for others. Go on by "
        "fit(..., resume=posterior), with more minutes."
    ]


def _wandering(posterior: PosteriorDraws) -> list[str]:
    """Chains that go ever farther, as they do where the density has no finite integral."""
    nuts, spread = posterior.diagnostics.nuts, posterior.diagnostics.spread
    if nuts is None or not wanders(nuts, spread):
        return []
    return [
        f"The chains of NUTS wander over {spread:.1g} times the width of the placement: the "
        "posterior may be improper, without a finite integral. Give flat priors a scale, or check "
        "that the data determine every latent number."
    ]


def _missed_modes(posterior: PosteriorDraws) -> list[str]:
    """Modes found by the placement that hold some of the mass and hardly a draw."""
    modes = {
        number: mode
        for number, mode in enumerate(posterior.placement.modes, 1)
        if mode.log_evidence - mode.elbo <= _DESCRIBED
    }
    draws = posterior.unconstrained(2_000)
    lines = []
    for number, mode in modes.items():
        # Log-evidence from the draws does not have the mass of a mode that they miss.
        share = float(expit(mode.log_evidence - posterior.log_evidence))
        if share < _SMALL_SHARE:
            continue
        seen = float(np.mean(_near(mode, draws)))
        if seen < _MISSED * share:
            lines.append(
                f"Mode {number} of the placement, with log-evidence {mode.log_evidence:.2f} nats, "
                f"holds about {share:.0%} of the mass and {seen:.1%} of the draws. Fit again with "
                "another key or more num_starts; print(posterior.placement) lists the modes."
            )
    return lines


def _near(mode: Mode, draws: np.ndarray) -> np.ndarray:
    return sds_apart(mode.normal, draws) <= np.sqrt(draws.shape[1]) + _REACH


def _contradicted(posterior: PosteriorDraws) -> list[str]:
    """Latent numbers for which chains of NUTS, converged, say something else."""
    diagnostics, options = posterior.diagnostics, posterior.options
    nuts = diagnostics.nuts
    if diagnostics.kernel == GUIDE and nuts is not None and is_apart(nuts):
        where, r_hat, *_ = nuts.worst
        return [
            f"Chains of NUTS that began at different places have not come together (R-hat of "
            f"{where} {r_hat:.2f}): some may be in a part of the posterior that the guide misses. "
            "Go on by fit(..., resume=posterior), with more minutes."
        ]
    if nuts is None or diagnostics.kernel == NUTS or not _has_converged(nuts, options.max_r_hat):
        return []
    names = disagreements(diagnostics.summary, nuts)
    if not names:
        return []
    others = f" and {len(names) - 1} others" if len(names) > 1 else ""
    return [
        f"Chains of NUTS give another mean or sd of {names[0]}{others} than those of the guide, "
        "though both have converged: one of them misses a part of the posterior. Fit again with "
        "more num_starts, or compare longer runs of both."
    ]


def _has_converged(summary: Summary, max_r_hat: float) -> bool:
    # The comparison allows for the number of draws.
    return summary.is_fine(max_r_hat, 100.0) and not summary.diverges


def _interrupted(posterior: PosteriorDraws) -> list[str]:
    phases = posterior.diagnostics.interrupted
    if not phases:
        return []
    return [f"Interrupted during {' and '.join(phases)}. Go on by fit(..., resume=posterior)."]


def _remarks(posterior: PosteriorDraws) -> list[str]:
    """What is worth knowing, though the draws can be used."""
    diagnostics, options, certificate = (
        posterior.diagnostics,
        posterior.options,
        posterior.certificate,
    )
    lines = []
    nuts = diagnostics.nuts
    wanted = options.max_r_hat, options.min_ess
    if nuts is not None and nuts.is_fine(*wanted) and not nuts.diverges:
        phases = "placement", "compilation of NUTS", "NUTS"
        seconds = sum(diagnostics.seconds.get(phase, 0.0) for phase in phases)
        lines.append(
            "NUTS by itself was fine here, in the coordinates of the placement: R-hat "
            f"{nuts.worst[1]:.3f}, at least {nuts.worst[3]:,.0f} effective draws, after "
            f"{seconds:.0f} s with compilation."
        )
    if certificate.verdict == "good":
        lines.append("The guide's own draws may be used as well: posterior.certificate.draws.")
    else:
        lines.append(
            f"The guide's own draws: {certificate.verdict}. print(posterior.certificate) says why."
        )
    if sum(mode.num_starts for mode in posterior.placement.modes) == 1:
        lines.append("There was one start only: other modes were not sought.")
    if diagnostics.invalid:
        lines.append(
            f"{diagnostics.invalid} of {options.num_samples:,} draws of the guide have a "
            "log-density that is NaN or infinite; they count as impossible."
        )
    if not np.isfinite(certificate.log_evidence_se):
        lines.append(
            f"Log-evidence is not known: the weights have k-hat {certificate.pareto_k:.2f}."
        )
    return lines
