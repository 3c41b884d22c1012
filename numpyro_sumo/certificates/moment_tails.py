"""The k-hats of the weighted terms that means and sds are averages of."""

from typing import NamedTuple

import numpy as np

from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K


class MomentTails(NamedTuple):
    r"""Whether the weights can be trusted to correct a mean or an sd: an entry for each number.

    The mean of z under the weights w averages w (z − m) around itself, m, and the variance averages
    w (z − m)². Their tails may be too heavy to be averaged where that of w is not.

    :param mean: k-hat of the mean: the larger one of w and of \|w (z − m)\|.
    :param sd: k-hat of the sd: the larger one of w and of w (z − m)².

    Both are −∞ where all weights and all values are equal, and ∞ for fewer than 25 draws. Up to 0.7
    the average can be trusted; quantiles can be wherever the weights can.

    **Reference:** Vehtari et al. 2024, *Pareto smoothed importance sampling*, for the k-hat of an
    expectation; ``E_loo`` of the R package loo takes the same maximum.
    """

    mean: np.ndarray
    sd: np.ndarray

    @property
    def worst(self) -> tuple[float, str, int]:
        """The largest k-hat, whether it is that of a "mean" or an "sd", and of which number."""
        moments = [(name, np.nan_to_num(k, nan=np.inf)) for name, k in self._asdict().items()]
        name, k_hats = max(moments, key=lambda each: each[1].max())
        return float(k_hats.max()), name, int(k_hats.argmax())

    @property
    def untrusted(self) -> np.ndarray:
        """Numbers whose mean or sd has a k-hat above 0.7."""
        return ~(np.maximum(self.mean, self.sd) <= LARGEST_PARETO_K)


def moment_tails(deviation: np.ndarray, relative: np.ndarray, pareto_k: np.ndarray) -> MomentTails:
    """The k-hats of the terms of each number.

    :param deviation: of each draw from the corrected mean, shape ``(draws, numbers)``.
    :param relative: weights divided by their mean, of the same shape.
    :param pareto_k: of the weights of each number.
    """
    # Imported here because ArviZ takes seconds to import.
    from numpyro_sumo.diagnostics.pareto_k import upper_tail_k

    terms = np.ascontiguousarray((relative * np.abs(deviation)).T)
    of_mean = np.maximum(pareto_k, upper_tail_k(terms))
    terms *= np.abs(deviation).T
    return MomentTails(of_mean, np.maximum(pareto_k, upper_tail_k(terms)))
