"""Guides of eight kinds, each started near the posterior and trained a little."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import optax

import jax
import jax.numpy as jnp

from numpyro.infer import SVI, Trace_ELBO, autoguide
from numpyro.infer.initialization import init_to_value

from benchmarks.common.fast_compile import hasty_compilation
from benchmarks.guides.problems import Normal, Problem
from numpyro_sumo import IWHVI, AutoHierarchicalNormal, ReverseKL


class Kind(NamedTuple):
    """A kind of guide.

    :param make: maps a model and keyword arguments to a guide.
    :param start: maps the reference Normal to initial params; those left out are the guide's own.
    :param steps: of training.
    """

    make: Callable
    start: Callable[[Normal], dict[str, Any]] = lambda reference: {}
    steps: int = 1_000
    learning_rate: float = 0.01


class Fit(NamedTuple):
    """A trained guide."""

    guide: Any
    params: dict[str, jax.Array]


def _mean_field(reference: Normal) -> np.ndarray:
    """The sds of the independent Normals that are closest by reverse KL."""
    return np.diag(np.linalg.inv(reference.covariance)) ** -0.5


def _by_site(reference: Normal) -> dict[str, Any]:
    locs = reference.split(jnp.asarray(reference.loc, jnp.float32))
    scales = reference.split(jnp.asarray(_mean_field(reference), jnp.float32))
    params = {f"{name}_auto_loc": loc for name, loc in locs.items()}
    return params | {f"{name}_auto_scale": scale for name, scale in scales.items()}


def _in_a_vector(reference: Normal) -> dict[str, Any]:
    return {"auto_loc": jnp.float32(reference.loc), "auto_scale": _mean_field(reference)}


def with_covariance(loc: np.ndarray, root: np.ndarray) -> dict[str, Any]:
    """Params of AutoMultivariateNormal.

    :param root: lower triangular, times its transpose the covariance.
    """
    return {"auto_loc": jnp.float32(loc), "auto_scale_tril": jnp.float32(root)}


def _small_iaf(model: Callable, **options: Any) -> Any:
    return autoguide.AutoIAFNormal(model, num_flows=2, **options)


def _small_bnaf(model: Callable, **options: Any) -> Any:
    return autoguide.AutoBNAFNormal(model, hidden_factors=[2], **options)


def _small_hierarchical(model: Callable, **options: Any) -> Any:
    return AutoHierarchicalNormal(model, hidden_sizes=(16,), **options)


#: The kinds by name.
KINDS = {
    "AutoNormal": Kind(autoguide.AutoNormal, _by_site),
    "AutoDiagonalNormal": Kind(autoguide.AutoDiagonalNormal, _in_a_vector),
    "AutoMultivariateNormal": Kind(
        autoguide.AutoMultivariateNormal,
        lambda normal: with_covariance(normal.loc, np.linalg.cholesky(normal.covariance)),
    ),
    "AutoLowRankMultivariateNormal": Kind(autoguide.AutoLowRankMultivariateNormal, _in_a_vector),
    "AutoIAFNormal": Kind(_small_iaf, steps=2_000),
    "AutoBNAFNormal": Kind(_small_bnaf),
    "AutoLaplaceApproximation": Kind(autoguide.AutoLaplaceApproximation, steps=2_000),
    "AutoHierarchicalNormal": Kind(_small_hierarchical, steps=500, learning_rate=1e-3),
}


def train(problem: Problem, name: str, rng_key: jax.Array, share: float) -> Fit:
    """Train a guide by Adam with a learning rate that decays to zero.

    :param name: of its kind.
    :param share: of the kind's training steps.
    """
    kind = KINDS[name]
    near = init_to_value(values={n: jnp.float32(v) for n, v in problem.exact.mean.items()})
    guide = kind.make(problem.model, init_loc_fn=near)
    steps = max(10, round(share * kind.steps))
    optimiser = optax.adam(optax.cosine_decay_schedule(kind.learning_rate, steps))
    is_hierarchical = isinstance(guide, AutoHierarchicalNormal)
    loss = ReverseKL(IWHVI(8), num_particles=16) if is_hierarchical else Trace_ELBO(16)
    svi = SVI(problem.model, guide, optimiser, loss)
    start = kind.start(problem.reference) or None
    with hasty_compilation():  # of a training that is over sooner than it is optimised
        found = svi.run(rng_key, steps, progress_bar=False, init_params=start)
    return Fit(guide, jax.block_until_ready(found.params))
