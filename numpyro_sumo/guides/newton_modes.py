"""Modes of a density by Newton's method, from several starts, with their Laplace approximations."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import jax
from jax import lax
import jax.numpy as jnp

from .whitening import lower_root

#: Most steps from each start.
_MOST_STEPS = 60

#: Lengths of a step that are tried, as a share of Newton's own; zero stays.
_LENGTHS = np.append(np.float32(0.0), 0.5 ** np.arange(16, dtype=np.float32))

#: A search ends where a step promises half of this gain in log-density, in nats.
_SMALLEST_GAIN = 1e-5

#: Columns of a Hessian in memory at a time.
_BATCH = 64

#: Smallest curvature, as a share of the largest, after scaling each coordinate by its own.
_FLATTEST = 1e-6


class Modes(NamedTuple):
    """A mode for each start.

    :param loc: where it is, shape ``(starts, d)``.
    :param root: lower triangular roots of the inverse of minus the Hessian, ``(starts, d, d)``.
    :param converged: whether a further step would gain nothing.
    """

    loc: jax.Array
    root: jax.Array
    converged: jax.Array


class _Search(NamedTuple):
    """Where a search is, a factor of the inverse curvature there, steps taken, and its state."""

    loc: jax.Array
    factor: jax.Array
    step: jax.Array
    goes_on: jax.Array
    converged: jax.Array


def newton_modes(log_density: Callable[[jax.Array], jax.Array], starts: jax.Array) -> Modes:
    r"""Climbs to modes by saddle-free Newton steps with a line search.

    .. math::
        z' = z + t\, D\, V \,|\Lambda|^{-1} V^\top D \,\nabla \log p(z), \qquad
        D\, \nabla^2 (-\log p)\, D = V \Lambda V^\top

    D scales each coordinate by its own curvature, since those of data in natural units differ by
    many orders of magnitude; t is the best of 1, 1/2, 1/4, … Where curvature is negative its
    absolute value is used, so that steps lead away from saddles.

    :param log_density: twice differentiable, in nats.
    :param starts: shape ``(starts, d)``.

    **Reference:** Dauphin et al. 2014, *Identifying and attacking the saddle point problem in
    high-dimensional non-convex optimization*, section 4.
    """

    def climb(start: jax.Array) -> _Search:
        def step(at: _Search) -> _Search:
            gradient, factor = _newton(log_density, at.loc)
            direction = factor @ (factor.T @ gradient)
            reached = at.loc + _LENGTHS[:, None] * direction
            values = lax.map(log_density, reached)
            values = jnp.where(jnp.isfinite(values), values, -jnp.inf)
            best = jnp.argmax(values)
            gains = (values[best] > values[0]) & (gradient @ direction > _SMALLEST_GAIN)
            # Stays where the factor was computed in the last step, whichever that is.
            goes_on = gains & (at.step + 1 < _MOST_STEPS)
            loc = jnp.where(goes_on, reached[best], at.loc)
            converged = jnp.isfinite(values[0]) & ~gains
            return _Search(loc, factor, at.step + 1, goes_on, converged)

        square = jnp.zeros((start.size, start.size), start.dtype)
        first = _Search(start, square, jnp.array(0), jnp.array(True), jnp.array(False))
        return lax.while_loop(lambda at: at.goes_on, step, first)

    found = lax.map(climb, starts)
    return Modes(found.loc, jax.vmap(lower_root)(found.factor), found.converged)


def gradient_and_hessian(
    function: Callable[[jax.Array], jax.Array], at: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Both derivatives of a scalar function, at an array of shape ``(d,)``."""
    gradient, product = jax.linearize(jax.grad(function), at)
    return gradient, lax.map(product, jnp.eye(at.size, dtype=at.dtype), batch_size=_BATCH)


def _newton(
    log_density: Callable[[jax.Array], jax.Array], loc: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradient, and a factor F of which F Fᵀ is the inverse of the curvature's absolute."""
    gradient, hessian = gradient_and_hessian(log_density, loc)
    curvature = -(hessian + hessian.T) / 2
    diagonal = jnp.abs(jnp.diagonal(curvature))
    scale = 1.0 / jnp.sqrt(jnp.where(diagonal > 0.0, diagonal, 1.0))
    values, vectors = jnp.linalg.eigh(curvature * scale * scale[:, None])
    values = jnp.abs(values)
    values = jnp.maximum(values, _FLATTEST * values.max())
    return gradient, scale[:, None] * vectors / jnp.sqrt(values)
