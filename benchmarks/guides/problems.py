"""What a model with a known posterior consists of, and the Normal fitted to exact draws of it."""

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import numpy as np

import jax
from jax.flatten_util import ravel_pytree

from numpyro.infer.util import unconstrain_fn

Sites = dict[str, np.ndarray]

#: Exact draws from which the reference Normal and the correlations are computed.
NUM_DRAWS = 40_000


class Exact(NamedTuple):
    """The exact posterior of a model.

    :param log_evidence: log p(data), in nats.
    :param mean: posterior means by site, of the site's shape.
    :param sd: posterior standard deviations, likewise.
    :param draw: maps (NumPy generator, number) to independent draws by site.
    """

    log_evidence: float
    mean: Sites
    sd: Sites
    draw: Callable[[np.random.Generator, int], Sites]


class Normal(NamedTuple):
    """A Normal over the unconstrained latents in one vector, as in the automatic guides.

    Sites are in alphabetical order, which is that of their names in each model here.

    :param split: maps such a vector to unconstrained values by site.
    """

    loc: np.ndarray
    covariance: np.ndarray
    split: Callable


class Problem:
    """A model without arguments, and its exact posterior.

    :param title: its name in reports.
    """

    def __init__(self, title: str, model: Callable, exact: Exact):
        self.title, self.model, self.exact = title, model, exact

    @cached_property
    def draws(self) -> Sites:
        """Exact draws by site."""
        return self.exact.draw(np.random.default_rng(0), NUM_DRAWS)

    def moments(self, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Exact means and sds of all numbers of these sites, in their order."""
        mean, sd = self.exact.mean, self.exact.sd
        flat = lambda sites: np.concatenate([np.ravel(sites[name]) for name in names])
        return flat(mean), flat(sd)

    @cached_property
    def reference(self) -> Normal:
        """The Normal with the mean and covariance of exact draws in unconstrained space."""
        unconstrain = lambda values: unconstrain_fn(self.model, (), {}, values)
        free = jax.vmap(unconstrain)({n: np.float32(v) for n, v in self.draws.items()})
        vectors = np.asarray(jax.vmap(lambda values: ravel_pytree(values)[0])(free), np.float64)
        split = ravel_pytree(jax.tree.map(lambda values: values[0], free))[1]
        covariance = np.atleast_2d(np.cov(vectors.T))
        return Normal(vectors.mean(axis=0), covariance, split)


def in_columns(sites: Sites) -> np.ndarray:
    """Draws of all sites as one array, ``(draws, numbers)``."""
    return np.concatenate([values.reshape(len(values), -1) for values in sites.values()], axis=1)
