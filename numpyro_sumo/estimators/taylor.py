"""Values with their first and second derivatives in a few parameters, and functions of them."""

from collections.abc import Callable
import math
from typing import Any

import numpy as np

import jax
import jax.numpy as jnp


def num_coefficients(num_params: int) -> int:
    """1 + P + P (P + 1) / 2: a value, its gradient, and the upper triangle of its Hessian."""
    return (num_params + 1) * (num_params + 2) // 2


def num_params_of(coefficients: int) -> int:
    """P, the inverse of :func:`num_coefficients`."""
    return (math.isqrt(8 * coefficients + 1) - 3) // 2


def parameters(num_params: int) -> jax.Array:
    """P parameters at zero as functions of themselves: shape ``(coefficients, P)``."""
    of_all = jnp.zeros((num_coefficients(num_params), num_params))
    return of_all.at[1 : num_params + 1].set(jnp.eye(num_params))


def compose(function: Callable[[Any], jax.Array], inner: Any) -> jax.Array:
    r"""Value, gradient and Hessian of f(x(δ)) at δ = 0, by the chain rule.

    .. math::
        \partial_p \partial_q f(x(\delta)) =
        \partial^2 f(x)[\partial_p x, \partial_q x] + \partial f(x)[\partial_p \partial_q x]

    :param function: f, differentiable twice in forward mode.
    :param inner: x: a pytree of arrays ``(coefficients, …)``, where row 0 is the value, rows
        1 … P the gradient, and the others the upper triangle of the Hessian, row by row.
    :return: in the same form, ``(coefficients, …)``.

    >>> import jax.numpy as jnp
    >>> from numpyro_sumo.estimators.taylor import compose, parameters
    >>> compose(lambda x: jnp.exp(2.0 * x[0]), parameters(1))
    Array([1., 2., 4.], dtype=float32)
    """
    num_params = num_params_of(len(jax.tree.leaves(inner)[0]))
    rows = lambda start, stop: jax.tree.map(lambda leaf: leaf[start:stop], inner)
    value = jax.tree.map(lambda leaf: leaf[0], inner)
    first, second = rows(1, num_params + 1), rows(num_params + 1, None)

    def derivative(at: Any, direction: Any) -> jax.Array:
        return jax.jvp(function, (at,), (direction,))[1]

    def second_derivative(direction: Any, other: Any, both: Any) -> jax.Array:
        return jax.jvp(derivative, (value, direction), (other, both))[1]

    p, q = np.triu_indices(num_params)
    at = lambda index: jax.tree.map(lambda leaf: leaf[index], first)
    of_value = function(value)[None]
    gradient = jax.vmap(derivative, in_axes=(None, 0))(value, first)
    hessian = jax.vmap(second_derivative)(at(p), at(q), second)
    return jnp.concatenate([of_value, gradient, hessian])


def exponential(inner: jax.Array) -> jax.Array:
    """e to the x(δ), in the form of :func:`compose` but compiled in a fraction of the time."""
    value = jnp.exp(inner[0])
    return _of_scalars(inner, value, value, value)


def logarithm(inner: jax.Array) -> jax.Array:
    """log x(δ), as :func:`exponential`."""
    inverse = 1.0 / inner[0]
    return _of_scalars(inner, jnp.log(inner[0]), inverse, -(inverse**2))


def _of_scalars(
    inner: jax.Array, value: jax.Array, first: jax.Array, second: jax.Array
) -> jax.Array:
    """A function of each element, from its value and first and second derivative there."""
    num_params = num_params_of(len(inner))
    gradient, hessian = inner[1 : num_params + 1], inner[num_params + 1 :]
    p, q = np.triu_indices(num_params)
    of_hessian = first * hessian + second * gradient[p] * gradient[q]
    return jnp.concatenate([value[None], first * gradient, of_hessian])


def symmetric(triangle: np.ndarray) -> np.ndarray:
    """Symmetric matrices ``(…, P, P)`` from their upper triangles ``(…, P (P + 1) / 2)``."""
    size = (math.isqrt(8 * triangle.shape[-1] + 1) - 1) // 2
    p, q = np.triu_indices(size)
    matrices = np.zeros((*triangle.shape[:-1], size, size), triangle.dtype)
    matrices[..., p, q] = triangle
    matrices[..., q, p] = triangle
    return matrices
