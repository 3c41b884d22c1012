"""Weights that are zero, infinite, improper or not numbers."""

from functools import cache

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from tests.helpers.models import NOISE, plated_problem
from tests.helpers.statistics import assert_mean

#: Whole plates share a stopping time, which would be warned of.
LOSSES = {
    "iwelbo": IWELBO(3),
    "sumo": SUMO(3, share_stopping_times=True),
    "multilevel": MultilevelSUMO(2, share_stopping_times=True),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def at_keys(loss, params, model, guide, *args, num_keys=20):
    """The loss at several keys."""
    evaluate = lambda key: loss.loss(key, params, model, guide, *args)
    return jax.jit(jax.vmap(evaluate))(random.split(random.key(0), num_keys))


@every_loss
def test_improper_priors_are_densities_like_any_other(loss):
    """With a flat prior ∫ N(x; z, s) dz = 1, and the posterior of z is N(x, s)."""

    def model():
        z = numpyro.sample("z", dist.ImproperUniform(constraints.real, (), ()))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=0.8)

    def guide():
        numpyro.sample("z", dist.Normal(0.8, NOISE))

    np.testing.assert_allclose(at_keys(loss, {}, model, guide), 0.0, atol=1e-4)


def half_normal_by_factor(x):
    z = numpyro.sample("z", dist.Normal())
    numpyro.factor("half", jnp.where(z > x, 0.0, -jnp.inf))


def wide_normal(x):
    scale = numpyro.param("scale", 1.0)
    numpyro.sample("z", dist.Normal(0.0, scale))


#: Whole plates share a stopping time, which would be warned of.
SHARED = dict(share_stopping_times=True)
ZERO_WEIGHTS = {
    "iwelbo": IWELBO(40),
    "sumo": SUMO(40, **SHARED),
    "sumo_standard": SUMO(40, gradient="standard", **SHARED),
    "sumo_variance": SUMO(40, guide_objective="variance", **SHARED),
    "multilevel": MultilevelSUMO(40, **SHARED),
    "multilevel_variance": MultilevelSUMO(40, guide_objective="variance", **SHARED),
}
every_loss_of_many = pytest.mark.parametrize("loss", ZERO_WEIGHTS.values(), ids=ZERO_WEIGHTS.keys())


@cache
def of_half_a_normal(loss):
    """Maps 20 keys and a number to losses and gradients if draws below it have weight zero."""
    of_scale = lambda scale, key, x: loss.loss(
        key, {"scale": scale}, half_normal_by_factor, wide_normal, x
    )
    at_keys = jax.vmap(jax.value_and_grad(of_scale), (None, 0, None))
    return jax.jit(lambda keys, x: at_keys(1.0, keys, x))


@every_loss_of_many
def test_particles_of_weight_zero_count_as_zeros(loss):
    """P(z > 0) is a half; the bound over 40 draws is low by (1 − p)/(2 p 40) = 0.0125."""
    at_keys = of_half_a_normal(loss)
    keys = random.split(random.key(0), (50, 20))
    values, gradients = (np.concatenate(each) for each in zip(*(at_keys(k, 0.0) for k in keys)))
    assert np.all(np.isfinite(gradients))
    bias = 0.0125 if isinstance(loss, IWELBO) else 0.0
    assert_mean(values, np.log(2.0) + bias)


@every_loss_of_many
def test_no_weight_but_zeros_gives_an_infinite_loss_and_a_finite_gradient(loss):
    values, gradients = of_half_a_normal(loss)(random.split(random.key(0), 20), jnp.inf)
    assert np.all(values == jnp.inf)
    assert np.all(np.isfinite(gradients))


@every_loss_of_many
def test_a_weight_that_overflows_to_zero_sends_no_nan_back(loss):
    """log 0 is −∞ with an infinite derivative, and zero times that is NaN."""

    def model():
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
            numpyro.factor("half", jnp.log(jnp.maximum(z[..., 0], 0.0)))

    def guide():
        loc = numpyro.param("loc", jnp.zeros((3, 1)))
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Normal(loc, 1.0).expand([3, 2]).to_event(1))

    at = lambda key: jax.grad(lambda params: loss.loss(key, params, model, guide))(
        {"loc": jnp.zeros((3, 1))}
    )
    gradients = jax.jit(lambda keys: jax.lax.map(at, keys))(random.split(random.key(0), 20))
    assert np.all(np.isfinite(gradients["loc"]))
    assert np.all(np.abs(gradients["loc"]).max(axis=0) > 1e-3)


@every_loss
def test_nan_among_the_data_is_a_nan_loss(loss):
    problem = plated_problem(4)
    x = problem.args[0].at[2].set(jnp.nan)
    values = at_keys(loss, problem.params, problem.model, problem.guide, x)
    assert np.all(np.isnan(values))


@every_loss
def test_nan_in_one_weight_of_many_is_a_nan_loss(loss):
    """Where z > 0, which one draw of a few is bound to be."""

    def model():
        z = numpyro.sample("z", dist.Normal())
        numpyro.factor("tilt", jnp.sqrt(-z))

    guide = lambda: numpyro.sample("z", dist.Normal(3.0, 0.5))
    assert np.all(np.isnan(at_keys(loss, {}, model, guide)))


# Weights that are infinite

INFINITE_WEIGHTS = {
    "iwelbo": IWELBO(4),
    "iwelbo_standard": IWELBO(4, gradient="standard"),
    "iwelbo_in_chunks": IWELBO(4, chunk_size=2),
    "sumo": SUMO(4),
    "sumo_standard": SUMO(4, gradient="standard"),
    "sumo_variance": SUMO(4, guide_objective="variance"),
    "sumo_in_chunks": SUMO(4, chunk_size=2),
    "sumo_of_one": SUMO(1),
    "sumo_rotated": SUMO(2, rotations=2),
    "multilevel_of_one": MultilevelSUMO(1),
    "multilevel": MultilevelSUMO(2),
    "multilevel_standard": MultilevelSUMO(2, gradient="standard"),
    "multilevel_variance": MultilevelSUMO(2, guide_objective="variance"),
    "multilevel_in_chunks": MultilevelSUMO(2, chunk_size=2),
}


def model_with_infinite_density(above):
    """Its density is infinite where z > ``above``."""
    z = numpyro.sample("z", dist.Normal())
    numpyro.factor("f", jnp.where(z > above, jnp.inf, 0.0) * numpyro.param("positive", 1.0))
    numpyro.sample("x", dist.Normal(z, numpyro.param("noise", 0.9)), obs=0.5)


def normal_guide(above):
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))


@pytest.mark.parametrize("loss", INFINITE_WEIGHTS.values(), ids=INFINITE_WEIGHTS.keys())
def test_an_infinite_weight_gives_a_loss_of_minus_infinity_and_finite_gradients(loss):
    params = {"positive": jnp.array(1.0), "noise": jnp.array(0.9), "loc": jnp.array(0.1)}

    @jax.jit
    def at(keys, above):
        of_params = lambda params, key: loss.loss(
            key, params, model_with_infinite_density, normal_guide, above
        )
        return jax.lax.map(lambda key: jax.value_and_grad(of_params)(params, key), keys)

    keys = random.split(random.key(0), 12)
    finite, gradients = at(keys, jnp.inf)
    assert np.all(np.isfinite(finite))
    values, some_infinite = at(keys, 0.5)
    assert np.all((values == -np.inf) | np.isfinite(values)) and np.any(values == -np.inf)
    all_values, all_infinite = at(keys, -jnp.inf)
    assert np.all(all_values == -np.inf)
    for name in ("noise", "loc"):
        for found in (gradients, some_infinite, all_infinite):
            assert np.all(np.isfinite(found[name]))
        assert np.any(gradients[name] != 0.0)


def test_an_infinite_weight_of_one_datum_leaves_the_gradients_of_the_others_alone():
    offset = jnp.array([0.0, jnp.inf, 0.0])
    x = jnp.array([0.3, -0.2, 1.1])

    def model(offset):
        with numpyro.plate("data", 3):
            z = numpyro.sample("z", dist.Normal())
            numpyro.sample("x", dist.Normal(z, 0.8), obs=x)
            numpyro.factor("f", offset)

    def guide(offset):
        with numpyro.plate("data", 3):
            numpyro.sample("z", dist.Normal(numpyro.param("loc", jnp.zeros(3)), 1.0))

    for loss in (IWELBO(3), SUMO(3, **SHARED), MultilevelSUMO(2, **SHARED)):
        at = lambda loc, offset, loss=loss: loss.loss(
            random.key(0), {"loc": loc}, model, guide, offset
        )
        value_and_gradient = jax.jit(jax.value_and_grad(at))
        value, gradient = value_and_gradient(jnp.zeros(3), offset)
        expected = value_and_gradient(jnp.zeros(3), jnp.zeros(3))[1]
        assert value == -np.inf and np.isfinite(gradient[1])
        np.testing.assert_allclose(gradient[::2], expected[::2], rtol=1e-5)
