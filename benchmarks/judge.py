"""One judge for every sampler, learned or MCMC: ArviZ, and distances to the truth."""

from collections.abc import Callable
from typing import Any

import numpy as np

from numpyro_sumo.reports import kolmogorov_smirnov, quantiles, summarise, to_arviz

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
