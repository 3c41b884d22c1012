"""One judge for every sampler, learned or MCMC: ArviZ, and distances to the truth."""

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common.distances import kolmogorov_smirnov, quantiles
from benchmarks.common.distributions import Law
from numpyro_sumo.diagnostics.arviz import summarise, to_arviz

#: Named functions of the draws whose distribution under the target is known, with its CDF.
KnownMarginals = dict[str, tuple[Callable[[dict[str, np.ndarray]], np.ndarray], Callable]]


def judge(
    posterior: dict[str, np.ndarray],
    known_marginals: KnownMarginals,
    probabilities: tuple[float, ...],
    sample_stats: dict[str, np.ndarray] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """Puts draws under ArviZ and measures how far they are from the truth.

    :param posterior: arrays of shape ``(chain, draw)`` by variable.
    :param known_marginals: what to compute the Kolmogorov–Smirnov distance of.
    :param probabilities: of the quantiles to report, for every variable.
    :param sample_stats: likewise shaped; divergences are counted if ``diverging`` is among them.
    :return: ArviZ data, and a dictionary of plain numbers.
    """
    data = to_arviz(posterior, sample_stats)
    draws = next(iter(posterior.values())).size
    verdict: dict[str, Any] = {
        "draws": draws,
        "summary": summarise(data),
        "quantiles": {name: quantiles(values, probabilities) for name, values in posterior.items()},
        "ks": {
            name: kolmogorov_smirnov(function(posterior), cdf)
            for name, (function, cdf) in known_marginals.items()
        },
    }
    if sample_stats is not None and "diverging" in sample_stats:
        verdict["divergences"] = int(np.sum(sample_stats["diverging"]))
    return data, verdict


def judge_against(
    draws: dict[str, np.ndarray],
    laws: dict[str, Law],
    probabilities: tuple[float, ...],
    tails: tuple[float, ...],
    sample_stats: dict[str, np.ndarray] | None = None,
) -> tuple[Any, dict[str, Any]]:
    """As :func:`judge`, of quantities whose laws are all known; adds their ``errors``.

    These are, by quantity and in standard deviations of its law: of the ``mean`` and of the ``sd``,
    signed, and of the quantiles in the ``tails`` the one that is farthest off.

    :param draws: arrays of shape ``(chain, draw)`` by quantity.
    :param tails: some of the probabilities.
    """
    known = {name: (_quantity(name), law.cdf) for name, law in laws.items()}
    data, verdict = judge(draws, known, probabilities, sample_stats)
    verdict["errors"] = {"mean": {}, "sd": {}, "tails": {}}
    for name, law in laws.items():
        line, of_quantity, sd = verdict["summary"][name], verdict["quantiles"][name], law.std()
        off = [abs(of_quantity[str(p)] - law.ppf(p)) for p in tails]
        verdict["errors"]["mean"][name] = (line["mean"] - law.mean()) / sd
        verdict["errors"]["sd"][name] = (line["sd"] - sd) / sd
        verdict["errors"]["tails"][name] = float(np.max(off)) / sd
    return data, verdict


def _quantity(name: str) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    return lambda draws: draws[name]


def worst(figures: dict[str, float], least: bool = False) -> dict[str, Any]:
    """The figure that is farthest from zero, or the least one, and what it is ``of``.

    One that is not a number is the worst there can be.

    >>> from benchmarks.common.judge import worst
    >>> worst({"v": 0.1, "x": -0.4})
    {'value': -0.4, 'of': 'x'}
    """

    def badness(name: str) -> float:
        value = figures[name]
        return np.inf if np.isnan(value) else -value if least else abs(value)

    name = max(figures, key=badness)
    return {"value": figures[name], "of": name}


def draws_to_pay(
    seconds: float, ess_per_second: float, other_seconds: float, other_ess_per_second: float
) -> float:
    """The effective draws n from which a sampler that takes long to prepare is the quicker one.

    There t + n / r = t' + n / r', with t and t' the seconds before the first draw, r and r' the
    effective draws a second after it. Zero if it is ahead from the first; infinite if it is never.

    >>> from benchmarks.common.judge import draws_to_pay
    >>> round(draws_to_pay(100.0, 1_000.0, 10.0, 10.0))
    909
    """
    if not ess_per_second > other_ess_per_second:
        return np.inf
    faster = 1.0 / max(other_ess_per_second, 1e-12) - 1.0 / ess_per_second
    return max(0.0, seconds - other_seconds) / faster
