"""NumPyro programs with some of their sites fixed, and arrays without gradients."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax.lax import stop_gradient

from numpyro.handlers import block, seed, substitute

from .sites import Params

Tree = TypeVar("Tree")


def detach(tree: Tree) -> Tree:
    """The same values, with ``stop_gradient`` on every array."""
    is_array = lambda leaf: isinstance(leaf, jax.Array)
    detached: Tree = jax.tree.map(lambda x: stop_gradient(x) if is_array(x) else x, tree)
    return detached


def with_fixed_subsample(rng_key: jax.Array, program: Callable) -> Callable:
    """The program with its plates subsampled by ``rng_key``: one batch for all particles."""
    seeded: Callable = seed(program, rng_key, hide_types=["sample", "prng_key", "control_flow"])
    return seeded


def with_params(program: Callable, params: Params) -> Callable:
    """The program with the values of its param sites fixed, and without these sites."""
    fixed: Callable = block(substitute(program, data=params), hide_fn=_is_param)
    return fixed


def _is_param(site: dict[str, Any]) -> bool:
    return bool(site["type"] == "param")
