"""Independent estimates of log p(x) and its derivatives in a model's parameters."""

import math
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.estimators.taylor import symmetric
from numpyro_sumo.losses import MultilevelSUMO
from numpyro_sumo.programs.model_params import ModelParams
from numpyro_sumo.programs.programs import Programs


class Derivatives(NamedTuple):
    """R independent estimates of log p(x) and its derivatives in the unconstrained parameters.

    :param log_likelihoods: of all data, in nats, shape ``(R,)``.
    :param scores: gradients by datum, shape ``(R, num_data, P)``.
    :param informations: minus the Hessian of all data, shape ``(R, P, P)``.
    """

    log_likelihoods: np.ndarray
    scores: np.ndarray
    informations: np.ndarray


def sample_derivatives(
    rng_key: jax.Array, run: Any, total: int, batch: int, progress_bar: bool
) -> Derivatives:
    """Estimates, evaluated batch by batch.

    :param run: maps a key to a batch of them, as :func:`estimate_derivatives`.
    """
    found = []
    with tqdm(total=total, desc="standard errors", disable=not progress_bar) as bar:
        for index in range(math.ceil(total / batch)):
            found.append(jax.device_get(run(random.fold_in(rng_key, index))))
            bar.update(min(batch, total - index * batch))
    by_datum, hessians = (np.concatenate(arrays, axis=1)[:, :total] for arrays in zip(*found))
    return derivatives_of(by_datum, hessians)


def estimate_derivatives(
    rng_key: jax.Array,
    number: int,
    *,
    estimator: MultilevelSUMO,
    programs: Programs,
    params: ModelParams,
) -> tuple[jax.Array, jax.Array]:
    """Estimates of log p(x), gradients and Hessians; can be compiled.

    :return: log p and its gradient by datum, shape ``(1 + P, number, *data)``; and the upper
        triangle of the Hessian of all data, shape ``(…, number)``.
    """
    size = params.unconstrained.size
    at = lambda displacement: {**programs.params, **params.at(displacement)}
    found = estimator.sample_derivatives(rng_key, programs, at, size, number)
    hessian = found[1 + size :]
    return found[: 1 + size], jnp.sum(hessian.reshape(*hessian.shape[:2], -1), axis=2)


def derivatives_of(by_datum: np.ndarray, hessians: np.ndarray) -> Derivatives:
    """The estimates that :func:`estimate_derivatives` returns, in float64.

    :raises ValueError: if some are not finite.
    """
    flat = by_datum.reshape(*by_datum.shape[:2], -1).astype(np.float64)
    bad = np.flatnonzero(~np.all(np.isfinite(flat), axis=(0, 1)))
    if len(bad) or not np.all(np.isfinite(hessians)):
        listed = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        whose = f"those of data {listed}" if len(bad) and by_datum.ndim > 2 else "those of all data"
        raise ValueError(
            "Expected estimates of log p(x) and its derivatives that are finite; "
            f"{whose} are not. Mask missing observations (numpyro.handlers.mask) and give them any "
            "number, or choose a guide that covers the posterior."
        )
    informations = -symmetric(np.moveaxis(hessians, 0, -1).astype(np.float64))
    scores = np.moveaxis(flat[1:], 0, -1)
    return Derivatives(flat[0].sum(axis=1), scores, informations)
