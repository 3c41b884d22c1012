"""Judge the draws of any sampler: ArviZ's summary, and distances to the exact distribution."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.stats import kstest

from benchmarks.common.distributions import Univariate
from numpyro_sumo.diagnostics.arviz import arviz_data, summarise

#: By name: a function of the draws, and the CDF of its values under the target.
KnownMarginals = dict[str, tuple[Callable[[dict[str, np.ndarray]], np.ndarray], Callable]]


def kolmogorov_smirnov(draws: np.ndarray, cdf: Callable[[np.ndarray], np.ndarray]) -> float:
    """The largest difference between the empirical distribution function of draws and ``cdf``.

    For n independent draws from the distribution itself it is about 0.87/√n.

    >>> import numpy as np
    >>> from scipy.stats import norm
    >>> from benchmarks.common.judge import kolmogorov_smirnov
    >>> round(kolmogorov_smirnov(np.zeros(10), norm.cdf), 3)
    0.5
    """
    return float(kstest(np.ravel(draws), cdf).statistic)


def quantiles(draws: np.ndarray, probabilities: Sequence[float]) -> dict[str, float]:
    """Empirical quantiles by their probability as text, "0.01" for instance."""
    values = np.quantile(np.ravel(draws), probabilities)
    return {str(p): float(value) for p, value in zip(probabilities, values)}


def judge(
    posterior: dict[str, np.ndarray],
    known_marginals: KnownMarginals,
    probabilities: tuple[float, ...],
    sample_stats: dict[str, np.ndarray] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Summarise draws by ArviZ, and measure their distance to known marginals.

    :param posterior: arrays of shape ``(chain, draw)`` by variable.
    :param known_marginals: what to compute the Kolmogorov–Smirnov distance of.
    :param probabilities: of the quantiles to report, for every variable.
    :param sample_stats: arrays of the same shape; ``diverging`` is counted if present.
    :return: ArviZ data, and the figures as plain values.
    """
    data = arviz_data({"posterior": posterior, "sample_stats": sample_stats or {}})
    figures: dict[str, Any] = {
        "draws": next(iter(posterior.values())).size,
        "summary": summarise(data),
        "quantiles": {name: quantiles(values, probabilities) for name, values in posterior.items()},
        "ks": {
            name: kolmogorov_smirnov(function(posterior), cdf)
            for name, (function, cdf) in known_marginals.items()
        },
    }
    if sample_stats is not None and "diverging" in sample_stats:
        figures["divergences"] = int(np.sum(sample_stats["diverging"]))
    return data, figures


def judge_against(
    draws: dict[str, np.ndarray],
    exact: dict[str, Univariate],
    probabilities: tuple[float, ...],
    tails: tuple[float, ...],
    sample_stats: dict[str, np.ndarray] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """As :func:`judge`, for quantities whose distributions are all known; adds ``errors``.

    These are errors of the ``mean``, of the ``sd`` (both signed) and of the quantiles in the
    ``tails`` (the largest), for each quantity, in standard deviations of its distribution.

    :param draws: arrays of shape ``(chain, draw)`` by quantity.
    :param exact: the distribution of each quantity.
    :param tails: some of the probabilities.
    """
    marginals: KnownMarginals = {
        name: (lambda draws, name=name: draws[name], known.cdf)  # type: ignore[misc]
        for name, known in exact.items()
    }
    data, figures = judge(draws, marginals, probabilities, sample_stats)
    errors: dict[str, dict[str, float]] = {"mean": {}, "sd": {}, "tails": {}}
    for name, known in exact.items():
        summary, found, sd = figures["summary"][name], figures["quantiles"][name], known.std()
        errors["mean"][name] = (summary["mean"] - known.mean()) / sd
        errors["sd"][name] = (summary["sd"] - sd) / sd
        of_tails = [abs(found[str(p)] - known.ppf(p)) for p in tails]
        errors["tails"][name] = float(np.max(of_tails)) / sd
    return data, figures | {"errors": errors}


def worst(figures: dict[str, float], least: bool = False) -> dict[str, Any]:
    """The value farthest from zero, or the least value, and the name it is ``of``.

    NaN is worse than any number.

    >>> from benchmarks.common.judge import worst
    >>> worst({"v": 0.1, "x": -0.4})
    {'value': -0.4, 'of': 'x'}
    """

    def badness(name: str) -> float:
        value = figures[name]
        return np.inf if np.isnan(value) else -value if least else abs(value)

    name = max(figures, key=badness)
    return {"value": figures[name], "of": name}


def break_even_ess(
    seconds: float, ess_per_second: float, other_seconds: float, other_ess_per_second: float
) -> float:
    """The effective sample size n at which two samplers have taken the same total time.

    Solves t + n / r = t' + n / r', with t and t' the seconds before the first draw, and r and r'
    the effective draws per second after it. Zero if the first sampler is ahead from the start;
    infinite if it never catches up.

    >>> from benchmarks.common.judge import break_even_ess
    >>> round(break_even_ess(100.0, 1_000.0, 10.0, 10.0))
    909
    """
    if not ess_per_second > other_ess_per_second:
        return np.inf
    faster = 1.0 / max(other_ess_per_second, 1e-12) - 1.0 / ess_per_second
    return max(0.0, seconds - other_seconds) / faster
