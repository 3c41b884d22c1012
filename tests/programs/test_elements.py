"""Model and guide run for one element at a time: the same weights, or the reason why not."""

from dataclasses import replace
import re

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, scale
from numpyro.infer import SVI, autoguide

from numpyro_sumo import SUMO
from numpyro_sumo.programs.per_datum import PerDatumWeights
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import LOC, NOISE
from tests.programs.one_model import PARAMS, SIZE, X, subsampled_guide, subsampled_model


def weights_of(model, guide, args, params=PARAMS, **options):
    return PerDatumWeights(random.key(0), Programs(model, guide, params, args), **options)


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
    indices = np.asarray(apart.elements.indices[0])
    assert set(indices) == set(np.asarray(together.indices["data"]))


def test_every_estimate_has_its_own_subsample():
    weights = weights_of(subsampled_model, subsampled_guide, (X,), num_estimates=3)
    assert weights.num_data == 3 * SIZE
    indices = np.asarray(weights.elements.indices)
    assert len({tuple(np.sort(row)) for row in indices}) == 3
    of_data = jnp.arange(3 * SIZE)
    np.testing.assert_array_equal(weights.by_estimate(of_data), of_data.reshape(3, SIZE))


def test_local_parameters_of_an_autoguide_follow_the_elements():
    guide = autoguide.AutoNormal(subsampled_model, create_plates=create_plates)
    svi = SVI(subsampled_model, guide, optax.sgd(1.0), SUMO(2))
    params = jax.jit(lambda key: svi.get_params(svi.init(key, X)))(random.key(0))
    weights = weights_of(subsampled_model, guide, (X,), params)
    assert weights.num_data == SIZE
    chosen = np.asarray(weights.elements.indices[0])

    def weight(loc, datum):
        moved = weights_of(subsampled_model, guide, (X,), {**params, "z_auto_loc": loc})
        return moved.weigh(datum, random.key(3), moved.propose(datum, random.key(2)))

    slope = jax.jit(jax.vmap(jax.grad(weight), in_axes=(None, 0)))
    slopes = slope(params["z_auto_loc"], jnp.arange(SIZE, dtype=jnp.int32))
    np.testing.assert_array_equal(np.argwhere(np.asarray(slopes))[:, 1], chosen)


def create_plates(x):
    return numpyro.plate("data", len(x), subsample_size=SIZE)


# Programs that cannot be run for one element


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


def model_scaled_by_its_length(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE) as index:
        with scale(scale=1 / len(x[index])):
            z = numpyro.sample("z", dist.Normal(LOC, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=x[index])


def model_that_looks_at_its_length(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE) as index:
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x[index])
        if len(index) == 1:
            numpyro.factor("alone", jnp.zeros(1))


def misfit(site):
    return f"site '{site}' does not have the shape and scale of one element"


WHOLE = {
    "a_scale_by_the_length": (model_scaled_by_its_length, misfit("z")),
    "another_site_for_one": (model_that_looks_at_its_length, misfit("alone")),
    "data_that_do_not_follow": (model_of_the_first, misfit("x")),
    "a_mask_that_does_not_follow": (model_with_a_mask, misfit("x")),
    "mutable_state": (model_with_mutable_state, "the programs have mutable state"),
}


@pytest.mark.parametrize("model, why", WHOLE.values(), ids=WHOLE.keys())
def test_programs_that_do_not_follow_the_plate_are_run_as_they_are_and_say_why(model, why):
    weights = weights_of(model, subsampled_guide, (X,))
    assert weights.num_data == 1
    expected = f"the {SIZE} elements of plate 'data' share one: {why}"
    assert re.fullmatch(expected, weights.elements.why_shared)
