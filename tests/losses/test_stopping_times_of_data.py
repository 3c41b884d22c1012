"""Which programs are run for one element at a time, how often they are traced, and the warnings."""

import warnings

from flax import linen as nn
import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.infer import SVI

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO, log_evidence
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import plated, plated_posterior, plated_problem
from tests.helpers.weights import weights_of_programs
from tests.programs.one_model import (
    PARAMS,
    SIZE,
    X,
    guide_of_a_batch,
    model_of_a_batch,
    subsampled_guide,
    subsampled_model,
)

WITH_STOPPING_TIMES = {"sumo": SUMO, "multilevel": MultilevelSUMO}
every_class = pytest.mark.parametrize(
    "loss_class", WITH_STOPPING_TIMES.values(), ids=WITH_STOPPING_TIMES.keys()
)


def value_of(loss, model, guide, args, params=PARAMS, **kwargs):
    evaluate = lambda key: loss.loss(key, params, model, guide, *args, **kwargs)
    return float(jax.jit(evaluate)(random.key(3)))


# How often programs are run while a step is compiled


def calls_of_a_step(loss, model, guide, *args):
    """How often the model and the guide are called while one update is traced."""
    calls = {"model": 0, "guide": 0}

    def counted(name, program):
        def call(*args):
            calls[name] += 1
            program(*args)

        return call

    svi = SVI(counted("model", model), counted("guide", guide), optax.adam(1e-2), loss)
    state = jax.eval_shape(svi.init, random.key(0), *args)
    calls.update(model=0, guide=0)
    jax.eval_shape(svi.update, state, *args)
    return calls


APART = {
    "sumo": SUMO(),
    "sumo_variance": SUMO(guide_objective="variance"),
    "sumo_standard": SUMO(gradient="standard"),
    "sumo_in_chunks": SUMO(chunk_size=4),
    "multilevel": MultilevelSUMO(),
}


@pytest.mark.parametrize("loss", APART.values(), ids=APART.keys())
def test_programs_whose_elements_are_run_apart_are_called_once(loss):
    found = calls_of_a_step(loss, subsampled_model, subsampled_guide, X)
    assert found == {"model": 1, "guide": 1}


CALLED_ONCE = {
    "iwelbo_of_a_subsampled_plate": (IWELBO(), subsampled_model, subsampled_guide),
    "iwelbo_standard": (IWELBO(gradient="standard"), subsampled_model, subsampled_guide),
    "shared": (SUMO(share_stopping_times=True), subsampled_model, subsampled_guide),
    "whole_plate": (MultilevelSUMO(share_stopping_times=True), plated, plated_posterior),
    "no_plate": (SUMO(), lambda x: numpyro.sample("z", dist.Normal()), None),
}


@pytest.mark.parametrize("loss, model, guide", CALLED_ONCE.values(), ids=CALLED_ONCE.keys())
def test_other_programs_are_called_once(loss, model, guide):
    assert calls_of_a_step(loss, model, guide or model, X) == {"model": 1, "guide": 1}


# Programs whose elements see each other


def centred(x):
    return x - x.mean()


def flat(x):
    return x


def model_by(change):
    """A model whose likelihood is of a function of the draws of a batch."""

    def model(x):
        with numpyro.plate("d", len(x), subsample_size=SIZE):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            batch = numpyro.subsample(x, event_dim=0)
            numpyro.sample("x", dist.Normal(change(z), 0.7), obs=batch)

    return model


def guide_by(change):
    """A guide that sees a function of the data of a batch."""

    def guide(x):
        with numpyro.plate("d", len(x), subsample_size=SIZE):
            batch = numpyro.subsample(x, event_dim=0)
            numpyro.sample("z", dist.Normal(0.5 * change(batch), 0.8))

    return guide


def batch_norm(batch):
    net = nn.BatchNorm(use_running_average=False)
    return net.init_with_output(random.key(0), batch[:, None])[0][:, 0]


def batch_norm_with_state(batch):
    net = nn.BatchNorm(use_running_average=False)
    return flax_module("net", net, input_shape=(1,), mutable=["batch_stats"])(batch[:, None])[:, 0]


LOOKING_ACROSS = {
    "mean_of_draws": (centred, flat, "the model has reduce_sum across the elements"),
    "softmax_of_draws": (jax.nn.softmax, flat, "the model has reduce_sum across the elements"),
    "batch_norm_of_draws": (batch_norm, flat, "the model has reduce_sum across the elements"),
    "draws_in_order": (jnp.sort, flat, "the model has sort across the elements"),
}


@pytest.mark.parametrize(
    "loss_class, name",
    [*((SUMO, name) for name in LOOKING_ACROSS), (MultilevelSUMO, "mean_of_draws")],
)
def test_programs_that_look_across_their_batch_share_a_stopping_time_and_say_why(loss_class, name):
    of_z, of_x, why = LOOKING_ACROSS[name]
    programs = model_by(of_z), guide_by(of_x), (X,)
    message = (
        "Expected a stopping time for each element of the data; the 5 elements of plate 'd' share "
        f"one: {why}.*pass share_stopping_times=True"
    )
    with pytest.warns(UserWarning, match=message) as caught:
        found = value_of(loss_class(2), *programs)
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    assert found == value_of(loss_class(2, share_stopping_times=True), *programs)


def test_batch_statistics_that_are_state_share_a_stopping_time_and_say_why():
    model, guide = model_by(flat), guide_by(batch_norm_with_state)

    def first_loss(loss):
        svi = SVI(model, guide, optax.adam(1e-2), loss)
        return svi.update(svi.init(random.key(0), X), X)[1]

    with pytest.warns(UserWarning, match="share one: the programs have mutable state"):
        found = jax.jit(lambda: first_loss(SUMO(2)))()
    assert found == jax.jit(lambda: first_loss(SUMO(2, share_stopping_times=True)))()


FOLLOWING = {
    "mean_of_the_data": (flat, centred),
    "batch_norm_of_the_data": (flat, batch_norm),
    "length_as_a_number": (flat, lambda batch: batch / len(batch)),
    "position_in_the_batch": (lambda z: z + 0.1 * jnp.arange(len(z)), flat),
    "shape_as_a_number": (flat, lambda batch: jnp.reshape(batch, (SIZE,))),
    "elementwise": (flat, flat),
    "nonlinear": (jnp.tanh, lambda batch: jax.nn.softplus(batch) - 1.0),
    "constants": (lambda z: z + jnp.full(z.shape, 0.3), lambda batch: batch * 2.0),
    "another_axis": (lambda z: jnp.stack([z, -z]).max(0), flat),
}


@pytest.mark.parametrize(
    "loss_class, name",
    [*((SUMO, name) for name in FOLLOWING), (MultilevelSUMO, "mean_of_the_data")],
)
def test_programs_that_do_not_are_run_apart_without_a_warning(loss_class, name, monkeypatch):
    numbers, sample = [], loss_class.sample_stopping_times
    monkeypatch.setattr(
        loss_class,
        "sample_stopping_times",
        lambda self, key, number: numbers.append(number) or sample(self, key, number),
    )
    of_z, of_x = FOLLOWING[name]
    model, guide = model_by(of_z), guide_by(of_x)
    apart = value_of(loss_class(2), model, guide, (X,))
    assert numbers == [SIZE] and np.isfinite(apart)
    shared = loss_class(2, share_stopping_times=True)
    if name == "mean_of_the_data":
        assert apart != value_of(shared, model, guide, (X,))
    else:  # the number of stopping times says it, and is known without compiling
        of_key = lambda key: shared.loss(key, PARAMS, model, guide, X)
        jax.eval_shape(of_key, random.key(3))
    assert numbers == [SIZE, 1]
    weights = weights_of_programs(Programs(model, guide, args=(X,)))
    assert weights.num_data == SIZE and weights.elements.why_shared is None


# Whole plates

WHOLE = plated_problem(4)


@every_class
def test_each_element_of_a_whole_plate_has_its_own_stopping_time(loss_class):
    apart = value_of(loss_class(2), *WHOLE[:3], WHOLE.params)
    assert apart == value_of(loss_class(2, data_axes=0), *WHOLE[:3], WHOLE.params)
    assert apart != value_of(loss_class(2, share_stopping_times=True), *WHOLE[:3], WHOLE.params)


MIXING = model_by(jax.nn.softmax), guide_by(flat), (X,)


@every_class
def test_the_warning_names_the_place_that_calls_the_loss(loss_class):
    with pytest.warns(UserWarning, match="share one") as caught:
        value_of(loss_class(2), *MIXING)
    assert caught[0].filename == __file__


def test_it_is_given_once_in_a_run_of_svi():
    svi = SVI(*MIXING[:2], optax.adam(1e-2), SUMO(2))
    # Warnings are given while a run is traced, so that it need not be compiled.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(2):
            run = lambda key: svi.run(key, 3, X, progress_bar=False)
            jax.eval_shape(run, random.key(0))
    assert ["share one" in str(each.message) for each in caught] == [True]


@every_class
def test_data_axes_need_no_warning(loss_class):
    value_of(loss_class(2, data_axes=0), model_of_a_batch, guide_of_a_batch, (X,))


def test_a_plate_of_one_element_shares_with_nothing():
    value_of(SUMO(2), model_of_a_batch, guide_of_a_batch, (X[:1],))


def test_a_fixed_number_of_draws_is_never_warned_of():
    value_of(IWELBO(2), *WHOLE[:3], WHOLE.params)
    value_of(IWELBO(2), model_by(flat), guide_by(centred), (X,))


@every_class
def test_estimates_and_evidence_of_a_whole_plate_are_not_warned_of(loss_class):
    programs = Programs(WHOLE.model, WHOLE.guide, WHOLE.params, WHOLE.args)
    loss = loss_class(2)
    jax.jit(lambda key: loss.sample_estimates(key, programs, 3))(random.key(0))
    log_evidence(
        random.key(0),
        WHOLE.model,
        WHOLE.guide,
        WHOLE.params,
        *WHOLE.args,
        estimator=loss,
        num_estimates=10,
        progress_bar=False,
    )
