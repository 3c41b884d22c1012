"""Model and guide run for one element at a time: the same weights, and stopping times apart."""

from dataclasses import replace

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

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO, ReverseKL, log_evidence
from numpyro_sumo.programs.per_datum import Inputs, Weighing
from tests.helpers.compiling import quick_jit
from tests.helpers.models import LOC, NOISE, plated_problem, posterior
from tests.helpers.models import log_evidence as exact_log_evidence
from tests.helpers.statistics import assert_mean

X = plated_problem(12).args[0]
SIZE = 5

# Three ways of writing one model and its guide


def subsampled_model(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=numpyro.subsample(x, event_dim=0))


def subsampled_guide(x):
    with numpyro.plate("data", len(x), subsample_size=SIZE):
        mean, sd = posterior(numpyro.subsample(x, event_dim=0))
        numpyro.sample("z", dist.Normal(mean + numpyro.param("shift", 0.3), sd))


def model_of_a_batch(x, full_size=None):
    with numpyro.plate("data", full_size or len(x), subsample_size=len(x)):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def guide_of_a_batch(x, full_size=None):
    mean, sd = posterior(x)
    with numpyro.plate("data", full_size or len(x), subsample_size=len(x)):
        numpyro.sample("z", dist.Normal(mean + numpyro.param("shift", 0.3), sd))


def model_of_a_datum(x):
    z = numpyro.sample("z", dist.Normal(numpyro.param("loc", LOC), 1.0))
    numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def guide_of_a_datum(x):
    mean, sd = posterior(x)
    numpyro.sample("z", dist.Normal(mean + numpyro.param("shift", 0.3), sd))


PARAMS = {"loc": jnp.array(LOC), "shift": jnp.array(0.3)}
EXACT = {"loc": jnp.array(LOC), "shift": jnp.array(0.0)}


def weighing_of(model, guide, args, num_estimates=1, **options):
    inputs = Inputs(PARAMS, args, {})
    return Weighing(random.key(0), model, guide, inputs, num_estimates=num_estimates, **options)


def test_an_element_of_a_subsampled_plate_weighs_what_it_weighs_in_the_whole():
    """At one and the same draw; the guide's own draws differ, for each element has its keys."""
    inputs = Inputs(PARAMS, (X,), {})
    whole = weighing_of(subsampled_model, subsampled_guide, (X,), one_by_one=False)
    apart = weighing_of(subsampled_model, subsampled_guide, (X,))
    assert (whole.num_data, apart.num_data) == (1, SIZE)
    together = whole.propose(0, random.key(1), inputs)
    expected = whole.weigh(0, random.key(2), together, inputs)
    for element in range(SIZE):
        one = apart.propose(jnp.array(element), random.key(1), inputs)
        z = together.values["z"][element : element + 1]
        log_density = together.log_density[element : element + 1]
        one = replace(one, values={"z": z}, log_density=log_density)
        weight = apart.weigh(jnp.array(element), random.key(2), one, inputs)
        np.testing.assert_allclose(weight, expected[element], rtol=1e-5)
    np.testing.assert_allclose(apart.scale(inputs), np.full(SIZE, 12 / SIZE), rtol=1e-6)
    assert set(np.asarray(apart.indices[0])) == set(np.asarray(together.indices["data"]))


def exact_loss(x, scale=1.0):
    sd = (1.0 + NOISE**2) ** 0.5
    return lambda loc: -scale * jnp.sum(dist.Normal(loc, sd).log_prob(x))


FIVE = X[:SIZE]
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
    estimates = lambda key: loss.estimates(key, EXACT, model, guide, args, {}, 3)
    values, scales = quick_jit(estimates)(random.key(0))
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
    [*((SUMO, way) for way in WAYS), (MultilevelSUMO, "a_batch_of_more")],
)
def test_elements_one_at_a_time_have_the_right_mean_and_gradient(loss_class, way):
    model, guide, args, options, _, exact = WAYS[way]
    loss = loss_class(2, **options)

    def at_key(key):
        of_loc = lambda loc: loss.loss(key, {**PARAMS, "loc": loc}, model, guide, *args)
        return jax.value_and_grad(of_loc)(PARAMS["loc"])

    keys = random.split(random.key(1), 4_000)
    values, gradients = quick_jit(lambda keys: jax.lax.map(at_key, keys, batch_size=200))(keys)
    assert_mean(values, exact(PARAMS["loc"]))
    assert_mean(gradients, jax.grad(exact)(PARAMS["loc"]))


@pytest.mark.parametrize("way", ["a_batch", "single_data"])
def test_a_fixed_number_of_draws_may_be_split_too(way):
    model, guide, args, options, _, exact = WAYS[way]
    value = quick_jit(lambda key: IWELBO(2, **options).loss(key, EXACT, model, guide, *args))
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

    estimates = lambda key: SUMO(2).estimates(key, {}, model, guide, (table,), {}, 2)
    values, scales = quick_jit(estimates)(random.key(0))
    assert values.shape == scales.shape == (2, 3, 2)
    np.testing.assert_allclose(scales, 2.0)
    rows = np.asarray(exact_log_evidence(table))
    for row in np.asarray(values).reshape(6, 2):
        assert np.abs(rows - row).sum(axis=1).min() < 1e-4


def test_local_parameters_of_an_autoguide_follow_the_elements():
    guide = autoguide.AutoNormal(subsampled_model, create_plates=create_plates)
    svi = SVI(subsampled_model, guide, optax.sgd(1.0), SUMO(2))
    params = quick_jit(lambda key: svi.get_params(svi.init(key, X)))(random.key(0))
    inputs = Inputs(params, (X,), {})
    weighing = Weighing(random.key(1), subsampled_model, guide, inputs)
    assert weighing.num_data == SIZE
    chosen = np.asarray(weighing.indices[0])

    def weight(loc, datum):
        inputs = Inputs({**params, "z_auto_loc": loc}, (X,), {})
        proposal = weighing.propose(datum, random.key(2), inputs)
        return weighing.weigh(datum, random.key(3), proposal, inputs)

    slope = quick_jit(jax.vmap(jax.grad(weight), in_axes=(None, 0)))
    slopes = slope(params["z_auto_loc"], jnp.arange(SIZE))
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


WHOLE = {
    "a_scale_by_the_length": model_scaled_by_its_length,
    "another_site_for_one": model_that_looks_at_its_length,
    "data_that_do_not_follow": model_of_the_first,
    "a_mask_that_does_not_follow": model_with_a_mask,
    "mutable_state": model_with_mutable_state,
}


@pytest.mark.parametrize("model", WHOLE.values(), ids=WHOLE.keys())
def test_programs_that_do_not_follow_the_plate_are_run_as_they_are(model):
    assert weighing_of(model, subsampled_guide, (X,)).num_data == 1


def test_stopping_times_are_shared_if_so_wished():
    """For programs whose elements look at each other, which nothing else can tell."""

    def model(x):
        with numpyro.plate("data", len(x), subsample_size=SIZE) as index:
            centred = x[index] - x[index].mean()
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=centred)

    def guide(x):
        with numpyro.plate("data", len(x), subsample_size=SIZE) as index:
            centred = x[index] - x[index].mean()
            mean, sd = posterior(centred, 0.0)
            numpyro.sample("z", dist.Normal(mean, sd))

    loss = SUMO(2, share_stopping_times=True)
    whole = quick_jit(lambda key: loss.loss(key, {}, model, guide, X))(random.key(0))
    bound = quick_jit(lambda key: IWELBO(2).loss(key, {}, model, guide, X))(random.key(0))
    np.testing.assert_allclose(whole, bound, rtol=1e-5)


def test_a_guide_without_the_plate_of_the_model_is_run_as_it_is():
    def model(x):
        with numpyro.plate("data", len(x), subsample_size=SIZE):
            numpyro.sample("x", dist.Normal(LOC, NOISE), obs=numpyro.subsample(x, event_dim=0))

    value = SUMO(2).loss(random.key(0), {}, model, lambda x: None, X)
    assert np.isfinite(value)


def test_local_parameters_follow_a_plate_as_long_as_the_data():
    """The model's plate is as long as what it is given, the AutoGuide's as the data were."""

    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(LOC, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=x)

    guide = autoguide.AutoNormal(model)
    state = SVI(model, guide, optax.sgd(1.0), IWELBO(2)).init(random.key(0), FIVE)
    mean, sd = posterior(FIVE)
    params = {"z_auto_loc": mean, "z_auto_scale": jnp.broadcast_to(sd, mean.shape)}
    del state
    value = quick_jit(lambda key: SUMO(2, data_axes=0).loss(key, params, model, guide, FIVE))
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
    run = quick_jit(lambda key: loss.estimates(key, {}, model, guide, (rows,), {}, 2)[0])
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


REFUSED = {
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
        r"to name an axis of some positional argument; got \(None,\) for 1 of them. Give",
    ),
    "a_global_latent": (
        (model_with_a_global_latent, guide_of_a_global_latent, (X,), 0),
        "plate 'data', over what data_axes splits, to enclose every sample site",
    ),
    "a_plate_of_constant_size": (
        (model_of_a_plate_of_twelve, guide_of_a_global_latent, (X,), 0),
        "plate 'data', over what data_axes splits, to enclose every sample site",
    ),
    "a_scale_by_the_length": (
        (model_of_a_scaled_batch, guide_of_a_scaled_batch, (X,), 0),
        "follow it; 'z' does not. Split all arguments .* and scale by no number of them",
    ),
    "a_subsampled_plate": (
        (subsampled_rows, guide_of_subsampled_rows, (X.reshape(6, 2).repeat(3, 1),), 0),
        "no subsampled plate over what data_axes splits; 'rows' is. Leave data_axes out",
    ),
    "no_data": (
        (model_of_a_batch, guide_of_a_batch, (X[:0],), 0),
        "Expected data in what data_axes splits; got none. Pass at least one",
    ),
    "half_of_the_data": (
        (pair_model, pair_guide, (X, X), (0, None)),
        "plate 'data', whose 12 elements data_axes splits, to follow it; 'y' does not. Split",
    ),
    "mutable_state": (
        (model_with_mutable_state, subsampled_guide, (X,), 0),
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
    run = quick_jit(lambda key: loss.estimates(key, {}, model, guide, args, {}, 2)[0])
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
