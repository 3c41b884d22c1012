"""The verdict on a guide in words, with a sentence for each thing that is wrong."""

from typing import NamedTuple

import numpy as np

from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

from .certified_draws import CertifiedDraws
from .error_bounds import LARGEST_FINITE_VARIANCE_K

GOOD, CORRECT, DISTRUST = "good", "correct it", "do not trust it"

#: What each verdict means.
MEANING = {
    GOOD: "the guide's draws may be used as they are",
    CORRECT: "use certificate.resampled, or a chain of IndependenceMetropolis",
    DISTRUST: "neither the guide's draws nor those corrected by their weights",
}

#: What weights cannot show, whatever the verdict.
BLIND_SPOT = (
    "Not visible from draws of the guide: a mode that it never draws. Compare the log-evidence of "
    "guides trained from other initial values."
)

#: Largest error of a mean, in posterior sds, and of an sd, as a share of it, of a good guide.
LARGEST_SHIFT = LARGEST_SD_ERROR = 0.1

#: Largest KL of a good guide from the posterior, in nats: for few latent numbers, and for each of
#: many.
LARGEST_KL, LARGEST_KL_EACH = 0.1, 0.002

#: Fewest effective draws from which means and sds can be corrected.
_FEWEST_EFFECTIVE = 100

#: Errors are compared with their limits after adding so many standard errors.
_ERRORS = 3.0

#: Relative weights that differ by less than this are equal.
_EQUAL_WEIGHTS = 1e-4

#: Largest gap between the two bounds on log q, in nats, that is not worth a word.
_LARGEST_GAP = 0.1


class Judgement(NamedTuple):
    """One of three verdicts, and a sentence for each problem."""

    verdict: str
    problems: tuple[str, ...]


def judge(certificate: CertifiedDraws) -> Judgement:
    """What to do with a guide, and why."""
    distrust = [*_weights(certificate)]
    moments = _means, _sds, _heavy_moments
    problems = [] if distrust else [each for found in moments for each in found(certificate)]
    if not (distrust or problems):
        problems = _divergence(certificate)
    verdict = DISTRUST if distrust else CORRECT if problems else GOOD
    others = [*_infinite_variance(certificate), *_reverse_model(certificate)]
    return Judgement(verdict, (*distrust, *problems, *others))


def _weights(certificate: CertifiedDraws) -> list[str]:
    """Why the weights are not to be trusted."""
    where = " of the worst datum" if certificate.per_datum is not None else ""
    if certificate.pareto_k == np.inf:
        return [
            f"{certificate.num_samples} draws are too few for a k-hat, without which the weights "
            "cannot be trusted. Raise num_samples to 1,000 or more."
        ]
    if certificate.pareto_k > LARGEST_PARETO_K:
        return [
            f"The weights{where} have k-hat {certificate.pareto_k:.2f}, above {LARGEST_PARETO_K}: "
            "their tail is so heavy that averages under them need not converge. Train longer, use "
            "a richer guide (AutoMultivariateNormal, AutoHierarchicalNormal), or run "
            "IndependenceMetropolis with alternate=NUTS(model)."
        ]
    if certificate.ess < _FEWEST_EFFECTIVE:
        return [
            f"The draws{where} are worth {certificate.ess:.0f} independent ones, fewer than "
            f"{_FEWEST_EFFECTIVE}. Raise num_samples, or train longer."
        ]
    return []


def _means(certificate: CertifiedDraws) -> list[str]:
    """Which means are off, or not known to be right."""
    marginals = certificate.marginals
    sizes = np.abs(marginals.shift)
    worst, others = _worst(sizes + _ERRORS * marginals.shift_se, LARGEST_SHIFT)
    if worst is None:
        return []
    return [
        f"The mean of {marginals.names[worst]} is off by {sizes[worst]:.2f} ± "
        f"{marginals.shift_se[worst]:.2f} posterior sds{others}, where {LARGEST_SHIFT} is allowed. "
        + (
            "Train longer, or from other initial values."
            if sizes[worst] > LARGEST_SHIFT
            else "Raise num_samples to know it better."
        )
    ]


def _sds(certificate: CertifiedDraws) -> list[str]:
    """Which sds are off, or not known to be right."""
    marginals = certificate.marginals
    sizes = np.abs(marginals.sd_ratio - 1.0)
    worst, others = _worst(sizes + _ERRORS * marginals.sd_ratio_se, LARGEST_SD_ERROR)
    if worst is None:
        return []
    return [
        f"The sd of {marginals.names[worst]} is {marginals.sd_ratio[worst]:.2f} ± "
        f"{marginals.sd_ratio_se[worst]:.2f} times the posterior's{others}. "
        + (
            "Use a guide with correlations (AutoMultivariateNormal), or train longer."
            if sizes[worst] > LARGEST_SD_ERROR
            else "Raise num_samples to know it better."
        )
    ]


def _heavy_moments(certificate: CertifiedDraws) -> list[str]:
    """Means and sds that are unknown, though the weights themselves can be averaged.

    Where all weights are equal the guide is the posterior, whose own tails these are.
    """
    marginals = certificate.marginals
    untrusted = int(marginals.pareto_k.untrusted.sum())
    if untrusted == 0 or np.ptp(certificate.weights.relative) < _EQUAL_WEIGHTS:
        return []
    k_hat, moment, number = marginals.pareto_k.worst
    others = f" (and those of {untrusted - 1} others)" if untrusted > 1 else ""
    return [
        f"The k-hat of the {moment} of {marginals.names[number]} is {k_hat:.2f}{others}, above "
        f"{LARGEST_PARETO_K}: its tails are so heavy that neither the guide's draws nor corrected "
        "ones tell it. Report quantiles of certificate.resampled, which can be trusted, or use a "
        "guide with wider tails."
    ]


def _divergence(certificate: CertifiedDraws) -> list[str]:
    """A divergence that means and sds do not show."""
    value, error = certificate.kl_upper, certificate.kl_upper_se
    limit = max(LARGEST_KL, LARGEST_KL_EACH * len(certificate.marginals.names))
    if value + _ERRORS * error <= limit:
        return []
    if value <= limit:
        shown = f"{error:.2f}" if np.isfinite(error) else "∞"
        return [
            f"The KL is {value:.2f} ± {shown} nats, not known to be below {limit:.2g}. Raise "
            "num_samples to know it better."
        ]
    return [
        f"The KL is {value:.2f} nats, above {limit:.2g}, though means and sds are right: "
        "correlations or a shape are not. Use AutoMultivariateNormal or a richer guide."
    ]


def _infinite_variance(certificate: CertifiedDraws) -> list[str]:
    """Weights that can be averaged, but whose spread does not say how well."""
    if not np.isfinite(certificate.log_evidence_se) and certificate.pareto_k <= LARGEST_PARETO_K:
        return [
            f"The ± of log-evidence is infinite: {certificate.num_samples:,} draws are too few to "
            "tell how heavy the tail of the weights is. Raise num_samples."
        ]
    if not LARGEST_FINITE_VARIANCE_K < certificate.pareto_k <= LARGEST_PARETO_K:
        return []
    return [
        f"k-hat is above {LARGEST_FINITE_VARIANCE_K}: the variance of the weights is infinite, and "
        "log-evidence tends to be too low. The ± of log-evidence and KL allow for this; those of "
        "corrected means and sds do not. Certify with several keys, or use a richer guide."
    ]


def _reverse_model(certificate: CertifiedDraws) -> list[str]:
    """A reverse model that does not know which auxiliary draws a latent came from."""
    gap = certificate.elbo_upper - certificate.elbo_lower
    if gap <= _LARGEST_GAP:
        return []
    return [
        f"The bounds on log q are {gap:.2f} nats apart: the reverse model is poor. Raise "
        "num_particles, or train longer."
    ]


def _worst(sizes: np.ndarray, limit: float) -> tuple[int | None, str]:
    """The place of the largest size beyond a limit, and how many others there are, in words."""
    beyond = int(np.sum(~(sizes <= limit)))
    if beyond == 0:
        return None, ""
    others = f" (and those of {beyond - 1} others)" if beyond > 1 else ""
    return int(np.argmax(np.nan_to_num(sizes, nan=np.inf))), others
