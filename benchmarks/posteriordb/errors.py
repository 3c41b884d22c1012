"""Errors of a sampler's draws against the reference draws of posteriordb."""

from typing import Any

import numpy as np

from benchmarks.common.distributions import Empirical, Univariate
from benchmarks.common.judge import judge_against, worst
from benchmarks.posteriordb.database import Draws, by_stan_names

#: Draws are right if no error of a mean, of an sd and no Kolmogorov–Smirnov distance exceeds these.
LIMITS = {"mean": 0.1, "sd": 0.05, "ks": 0.05}

_TAILS = (0.025, 0.975)


def errors_of(draws: dict[str, np.ndarray], reference: Draws) -> dict[str, Any]:
    """The worst errors over all parameters, each with the parameter it is ``of``.

    :param draws: by site, of shape ``(chain, draw, ...)``.
    :param reference: by Stan's names.
    :return: ``mean`` and ``tails`` (quantiles at 0.025 and 0.975) in sds of the reference, ``sd``
        as a share of it, ``ks``; also ``r_hat`` and ``ess``, which matter for chains only.
    """
    named = by_stan_names(draws, list(reference))
    exact: dict[str, Univariate] = {name: Empirical(values) for name, values in reference.items()}
    _, figures = judge_against(named, exact, _TAILS, _TAILS)
    errors = figures["errors"] | {"ks": figures["ks"]}
    summary = figures["summary"]
    return {
        **{kind: worst(errors[kind]) for kind in ("mean", "sd", "ks", "tails")},
        "r_hat": worst({name: row["r_hat"] for name, row in summary.items()})["value"],
        "ess": min(row["ess_bulk"] for row in summary.values()),
    }


def largest_share(row: dict[str, Any]) -> float:
    """The largest error as a share of its limit; at most 1 if the draws are right.

    Errors that are not finite, None in JSON, are infinite.
    """
    values = [row[kind]["value"] for kind in LIMITS]
    if any(value is None or not np.isfinite(value) for value in values):
        return np.inf
    return max(abs(value) / limit for value, limit in zip(values, LIMITS.values()))


def is_right(row: dict[str, Any]) -> bool:
    """Whether all errors are within their limits."""
    return largest_share(row) <= 1.0
