"""ArviZ data and summaries, under ArviZ 0.23 and 1.x alike."""

from typing import Any
import warnings

import numpy as np

with warnings.catch_warnings():
    # ArviZ 0.23 warns of 1.x on import.
    warnings.simplefilter("ignore", FutureWarning)
    import arviz as az

#: Whether ArviZ is 1.x.
IS_ARVIZ_1 = int(az.__version__.split(".")[0]) >= 1
_COLUMNS = ["mean", "sd", "mcse_mean", "mcse_sd", "ess_bulk", "ess_tail", "r_hat"]


def to_arviz(
    posterior: dict[str, np.ndarray], sample_stats: dict[str, np.ndarray] | None = None
) -> Any:
    """Draws of a sampler or of MCMC as ArviZ data: ``InferenceData`` under 0.23, else ``DataTree``.

    :param posterior: arrays of shape ``(chain, draw, ...)`` by variable.
    :param sample_stats: arrays by name, ``diverging`` for instance.
    :raises ValueError: for an array with fewer than two axes.
    """
    posterior = {name: np.asarray(values) for name, values in posterior.items()}
    for name, values in posterior.items():
        if values.ndim < 2:
            raise ValueError(
                f"Expected draws of shape (chain, draw, ...); '{name}' has shape {values.shape}. "
                "Reshape it, to (1, draws) for instance."
            )
    groups: dict[str, Any] = {"posterior": posterior}
    if sample_stats is not None:
        groups["sample_stats"] = {name: np.asarray(v) for name, v in sample_stats.items()}
    # ArviZ 0.23 would take the dictionary of groups for one variable.
    return az.from_dict(groups) if IS_ARVIZ_1 else az.from_dict(**groups)


def summarise(data: Any) -> dict[str, dict[str, float]]:
    """Mean, sd, MCSE of both, ESS (bulk and tail) and R-hat of each variable, by ArviZ.

    ESS and R-hat measure how well draws represent the *sampler's own* distribution: for independent
    draws they are perfect, whether or not that distribution is the target.
    """
    table = az.summary(data, kind="all", round_to="none")[_COLUMNS]
    return {
        str(variable): {column: float(value) for column, value in row.items()}
        for variable, row in table.iterrows()
    }
