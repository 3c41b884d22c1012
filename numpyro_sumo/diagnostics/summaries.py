"""Means with standard errors, and checks of the log-weights they are computed from."""

from typing import Any

import numpy as np

#: Largest k-hat at which averages under the weights can be trusted.
LARGEST_PARETO_K = 0.7


def mean_and_error(values: Any) -> tuple[Any, Any]:
    """Mean and standard error over the leading axis; ∞ where the mean is infinite.

    :param values: an array of NumPy or JAX; the results are of the same library.
    """
    with np.errstate(invalid="ignore"):  # −∞ − (−∞) in the deviations
        mean, deviation = values.mean(axis=0), values.std(axis=0, ddof=1)
    library = values.__array_namespace__()
    error = library.where(library.isfinite(mean), deviation / len(values) ** 0.5, np.inf)
    return mean, error


def check_log_weights(log_weights: np.ndarray, what: str = "draw") -> None:
    """Refuses log-weights that are NaN or +∞; −∞ is the weight zero.

    :param what: what each of them belongs to, for the message.
    :raises ValueError: with their number, and what to look for.
    """
    unknown = int((np.isnan(log_weights) | (log_weights == np.inf)).sum())
    if unknown:
        raise ValueError(
            f"Expected every {what} to have a weight; {unknown} of {log_weights.size} have NaN or "
            "infinity. Look for what overflows in model or guide (jax.debug_nans may find it), or "
            "train again with a smaller learning rate."
        )
