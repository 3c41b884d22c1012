"""An affine map from whitened to unconstrained coordinates, in whole and site by site."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

from numpyro.distributions.transforms import AffineTransform, LowerCholeskyAffine, Transform


class _PreciseAffine(LowerCholeskyAffine):
    """Multiplies at full precision: else, on GPUs, draws would not follow the exact density."""

    def __call__(self, x: jax.Array) -> jax.Array:
        product = jnp.matmul(self.scale_tril, x[..., None], precision="highest")
        return self.loc + jnp.squeeze(product, axis=-1)


class Whitening(NamedTuple):
    """z = c + L y, which gives standard Normals y the mean c and the covariance L Lᵀ.

    :param loc: c, shape ``(d,)``.
    :param root: L, lower triangular with a positive diagonal, or its diagonal alone.
    """

    loc: jax.Array
    root: jax.Array

    def color(self, y: jax.Array) -> jax.Array:
        """z of y, with any batch dimensions before the last one."""
        if self.root.ndim == 1:
            return self.loc + self.root * y
        return self.loc + jnp.matmul(y, self.root.T, precision="highest")

    def whiten(self, z: jax.Array) -> jax.Array:
        """y of one z, shape ``(d,)``."""
        if self.root.ndim == 1:
            return (z - self.loc) / self.root
        return solve_triangular(self.root, z - self.loc, lower=True)

    def block(self, start: int, size: int, before: jax.Array) -> Transform:
        """The map from consecutive coordinates of y to those of z, given y before them.

        :param start: place of the first one; likewise ``size``, their number.
        :param before: y of all coordinates before ``start``.
        """
        rows = slice(start, start + size)
        if self.root.ndim == 1:
            return AffineTransform(self.loc[rows], self.root[rows])
        shift = jnp.matmul(self.root[rows, :start], before, precision="highest")
        return _PreciseAffine(self.loc[rows] + shift, self.root[rows, rows])


def lower_root(factor: jax.Array) -> jax.Array:
    """The lower triangular L with a positive diagonal of which L Lᵀ is ``factor @ factor.T``.

    More accurate than the Cholesky factor of that product, whose condition is squared.
    """
    upper = jnp.linalg.qr(factor.T, mode="r")
    return (upper * jnp.where(jnp.diag(upper) < 0.0, -1.0, 1.0)[:, None]).T
