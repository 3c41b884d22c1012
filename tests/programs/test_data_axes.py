"""Arguments split along ``data_axes``: what is run for one element, and what is refused."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import scale, seed
from numpyro.infer import autoguide

from numpyro_sumo import IWELBO, SUMO, ReverseKL, log_evidence
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import LOC, NOISE, posterior
from tests.helpers.models import log_evidence as exact_log_evidence
from tests.programs.one_model import (
    FIVE,
    PARAMS,
    SIZE,
    X,
    exact_loss,
    guide_of_a_batch,
    guide_of_a_datum,
    model_of_a_batch,
    model_of_a_datum,
)


def test_local_parameters_follow_a_plate_as_long_as_the_data():
    """The model's plate is as long as what it is given, the AutoGuide's as the data were."""

    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(LOC, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=x)

    guide = autoguide.AutoNormal(model)
    seed(guide, 0)(FIVE)
    mean, sd = posterior(FIVE)
    params = {"z_auto_loc": mean, "z_auto_scale": jnp.broadcast_to(sd, mean.shape)}
    value = jax.jit(lambda key: SUMO(2, data_axes=0).loss(key, params, model, guide, FIVE))
    np.testing.assert_allclose(value(random.key(0)), exact_loss(FIVE)(LOC), rtol=1e-5)


@pytest.mark.parametrize("length", [4, 6])
def test_a_plate_within_the_data_may_be_as_long_as_the_batch(length):
    rows = jnp.linspace(-1.0, 1.0, 6 * length).reshape(length, 6)

    def model(row):
        with numpyro.plate("columns", 6):
            z = numpyro.sample("z", dist.Normal(LOC, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=row)

    def guide(row):
        with numpyro.plate("columns", 6):
            numpyro.sample("z", dist.Normal(*posterior(row)))

    loss = SUMO(2, data_axes=0)
    programs = Programs(model, guide, args=(rows,))
    run = jax.jit(lambda key: loss.sample_estimates(key, programs, 2)[0])
    estimates = run(random.key(0))
    expected = np.broadcast_to(exact_log_evidence(rows), (2, length, 6))
    np.testing.assert_allclose(estimates, expected, rtol=1e-5)


def model_of_a_plate_of_twelve(x):
    loc = numpyro.sample("loc", dist.Normal())
    with numpyro.plate("data", 12):
        numpyro.sample("x", dist.Normal(loc, NOISE), obs=x)


def model_of_a_scaled_batch(x):
    with scale(scale=100 / len(x)):
        model_of_a_batch(x)


def guide_of_a_scaled_batch(x):
    with scale(scale=100 / len(x)):
        guide_of_a_batch(x)


def subsampled_rows(rows):
    with numpyro.plate("rows", len(rows), subsample_size=2):
        z = numpyro.sample("z", dist.Normal())
        batch = numpyro.subsample(rows, event_dim=1)
        numpyro.sample("x", dist.Normal(z[..., None], 1.0).to_event(1), obs=batch)


def guide_of_subsampled_rows(rows):
    with numpyro.plate("rows", len(rows), subsample_size=2):
        numpyro.sample("z", dist.Normal())


def model_with_mutable_state(x):
    numpyro.primitives.mutable("state", jnp.zeros(()))
    model_of_a_batch(x)


def model_with_a_global_latent(x):
    loc = numpyro.sample("loc", dist.Normal())
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(loc, NOISE), obs=x)


def guide_of_a_global_latent(x):
    numpyro.sample("loc", dist.Normal())


def pair_model(x, y):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x)
        numpyro.sample("y", dist.Normal(z, NOISE), obs=y)


def pair_guide(x, y):
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(x, 1.0))


def model_of_a_batch_of_twelve(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("x", dist.Normal(z + jnp.zeros(12), NOISE), obs=x)


def guide_of_a_batch_of_twelve(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(jnp.reshape(x, (12,)), 1.0))


def guide_centred_by_the_mean(x):
    guide_of_a_batch(x - x.mean())


def model_of_neighbours(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z + jnp.roll(z, 1), NOISE), obs=x)


WHOLE_NUMBERS = {
    "a_length_in_the_model": (model_of_a_batch_of_twelve, guide_of_a_batch, (X,), 0),
    "a_shape_in_the_guide": (model_of_a_batch, guide_of_a_batch_of_twelve, (X,), 0),
    "half_of_the_data": (pair_model, pair_guide, (X, X), (0, None)),
    "a_scale_by_the_length": (model_of_a_scaled_batch, guide_of_a_scaled_batch, (X,), 0),
}


@pytest.mark.parametrize("case", WHOLE_NUMBERS.values(), ids=WHOLE_NUMBERS.keys())
def test_lengths_and_arrays_of_the_batch_are_those_of_the_program_as_it_is_written(case):
    """At a fixed number of draws the bound of each element is that of a run for all elements."""
    model, guide, args, data_axes = case
    programs = Programs(model, guide, PARAMS, args)

    def estimates(axes):
        loss = IWELBO(1, data_axes=axes)
        values, scales = loss.sample_estimates(random.key(0), programs, 4_000)
        return values * scales

    run = jax.jit(estimates, static_argnums=0)
    apart, together = (np.asarray(run(axes)) for axes in (data_axes, None))
    difference = apart.mean(0) - together.mean(0)
    error = np.sqrt((apart.var(0) + together.var(0)) / 4_000)
    assert np.all(np.abs(difference) < 4.5 * error)
    np.testing.assert_allclose(apart.std(0), together.std(0), rtol=0.2)


REFUSED = {
    "a_mean_of_the_data": (
        (model_of_a_batch, guide_centred_by_the_mean, (X,), 0),
        "do not look across the 12 elements of plate 'data', which data_axes splits; the guide has "
        "reduce_sum across the elements. Split all arguments .* or leave data_axes out",
    ),
    "neighbouring_draws": (
        (model_of_neighbours, guide_of_a_batch, (X,), 0),
        "which data_axes splits; the model has concatenate across the elements",
    ),
    "another_structure": (
        (model_of_a_batch, guide_of_a_batch, (X,), (0, None)),
        r"shaped as the 1 positional arguments, .* got \(0, None\). Give an integer or None",
    ),
    "no_such_axis": (
        (model_of_a_batch, guide_of_a_batch, (X,), 1),
        r"args\[0\] to have an axis 1, as data_axes says; its shape is \(12,\). Give None",
    ),
    "a_number": (
        (model_of_a_batch, guide_of_a_batch, (X, 12), 0),
        r"args\[1\] to have an axis 0, .* its shape is \(\). Give None",
    ),
    "not_an_integer": (
        (model_of_a_batch, guide_of_a_batch, (X,), "rows"),
        r"data_axes of integers and None; got 'rows' for args\[0\]. Give the axis",
    ),
    "two_lengths": (
        (pair_model, pair_guide, (X, X[:7]), 0),
        r"to have one length; got 12 in args\[0\], 7 in args\[1\]. Pass as many",
    ),
    "nothing": (
        (model_of_a_batch, guide_of_a_batch, (X,), (None,)),
        r"to name an axis of some positional argument; got \(None,\) for 1 of them. Pass",
    ),
    "a_global_latent": (
        (model_with_a_global_latent, guide_of_a_global_latent, (X,), 0),
        "plate 'data', over what data_axes splits, to enclose every sample site",
    ),
    "a_plate_of_constant_size": (
        (model_of_a_plate_of_twelve, guide_of_a_global_latent, (X,), 0),
        "plate 'data', over what data_axes splits, to enclose every sample site",
    ),
    "a_subsampled_plate": (
        (subsampled_rows, guide_of_subsampled_rows, (X.reshape(6, 2).repeat(3, 1),), 0),
        "no subsampled plate over what data_axes splits; 'rows' is. Leave data_axes out",
    ),
    "no_data": (
        (model_of_a_batch, guide_of_a_batch, (X[:0],), 0),
        "Expected data in what data_axes splits; got none. Pass at least one",
    ),
    "mutable_state": (
        (model_with_mutable_state, guide_of_a_batch, (X,), 0),
        "without mutable state, for data_axes runs them for one element at a time. Leave",
    ),
}


@pytest.mark.parametrize("case, message", REFUSED.values(), ids=REFUSED.keys())
def test_axes_that_do_not_match_are_refused_in_one_line(case, message):
    model, guide, args, data_axes = case
    with pytest.raises(ValueError, match=message) as error:
        SUMO(2, data_axes=data_axes).loss(random.key(0), PARAMS, model, guide, *args)
    assert "\n" not in str(error.value)


def test_axes_have_no_place_inside_reverse_kl():
    with pytest.raises(ValueError, match="no data_axes inside ReverseKL, .* Leave data_axes out"):
        ReverseKL(SUMO(2, data_axes=0))


def test_axes_may_be_a_tree_and_count_from_the_end():
    args = ({"x": X.reshape(1, 12)[:, :SIZE], "noise": NOISE},)

    def model(data):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, data["noise"]).expand([1]), obs=data["x"])

    def guide(data):
        mean, sd = posterior(data["x"][0])
        numpyro.sample("z", dist.Normal(mean, sd))

    loss = SUMO(2, data_axes=({"x": -1, "noise": None},))
    programs = Programs(model, guide, args=args)
    run = jax.jit(lambda key: loss.sample_estimates(key, programs, 2)[0])
    estimates = run(random.key(0))
    expected = np.broadcast_to(exact_log_evidence(FIVE), (2, SIZE))
    np.testing.assert_allclose(estimates, expected, rtol=1e-5)


def test_log_evidence_is_by_datum_where_arguments_are_split():
    evidence = log_evidence(
        random.key(0),
        model_of_a_datum,
        guide_of_a_datum,
        PARAMS,
        FIVE,
        estimator=SUMO(8, data_axes=0),
        num_estimates=200,
        progress_bar=False,
    )
    assert evidence.per_datum.mean.shape == evidence.per_datum.pareto_k.shape == (SIZE,)
    off = evidence.per_datum.mean - np.asarray(exact_log_evidence(FIVE))
    assert np.all(np.abs(off) < 4 * evidence.per_datum.standard_error)
