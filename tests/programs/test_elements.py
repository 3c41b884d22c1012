"""Model and guide run for one element at a time: the same weights, or the reason why not."""

from dataclasses import replace

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, scale, seed
from numpyro.infer import SVI, autoguide

from numpyro_sumo import SUMO
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import LOC, NOISE, posterior
from tests.helpers.models import log_evidence as exact_log_evidence
from tests.helpers.weights import weights_of_programs
from tests.programs.one_model import PARAMS, SIZE, X, subsampled_guide, subsampled_model


def weights_of(model, guide, args, params=PARAMS, **options):
    return weights_of_programs(Programs(model, guide, params, args), **options)


def test_an_element_of_a_subsampled_plate_weighs_what_it_weighs_in_the_whole():
    """At one and the same draw; the guide's own draws differ, for each element has its keys."""
    whole = weights_of(subsampled_model, subsampled_guide, (X,), apart=False)
    apart = weights_of(subsampled_model, subsampled_guide, (X,))
    assert (whole.num_data, apart.num_data) == (1, SIZE)
    together = whole.propose(0, random.key(1))
    expected = whole.weigh(0, random.key(2), together)
    for element in range(SIZE):
        one = apart.propose(jnp.array(element), random.key(1))
        z = together.values["z"][element : element + 1]
        log_density = together.log_density[element : element + 1]
        one = replace(one, values={"z": z}, log_density=log_density)
        weight = apart.weigh(jnp.array(element), random.key(2), one)
        np.testing.assert_allclose(weight, expected[element], rtol=1e-5)
    np.testing.assert_allclose(apart.scale(), np.full(SIZE, 12 / SIZE), rtol=1e-6)
    indices = np.asarray(apart.elements.indices["data"][0])
    assert set(indices) == set(np.asarray(together.indices["data"]))


def test_every_estimate_has_its_own_subsample():
    weights = weights_of(subsampled_model, subsampled_guide, (X,), num_estimates=3)
    assert weights.num_data == 3 * SIZE
    indices = np.asarray(weights.elements.indices["data"])
    assert len({tuple(np.sort(row)) for row in indices}) == 3
    of_data = jnp.arange(3 * SIZE)
    np.testing.assert_array_equal(weights.by_estimate(of_data), of_data.reshape(3, SIZE))


def test_local_parameters_of_an_autoguide_follow_the_elements():
    guide = autoguide.AutoNormal(subsampled_model, create_plates=create_plates)
    svi = SVI(subsampled_model, guide, optax.sgd(1.0), SUMO(2))
    params = jax.jit(lambda key: svi.get_params(svi.init(key, X)))(random.key(0))
    weights = weights_of(subsampled_model, guide, (X,), params)
    assert weights.num_data == SIZE
    chosen = np.asarray(weights.elements.indices["data"][0])

    def weight(loc, datum):
        moved = weights_of(subsampled_model, guide, (X,), {**params, "z_auto_loc": loc})
        return moved.weigh(datum, random.key(3), moved.propose(datum, random.key(2)))

    slope = jax.jit(jax.vmap(jax.grad(weight), in_axes=(None, 0)))
    slopes = slope(params["z_auto_loc"], jnp.arange(SIZE, dtype=jnp.int32))
    np.testing.assert_array_equal(np.argwhere(np.asarray(slopes))[:, 1], chosen)


def create_plates(x):
    return numpyro.plate("data", len(x), subsample_size=SIZE)


# Whole plates


def whole_model(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def test_an_autoguide_of_a_whole_plate_has_a_stopping_time_for_each_element():
    """Its parameters have the plate's length, and so have the data: both are cut at the site."""
    guide = autoguide.AutoNormal(whole_model)
    seed(guide, 0)(X)
    mean, sd = posterior(X)
    params = {"loc": LOC, "z_auto_loc": mean, "z_auto_scale": jnp.broadcast_to(sd, mean.shape)}
    weights = weights_of(whole_model, guide, (X,), params)
    assert (weights.num_data, weights.elements.why_shared) == (12, None)

    def log_weight(i):
        return weights.weigh(i, random.key(2), weights.propose(i, random.fold_in(random.key(1), i)))

    found = jax.jit(jax.vmap(log_weight))(jnp.arange(12, dtype=jnp.int32))
    np.testing.assert_allclose(found, exact_log_evidence(X), rtol=1e-4)


def test_gradients_of_local_parameters_are_those_of_their_elements():
    guide = autoguide.AutoNormal(whole_model)
    seed(guide, 0)(X)
    params = {"loc": jnp.array(LOC), "z_auto_loc": X, "z_auto_scale": jnp.ones(12)}
    loss = SUMO(2)

    def of_locals(loc):
        return loss.loss(random.key(0), {**params, "z_auto_loc": loc}, whole_model, guide, X)

    def of_data(x):
        return loss.loss(random.key(0), params, whole_model, guide, x)

    slopes = jax.jit(jax.grad(of_locals))(X)
    assert np.all(np.asarray(slopes) != 0.0)
    assert np.all(np.asarray(jax.jit(jax.grad(of_data))(X)) != 0.0)


# Programs that do not look across the plate, whatever they compute of its data and its length


def model_of_the_first(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x[:SIZE])


def model_with_a_mask(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE) as index:
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        with mask(mask=jnp.arange(SIZE) > 1):
            numpyro.sample("x", dist.Normal(z, NOISE), obs=x[index])


def model_with_mutable_state(x):
    numpyro.primitives.mutable("state", jnp.zeros(()))
    subsampled_model(x)


def scaled_by_its_length(program):
    def scaled(x):
        with scale(scale=1 / SIZE):
            program(x)

    return scaled


def model_that_looks_at_its_length(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE) as index:
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z / len(index), NOISE), obs=x[index] - x[index].mean())


APART = {
    "data_by_their_order": (model_of_the_first, subsampled_guide),
    "a_mask_by_their_order": (model_with_a_mask, subsampled_guide),
    "the_length_and_the_mean_of_the_data": (model_that_looks_at_its_length, subsampled_guide),
    "a_scale_by_the_length": (
        scaled_by_its_length(subsampled_model),
        scaled_by_its_length(subsampled_guide),
    ),
}


@pytest.mark.parametrize("model, guide", APART.values(), ids=APART.keys())
def test_weights_of_elements_are_those_of_the_batch(model, guide):
    whole = weights_of(model, guide, (X,), apart=False)
    apart = weights_of(model, guide, (X,))
    assert apart.num_data == SIZE
    together = whole.propose(jnp.array(0), random.key(1))
    expected = whole.weigh(jnp.array(0), random.key(2), together)

    def weight(i):
        cut = lambda array: jax.lax.dynamic_index_in_dim(array, i)
        one = apart.propose(i, random.key(1))
        values, log_density = {"z": cut(together.values["z"])}, cut(together.log_density)
        return apart.weigh(i, random.key(2), replace(one, values=values, log_density=log_density))

    found = jax.jit(jax.vmap(weight))(jnp.arange(SIZE, dtype=jnp.int32))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(apart.scale(), whole.scale()[0], rtol=1e-6)


def test_programs_with_mutable_state_are_run_as_they_are_and_say_why():
    weights = weights_of(model_with_mutable_state, subsampled_guide, (X,))
    assert weights.num_data == 1
    expected = "the 5 elements of plate 'data' share one: the programs have mutable state"
    assert weights.elements.why_shared == expected
