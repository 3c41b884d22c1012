"""Each private interface of NumPyro and JAX that the package uses does what it is used for."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block, seed
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.initialization import init_to_value
from numpyro.util import fori_collect

from numpyro_sumo._compat import VectorGuide, collectable_key


def model():
    numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
    numpyro.sample("a", dist.LogNormal())


class MeanField(AutoDiagonalNormal, VectorGuide):
    pass


def vector_guide():
    values = {"z": jnp.array([1.0, 2.0]), "a": jnp.exp(3.0)}
    guide = MeanField(model, init_loc_fn=init_to_value(values=values))
    with block(), seed(rng_seed=0):
        guide.set_up()
    return guide


def test_vector_of_latents_is_unconstrained_and_sorted_by_site_name():
    guide = vector_guide()
    assert guide.latent_dim == 3
    np.testing.assert_allclose(guide.initial_vector, [3.0, 1.0, 2.0], rtol=1e-6)


def test_vector_unpacks_to_the_sites_it_was_made_of():
    sites = vector_guide().unpack(jnp.arange(3.0))
    assert list(sites) == ["a", "z"]
    assert jax.tree.map(np.shape, sites) == {"a": (), "z": (2,)}
    np.testing.assert_array_equal(sites["z"], [1.0, 2.0])


def test_vector_has_one_order_outside_and_inside_jit():
    def initial(_):
        return vector_guide().initial_vector

    np.testing.assert_array_equal(jax.jit(initial)(0), initial(0))


def test_vector_guide_knows_the_trace_of_its_model():
    assert {"z", "a"} <= vector_guide().prototype_trace.keys()


@pytest.mark.parametrize("make_key", [random.key, random.PRNGKey], ids=["new_style", "old_style"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_collectable_keys_are_pairs_of_integers_with_the_same_random_numbers(make_key, shape):
    keys = random.split(make_key(0), shape) if shape else make_key(0)
    found = collectable_key(keys)
    assert (found.shape, found.dtype) == ((*shape, 2), np.uint32)
    numbers = jax.vmap(random.normal) if shape else random.normal
    np.testing.assert_array_equal(numbers(found), numbers(keys))
    with pytest.raises(TypeError):  # else such keys need not be converted
        make_collected(random.key(0))
    make_collected(collectable_key(random.key(0)))


def make_collected(key):
    return fori_collect(0, 2, lambda key: random.split(key)[0], key, progbar=False)


def test_keys_of_another_generator_stay_as_they_are():
    key = random.key(0, impl="rbg")
    assert collectable_key(key) is key
