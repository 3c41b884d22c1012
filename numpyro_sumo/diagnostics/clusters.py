"""Clusters of data whose scores are summed before products are taken."""

import math
from typing import Any

import numpy as np


def cluster_of_each(shape: tuple[int, ...], clusters: Any, robust: bool) -> np.ndarray | None:
    """The number of each datum's cluster, by default its own; None if there is no sandwich.

    :param shape: ``(1 + P, num_estimates, *data)``.
    :raises ValueError: if there is none and one is asked for, or for labels that do not match.
    """
    num_data, num_params = math.prod(shape[2:]), shape[0] - 1
    wanted = robust or clusters is not None
    if wanted and len(shape) == 2:
        raise ValueError(
            "Expected independent data for a sandwich; got one joint likelihood, for no plate "
            "encloses all sites. Put them into one, pass data_axes, or leave out robust and "
            "clusters."
        )
    labels = np.arange(num_data) if clusters is None else np.asarray(clusters)
    if labels.shape != (num_data,):
        raise ValueError(
            f"Expected a cluster for each of {num_data} data; got labels of shape {labels.shape}. "
            "Pass one label for each."
        )
    unique, index = np.unique(labels, return_inverse=True)
    if len(unique) > num_params:
        return None if len(shape) == 2 else index
    if wanted:
        kind = "data" if clusters is None else "clusters"
        raise ValueError(
            f"Expected more {kind} than parameters, for a sandwich covariance; got {len(unique)} "
            f"{kind} and {num_params} parameters. Leave out robust and clusters."
        )
    return None


def summed_by_cluster(scores: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """Scores summed within clusters: ``(R, num_data, P)`` to ``(R, num_clusters, P)``."""
    number = int(clusters.max()) + 1
    if number == len(clusters):
        return scores
    is_in = np.arange(number)[:, None] == clusters
    return np.asarray(is_in.astype(np.float64) @ scores)
