"""Multi-path Pathfinder by BlackJAX, with Pareto-smoothed importance resampling."""

from typing import Any

from blackjax.vi import pathfinder
import numpy as np

import jax
from jax import lax, random

from numpyro.infer.util import constrain_fn, initialize_model

from benchmarks.posteriordb.regressions import Model
from numpyro_sumo.diagnostics.pareto_k import pareto_smoothed

#: Iterations of L-BFGS on each path, and draws for each ELBO along it.
_ITERATIONS, _DRAWS_OF_ELBO = 200, 10

#: Draws that are evaluated together.
_BATCH = 100


def pathfinder_draws(
    rng_key: jax.Array, model: Model, num_paths: int, num_samples: int
) -> tuple[dict[str, Any], float]:
    """Draws of latent sites, with a leading axis, and k-hat of their weights.

    Each path starts at an initial value of NumPyro, and gives the same number of draws; those of
    all paths are resampled by their weights p / q, q the density of their own path.

    :param num_samples: a multiple of ``num_paths``.

    **Reference:** Zhang et al. 2022, *Pathfinder: Parallel quasi-Newton variational inference*,
    algorithm 2.
    """
    start_key, path_key, draw_key, resample_key = random.split(rng_key, 4)
    start = initialize_model(random.split(start_key, num_paths), model)

    def log_density(values: dict[str, jax.Array]) -> jax.Array:
        return -start.potential_fn(values)

    def follow(inputs: tuple) -> tuple[dict[str, jax.Array], jax.Array, jax.Array]:
        """Draws at the best point of one path, and their log-densities by q and by p."""
        begin, path_key, draw_key = inputs
        state, _ = pathfinder.approximate(
            path_key, log_density, begin, _DRAWS_OF_ELBO, maxiter=_ITERATIONS
        )
        draws, log_q = pathfinder.sample(draw_key, state, num_samples // num_paths)
        return draws, log_q, lax.map(log_density, draws, batch_size=_BATCH)

    keys = (random.split(key, num_paths) for key in (path_key, draw_key))
    paths = jax.jit(lambda inputs: lax.map(follow, inputs))((start.param_info.z, *keys))
    draws, log_q, log_p = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), paths)
    log_weights = np.nan_to_num(np.float64(log_p) - log_q, nan=-np.inf, posinf=-np.inf)
    smoothed, k_hat = pareto_smoothed(log_weights)
    rng = np.random.default_rng(int(random.bits(resample_key)))
    chosen = rng.choice(len(smoothed), num_samples, p=np.exp(smoothed))
    constrain = jax.jit(jax.vmap(lambda values: constrain_fn(model, (), {}, values)))
    return constrain({name: values[chosen] for name, values in draws.items()}), float(k_hat)
