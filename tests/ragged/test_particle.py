"""Views of one log-weight, and cotangents that they share."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.ragged import MODEL, Particle, stop_gradient_where_zero
from numpyro_sumo.ragged.particle import shared_cotangent

from .examples import KEY, scalar_particle, vector_particle


@pytest.mark.parametrize("make_particle", [scalar_particle, vector_particle])
def test_views_have_one_value_and_gradients_in_different_parameters(make_particle):
    numbers = jnp.array(0.4), jnp.array(0.8)
    evaluate = lambda numbers: make_particle(*numbers).views(2, KEY)
    views, gradients = evaluate(numbers), jax.jacobian(evaluate)(numbers)
    assert list(views) == ["model", "guide"]
    np.testing.assert_array_equal(views["model"], views["guide"])
    of_guide, of_model = zip(*(gradients[view] for view in ("guide", "model")))
    assert np.all(of_guide[0] != 0.0) and np.all(of_guide[1] == 0.0)
    assert np.all(of_model[0] == 0.0) and np.all(of_model[1] != 0.0)


def test_a_particle_without_proposals_has_the_model_s_view_alone():
    particle = Particle(lambda datum, key, proposal, detached: datum + random.normal(key))
    assert list(particle.views(2, KEY)) == [MODEL]
    assert particle.views(2, KEY)[MODEL] == 2 + random.normal(KEY)


def test_gradients_stop_at_proposals_whose_weight_is_zero():
    def read(value):
        proposal = stop_gradient_where_zero(
            jnp.array([True, False]),
            {"vector": value * jnp.ones(2), "matrix": value * jnp.ones((2, 3))},
            lambda leaf, _: {"vector": leaf, "matrix": leaf[:, None]},
        )
        return proposal["vector"] + proposal["matrix"].sum(axis=1)

    value, gradient = read(0.5), jax.jacobian(read)(0.5)
    np.testing.assert_array_equal(value, [2.0, 2.0])
    np.testing.assert_array_equal(gradient, [4.0, 0.0])


def test_every_view_s_cotangent_is_a_multiple_of_the_shared_one():
    cotangents = {
        "model": jnp.array([2.0, 0.0, -3.0, 0.0, 1e-30, 1e-30]),
        "guide": jnp.array([1.0, 0.5, 0.0, 0.0, 2.0, 0.0]),
        "path": jnp.array([0.0, -1.0, 6.0, 0.0, 0.0, 0.0]),
    }
    shared, ratios = shared_cotangent(cotangents)
    assert list(ratios) == ["guide", "path"]
    for view, ratio in ratios.items():
        np.testing.assert_allclose(ratio * shared, cotangents[view], rtol=1e-6)
    # Where it is not the model's it is too small to change the model's gradient.
    np.testing.assert_allclose(shared, cotangents["model"], rtol=0.0, atol=2.0**-79)
    unchanged = jnp.array([0, 2, 3, 5])
    np.testing.assert_array_equal(shared[unchanged], cotangents["model"][unchanged])
