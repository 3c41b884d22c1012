"""Convergence of chains by ArviZ, and whether two sets of chains agree."""

from typing import Any, NamedTuple
import warnings

import numpy as np

#: Two means, or sds, differ by more than rounding of the answer if by so many posterior sds ...
_RELEVANT = 0.1

#: ... and by more than chance if by so many standard errors of the difference.
_SIGNIFICANT = 4.0

#: The largest share of draws after a divergence that is not worth a word.
_FEW_DIVERGENCES = 0.001

#: Chains with such an R-hat, whose draws are so many sds of the placement wide, wander.
_NOT_MIXED, _FAR = 1.1, 100.0

#: A number whose sd is a smaller share of its mean is constant but for rounding.
_CONSTANT = 1e-6


class Summary(NamedTuple):
    """Figures of each latent number over all chains, in the order of ``names``.

    :param names: such as ``theta[3]``.
    :param mean: posterior means; ``mean_se`` are their Monte Carlo standard errors.
    :param sd: posterior sds, and their errors ``sd_se``.
    :param r_hat: split R-hat with rank normalisation.
    :param ess: the effective number of draws, the smaller one of bulk and tail.
    :param diverging: share of draws whose trajectory diverged.
    """

    names: list[str]
    mean: np.ndarray
    mean_se: np.ndarray
    sd: np.ndarray
    sd_se: np.ndarray
    r_hat: np.ndarray
    ess: np.ndarray
    diverging: float = 0.0

    @property
    def worst(self) -> tuple[str, float, str, float]:
        """The largest R-hat and the smallest ESS, each with its latent number before it."""
        r_hat, ess = np.nan_to_num(self.r_hat, nan=np.inf), np.nan_to_num(self.ess)
        i, k = int(np.argmax(r_hat)), int(np.argmin(ess))
        return self.names[i], float(r_hat[i]), self.names[k], float(ess[k])

    def in_order(self, names: list[str]) -> "Summary":
        """The same with latent numbers in this order."""
        at = [self.names.index(name) for name in names]
        columns: dict[str, Any] = {
            name: values[at]
            for name, values in self._asdict().items()
            if isinstance(values, np.ndarray)
        }
        return self._replace(names=names, **columns)

    def is_fine(self, max_r_hat: float, min_ess: float) -> bool:
        """Whether all chains have converged, and have enough effective draws."""
        _, r_hat, _, ess = self.worst
        return r_hat <= max_r_hat and ess >= min_ess

    @property
    def diverges(self) -> bool:
        """Whether more than one in a thousand draws followed a divergence."""
        return self.diverging > _FEW_DIVERGENCES


def summarise_chains(draws: dict[str, np.ndarray], diverging: np.ndarray | None = None) -> Summary:
    """Figures of latent sites, each of shape ``(chain, draw, ...)``."""
    # Imported here because ArviZ takes seconds to import.
    from numpyro_sumo.diagnostics.arviz import arviz_data, summarise

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of numbers that are constant in a chain
        rows = summarise(arviz_data({"posterior": draws}))
    # Entries that the support fixes, as on the diagonal of a correlation matrix, have no R-hat.
    varying = {n: row for n, row in rows.items() if not row["sd"] <= _CONSTANT * abs(row["mean"])}
    rows = varying or rows
    column = lambda key: np.array([row[key] for row in rows.values()], np.float64)
    return Summary(
        names=list(rows),
        mean=column("mean"),
        mean_se=column("mcse_mean"),
        sd=column("sd"),
        sd_se=column("mcse_sd"),
        r_hat=column("r_hat"),
        ess=np.minimum(column("ess_bulk"), column("ess_tail")),
        diverging=0.0 if diverging is None else float(np.mean(diverging)),
    )


def wanders(summary: Summary, spread: float) -> bool:
    """Whether chains go ever farther, as they do where the density has no finite integral.

    :param spread: the largest sd of a coordinate, in sds of the placement.
    """
    return summary.worst[1] > _NOT_MIXED and not spread <= _FAR


def disagreements(one: Summary, other: Summary) -> list[str]:
    """Latent numbers whose mean or sd differ by more than 0.1 sds and by more than chance."""
    names = [name for name in one.names if name in other.names]
    one, other = one.in_order(names), other.in_order(names)
    sd = np.maximum(one.sd, other.sd)
    shift, shift_se = np.abs(one.mean - other.mean), np.hypot(one.mean_se, other.mean_se)
    spread, spread_se = np.abs(one.sd - other.sd), np.hypot(one.sd_se, other.sd_se)
    is_off = lambda size, error: (size > _RELEVANT * sd) & (size > _SIGNIFICANT * error)
    off = is_off(shift, shift_se) | is_off(spread, spread_se)
    return [name for name, wrong in zip(one.names, off) if wrong]
