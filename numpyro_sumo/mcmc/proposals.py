"""Checks of a guide's proposals, and of the kernel that alternates with them."""

import warnings

import numpy as np

from numpyro.infer import HMC

from numpyro_sumo.programs.sites import Program

#: Number of proposals that the initial state of a chain is chosen from.
POOL = 256


def check_proposals(log_weights: np.ndarray, alternate: HMC | None) -> None:
    """Refuses a guide whose proposals are never accepted; warns if they almost never are.

    :param log_weights: of the proposals, any shape; NaN and +∞ count as zero weights.
    :param alternate: with an alternate kernel there is no warning.
    """
    log_weights = np.where(np.isfinite(log_weights), log_weights, -np.inf).ravel()
    if np.all(log_weights == -np.inf):
        raise ValueError(
            f"Expected proposals that can be accepted; of {log_weights.size} none has a weight "
            "above zero. Train the guide, or give its sites the supports of the model's."
        )
    # Less than one acceptance in 256 iterations.
    rate = acceptance_rate(log_weights)
    if alternate is None and rate < 1.0 / POOL:
        warnings.warn(
            f"Expected a guide whose proposals are accepted; about {rate:.1g} of them will be. "
            "Train it longer or with more particles, or pass alternate=NUTS(model).",
            stacklevel=3,
        )


def acceptance_rate(log_weights: np.ndarray) -> float:
    r"""Estimated acceptance rate, :math:`\sum_{i \ne j} \min(w_i, w_j) / (n - 1) \sum_i w_i`.

    The state is draw i with probability :math:`w_i / \sum_i w_i`, the proposal another draw.
    """
    weights = np.sort(np.exp(log_weights - log_weights.max()))
    count = weights.size
    smaller_of_pairs = 2.0 * (weights * np.arange(count - 1, -1, -1)).sum()
    return float(smaller_of_pairs / (max(count - 1, 1) * weights.sum()))


def check_alternate(alternate: object, model: Program) -> None:
    """Refuses what is neither None nor an HMC or NUTS kernel of the model."""
    if alternate is None:
        return
    if not isinstance(alternate, HMC) or alternate.model is None:
        raise ValueError(
            f"Expected alternate to be an HMC or NUTS kernel of the model; got {alternate!r}. "
            "Pass alternate=NUTS(model)."
        )
    if alternate.model != model:
        raise ValueError(
            f"Expected alternate to be a kernel of the model itself; it is one of "
            f"{alternate.model!r}. Pass alternate=NUTS(model)."
        )
