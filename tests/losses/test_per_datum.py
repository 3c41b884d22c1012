"""Losses in which each element of the data has its own draws and its own stopping time."""

import numpy as np
import pytest

import jax
from jax import random

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.programs.programs import Programs
from tests.helpers.compiling import optimising_jit
from tests.helpers.models import LOC, NOISE, posterior
from tests.helpers.models import log_evidence as exact_log_evidence
from tests.helpers.statistics import assert_mean
from tests.programs.one_model import (
    EXACT,
    FIVE,
    PARAMS,
    SIZE,
    X,
    exact_loss,
    guide_of_a_batch,
    guide_of_a_datum,
    model_of_a_batch,
    model_of_a_datum,
    subsampled_guide,
    subsampled_model,
)

#: Model, guide, arguments, options of the loss, what multiplies the estimates, expected loss.
WAYS = {
    "a_subsampled_plate": (subsampled_model, subsampled_guide, (X,), {}, 12 / SIZE, exact_loss(X)),
    "a_batch": (
        model_of_a_batch,
        guide_of_a_batch,
        (FIVE,),
        {"data_axes": 0},
        1.0,
        exact_loss(FIVE),
    ),
    "a_batch_of_more": (
        model_of_a_batch,
        guide_of_a_batch,
        (FIVE, 12),
        {"data_axes": (0, None)},
        12 / SIZE,
        exact_loss(FIVE, 12 / SIZE),
    ),
    "single_data": (
        model_of_a_datum,
        guide_of_a_datum,
        (FIVE,),
        {"data_axes": 0},
        1.0,
        exact_loss(FIVE),
    ),
}
every_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())


@every_way
def test_the_posterior_as_guide_gives_every_element_its_evidence(way):
    model, guide, args, options, scale, exact = way
    loss = SUMO(2, **options)
    estimates = lambda key: loss.sample_estimates(key, Programs(model, guide, EXACT, args), 3)
    values, scales = jax.jit(estimates)(random.key(0))
    assert values.shape == scales.shape == (3, SIZE)
    np.testing.assert_allclose(scales, scale, rtol=1e-6)
    known = np.asarray(exact_log_evidence(args[0]))
    if options:
        np.testing.assert_allclose(values, np.broadcast_to(known, (3, SIZE)), rtol=1e-5)
    else:
        nearest = np.abs(np.asarray(values)[..., None] - known)
        assert nearest.min(axis=-1).max() < 1e-4
        assert len({tuple(np.sort(row)) for row in nearest.argmin(axis=-1)}) == 3


@pytest.mark.parametrize(
    "loss_class, way",
    [
        (SUMO, "a_subsampled_plate"),
        (SUMO, "a_batch_of_more"),
        (SUMO, "single_data"),
        (MultilevelSUMO, "a_batch_of_more"),
    ],
)
def test_elements_one_at_a_time_have_the_right_mean_and_gradient(loss_class, way):
    model, guide, args, options, _, exact = WAYS[way]
    loss = loss_class(2, **options)

    def at_key(key):
        of_loc = lambda loc: loss.loss(key, {**PARAMS, "loc": loc}, model, guide, *args)
        return jax.value_and_grad(of_loc)(PARAMS["loc"])

    keys = random.split(random.key(1), 4_000)
    values, gradients = optimising_jit(lambda keys: jax.lax.map(at_key, keys, batch_size=200))(keys)
    assert_mean(values, exact(PARAMS["loc"]))
    assert_mean(gradients, jax.grad(exact)(PARAMS["loc"]))


@pytest.mark.parametrize("way", ["a_batch", "single_data"])
def test_a_fixed_number_of_draws_may_be_split_too(way):
    model, guide, args, options, _, exact = WAYS[way]
    value = jax.jit(lambda key: IWELBO(2, **options).loss(key, EXACT, model, guide, *args))
    np.testing.assert_allclose(value(random.key(0)), exact(LOC), rtol=1e-5)


def test_elements_of_nested_plates_keep_the_order_of_the_plates():
    table = X.reshape(6, 2)

    def model(values):
        with numpyro.plate("rows", 6, subsample_size=3, dim=-2):
            batch = numpyro.subsample(values, event_dim=0)
            with numpyro.plate("columns", 2, dim=-1):
                z = numpyro.sample("z", dist.Normal(LOC, 1.0))
                numpyro.sample("x", dist.Normal(z, NOISE), obs=batch)

    def guide(values):
        with numpyro.plate("rows", 6, subsample_size=3, dim=-2):
            mean, sd = posterior(numpyro.subsample(values, event_dim=0))
            with numpyro.plate("columns", 2, dim=-1):
                numpyro.sample("z", dist.Normal(mean, sd))

    programs = Programs(model, guide, args=(table,))
    estimates = lambda key: SUMO(2).sample_estimates(key, programs, 2)
    values, scales = jax.jit(estimates)(random.key(0))
    assert values.shape == scales.shape == (2, 3, 2)
    np.testing.assert_allclose(scales, 2.0)
    rows = np.asarray(exact_log_evidence(table))
    for row in np.asarray(values).reshape(6, 2):
        assert np.abs(rows - row).sum(axis=1).min() < 1e-4
