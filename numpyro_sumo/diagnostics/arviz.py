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
_WITHOUT_DRAWS = "observed_data", "constant_data"

Group = dict[str, np.ndarray]


def arviz_data(
    groups: dict[str, Group],
    coords: dict[str, np.ndarray] | None = None,
    dims: dict[str, list[str]] | None = None,
) -> Any:
    """Arrays by group and variable as ArviZ data: ``InferenceData`` under 0.23, else ``DataTree``.

    :param groups: ``posterior``, ``sample_stats`` and others; arrays of shape ``(chain, draw,
        ...)``, but for observed and constant data. Empty groups are left out.
    :param coords: labels by dimension.
    :param dims: names of the axes behind chain and draw, by variable.
    :raises ValueError: for draws with fewer than two axes.
    """
    arrays: dict[str, Any] = {
        name: {variable: np.asarray(values) for variable, values in group.items()}
        for name, group in groups.items()
        if group
    }
    for name, group in arrays.items():
        for variable, values in group.items():
            if name not in _WITHOUT_DRAWS and values.ndim < 2:
                raise ValueError(
                    f"Expected draws of shape (chain, draw, ...); '{variable}' has shape "
                    f"{values.shape}. Reshape it, to (1, draws) for instance."
                )
    options: dict[str, Any] = {"coords": coords or {}, "dims": dims or {}}
    if IS_ARVIZ_1:
        return az.from_dict(arrays, **options)
    # ArviZ 0.23 would take the dictionary of groups for one variable, and does not know this group.
    unconstrained = arrays.pop("unconstrained_posterior", None)
    data = az.from_dict(**arrays, **options)
    if unconstrained:
        data.add_groups({"unconstrained_posterior": unconstrained}, **options)
    return data


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
