"""The density of a transformed draw as a function of the draw alone, without inverting transforms.

With z = z(ε, φ) reparameterised, the derivative of log q(z | φ) in φ has two parts: through z, and
in φ at fixed z. The second, the score, has mean zero and is the only term with non-zero variance
once q equals the target. The doubly reparameterised gradient omits it: it needs log q as a function
of z, with φ detached.
"""

import math
from typing import Any

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro.distributions import Distribution, TransformedDistribution
from numpyro.distributions.transforms import ComposeTransform, Transform


def intermediates_at(
    distribution: Distribution, y: jax.Array, drawn: list[list[Any]]
) -> list[list[Any]]:
    """The intermediate values of a transformed distribution as a function of its draw y.

    No transform is inverted: the derivative of the base draw x with respect to y is J⁻¹, J the
    Jacobian at x.

    :param distribution: its parameters must be detached where y is differentiated.
    :param drawn: the intermediate values that y was drawn with.
    """
    while not isinstance(distribution, TransformedDistribution):
        distribution = distribution.base_dist
    x = stop_gradient(drawn[0][0])
    x = x + _pull_back(ComposeTransform(distribution.transforms), x, y - stop_gradient(y))
    intermediates = []
    for transform in distribution.transforms:
        y, computed = transform.call_with_intermediates(x)
        intermediates.append([x, computed])
        x = y
    return intermediates


def _pull_back(transform: Transform, x: jax.Array, dy: jax.Array) -> jax.Array:
    """J⁻¹ dy, or its least-squares solution where y has more coordinates than x."""
    batch_ndim = x.ndim - transform.domain.event_dim
    batch, event = x.shape[:batch_ndim], x.shape[batch_ndim:]
    basis = jnp.eye(math.prod(event), dtype=x.dtype).reshape(-1, *[1] * batch_ndim, *event)
    push = lambda dx: jax.jvp(transform, (x,), (jnp.broadcast_to(dx, x.shape),))[1]
    columns = stop_gradient(jax.vmap(push)(basis))
    dy = dy.reshape(*batch, -1)
    jacobian = jnp.moveaxis(columns.reshape(len(basis), *dy.shape), 0, -1)
    # Where J is singular (float32 saturation), set the gradient to zero.
    if jacobian.shape[-2:] == (1, 1):
        flat = jacobian[..., 0] == 0.0
        return jnp.where(flat, 0.0, dy / jnp.where(flat, 1.0, jacobian[..., 0])).reshape(x.shape)
    q, r = jnp.linalg.qr(jacobian)
    flat = jnp.any(jnp.diagonal(r, axis1=-2, axis2=-1) == 0.0, axis=-1)[..., None, None]
    rotated = jnp.einsum("...ij,...i->...j", q, dy)[..., None]
    dx = jax.scipy.linalg.solve_triangular(jnp.where(flat, jnp.eye(r.shape[-1]), r), rotated)
    return jnp.where(flat, 0.0, dx).reshape(x.shape)
