"""The affine map between whitened and unconstrained coordinates."""

import numpy as np
import pytest

import jax
import jax.numpy as jnp

from numpyro_sumo.guides.whitening import Whitening, lower_root

ROOT = np.array([[2.0, 0.0, 0.0], [-1.0, 0.5, 0.0], [3.0, 1.0, 0.1]])
LOC, Y = jnp.array([1.0, -2.0, 5.0]), jnp.array([0.3, -0.7, 1.1])


@pytest.mark.parametrize("root", [ROOT, np.diag(ROOT)], ids=["full", "diagonal"])
def test_blocks_make_up_the_whole_map_which_is_inverted(root):
    whitening = Whitening(LOC, jnp.asarray(root, jnp.float32))
    z = whitening.color(Y)
    matrix = root if root.ndim == 2 else np.diag(root)
    np.testing.assert_allclose(z, LOC + matrix @ Y, rtol=1e-6)
    np.testing.assert_allclose(whitening.color(jnp.stack([Y, Y])), [z, z], rtol=1e-6)
    np.testing.assert_allclose(whitening.whiten(z), Y, rtol=1e-4)
    first, rest = whitening.block(0, 1, Y[:0]), whitening.block(1, 2, Y[:1])
    np.testing.assert_allclose(jnp.concatenate([first(Y[:1]), rest(Y[1:])]), z, rtol=1e-6)


def test_triangular_root_is_that_of_the_product():
    factor = np.random.default_rng(0).normal(size=(3, 3))
    root = lower_root(jnp.asarray(factor, jnp.float32))
    np.testing.assert_allclose(root, np.linalg.cholesky(factor @ factor.T), atol=1e-5)


def test_all_products_are_at_full_precision():
    """Else draws on GPUs would not follow the density, which is exact."""

    def both(y):
        whitening = Whitening(LOC, jnp.asarray(ROOT, jnp.float32))
        return whitening.color(y), whitening.block(1, 2, y[:1])(y[1:])

    products = [e for e in jax.make_jaxpr(both)(Y).eqns if e.primitive.name == "dot_general"]
    assert len(products) == 3
    highest = (jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)
    assert all(each.params["precision"] == highest for each in products)
