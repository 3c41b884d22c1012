"""Figures of one problem as text: shared by the tables and sentences of the posterior report."""

import math
from typing import Any

from benchmarks.common.tables import count, number
from benchmarks.posterior.reference import R_HAT_LIMIT
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

#: Limits on the largest error of a mean, in sds of the reference, and on the largest
#: Kolmogorov–Smirnov distance.
MEAN_LIMIT, KS_LIMIT = 0.1, 0.1

#: The results of one problem, or of one sampler, as in the JSON.
Outcome = dict[str, Any]


def has_converged(sampler: Outcome | None) -> bool:
    """Whether R-hat, the errors of all means, and all KS distances are within their limits."""
    if sampler is None:
        return False
    limits = {"r_hat": R_HAT_LIMIT, "mean_error": MEAN_LIMIT, "ks": KS_LIMIT}
    values = {name: sampler[name]["value"] for name in limits}
    return all(value is not None and abs(value) <= limits[name] for name, value in values.items())


def has_small_k_hat(certificate: Outcome | None) -> bool:
    """Whether importance weights can be trusted; JSON has null for an infinite k-hat."""
    k_hat = None if certificate is None else certificate["pareto_k"]
    return k_hat is not None and k_hat <= LARGEST_PARETO_K


def marked_title(outcome: Outcome) -> str:
    """The title, with a dagger where Metropolis alternates with NUTS."""
    return outcome["config"]["title"] + (" †" if "alternated" in outcome["config"] else "")


def kl_bounds(outcome: Outcome) -> list[float | None]:
    """Lower and upper bound on the KL divergence, and the standard error of the upper one.

    By the exact log-evidence where it is known, else by the certificate's; None is infinity.
    """
    certificate, exact = outcome["certificate"], outcome["config"]["log_evidence"]
    if exact is None:
        return [certificate[f"kl_{end}"] for end in ("lower", "upper", "upper_se")]
    elbos = certificate["elbo_upper"], certificate["elbo_lower"]
    ends = [None if elbo is None else exact - elbo for elbo in elbos]
    return [*ends, certificate["elbo_lower_se"]]


def larger_sign(outcome: Outcome) -> str:
    """A > for a KL divergence from an estimated log-evidence that may be too low."""
    certificate, exact = outcome["certificate"], outcome["config"]["log_evidence"]
    unsure = exact is None and not has_small_k_hat(certificate)
    return "> " if unsure and certificate["kl_upper"] is not None else ""


def times_nuts(outcome: Outcome) -> float | None:
    """Effective draws per second of Metropolis divided by those of NUTS; None without either."""
    samplers = outcome["samplers"]
    if "metropolis" not in samplers:
        return None
    return samplers["metropolis"]["ess_per_second"] / samplers["nuts"]["ess_per_second"]


def break_even(outcome: Outcome) -> str:
    """The ESS from which training has paid for itself; None or infinite if never."""
    if "metropolis" not in outcome["samplers"]:
        return "–"
    ess = outcome["break_even_ess"]
    return "never" if ess is None or not math.isfinite(ess) else count(ess)


def rate(value: float | None) -> str:
    """A positive number of any size, with three digits or all before the point."""
    if value is None or value >= 100:
        return count(value)
    return number(value, 1 if value >= 10 else 2)


def worst_of(figure: Outcome, digits: int = 3) -> str:
    """The worst figure, and the quantity that it belongs to."""
    return f"{number(figure['value'], digits)} ({figure['of']})"
