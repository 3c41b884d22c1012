"""Derivatives of multilevel estimates in the model's parameters: exact, and without bias."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import MultilevelSUMO
from numpyro_sumo.estimators.taylor import symmetric
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import log_evidence, plated_problem
from tests.helpers.statistics import assert_mean

PROBLEM = plated_problem(3)
LOSSES = {
    "each its own": MultilevelSUMO(2, data_axes=0),
    "shared": MultilevelSUMO(2, share_stopping_times=True),
    "in parts": MultilevelSUMO(2, data_axes=0, chunk_size=8),
}


def params_at(delta):
    """The model's two parameters, displaced."""
    params = PROBLEM.params
    return {
        **params,
        "loc": params["loc"] + delta[0],
        "log_noise": params["log_noise"] + delta[1],
    }


def programs_at(delta):
    return Programs(PROBLEM.model, PROBLEM.guide, params_at(delta), PROBLEM.args)


def derivatives(loss, key, number):
    return loss.sample_derivatives(key, programs_at(jnp.zeros(2)), params_at, 2, number)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_derivatives_are_those_of_the_estimate_at_the_same_draws(loss):
    with jax.enable_x64(True):
        key, step = random.key(1), 1e-4
        found = jax.jit(lambda: derivatives(loss, key, 4))()
        estimates = lambda delta: loss.sample_estimates(key, programs_at(delta), 4)[0]

        # The guide's own derivative in the displacement is zero: it does not read these params.
        def total(delta):
            found = estimates(delta)
            return found.sum(), found

        # Gradients of the sum, and the estimates.
        at = jax.jit(jax.grad(total, has_aux=True))
        gradient, values = at(jnp.zeros(2))
        np.testing.assert_allclose(found[0], values, rtol=1e-9)
        np.testing.assert_allclose(found[1:3].sum(axis=(1, 2)), gradient, rtol=1e-8)
        hessian = symmetric(np.moveaxis(np.asarray(found[3:]), 0, -1)).sum(axis=(0, 1))
        for p, axis in enumerate(jnp.eye(2) * step):
            above, below = at(axis), at(-axis)
            second, first = ((up - down) / (2.0 * step) for up, down in zip(above, below))
            np.testing.assert_allclose(found[1 + p], first, rtol=1e-5, atol=1e-6)
            np.testing.assert_allclose(hessian[p], second, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["each its own", "shared"])
def test_gradients_and_hessians_have_no_bias(name):
    x = PROBLEM.args[0]
    free = jnp.array([PROBLEM.params["loc"], PROBLEM.params["log_noise"]])
    exact = lambda free: log_evidence(x, free[0], free[1])
    run = jax.jit(lambda key: derivatives(LOSSES[name], key, 500))
    found = np.concatenate([run(key) for key in random.split(random.key(0), 20)], axis=1)
    found = np.asarray(found, np.float64)
    assert_mean(found[0], exact(free))
    assert_mean(np.moveaxis(found[1:3], 0, -1), jax.jacobian(exact)(free))
    hessians = symmetric(np.moveaxis(found[3:], 0, -1))
    assert_mean(hessians, jax.hessian(exact)(free))


def test_weights_of_zero_have_no_derivatives():
    """Half of the draws lie where the model has no mass; a block of 16 always has others."""

    def model(x):
        with numpyro.plate("data", len(x)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            loc = numpyro.param("loc", 0.0)
            inside = jnp.where(z > 0.0, 0.0, -jnp.inf) * jnp.exp(loc)
            numpyro.factor("inside", inside)
            numpyro.sample("x", dist.Normal(loc + z, 1.0), obs=x)

    def guide(x):
        with numpyro.plate("data", len(x)):
            numpyro.sample("z", dist.Normal(0.0, 1.0))

    loss = MultilevelSUMO(32, data_axes=0)
    programs = Programs(model, guide, {"loc": jnp.zeros(())}, (jnp.array([0.5, 1.0]),))
    found = jax.jit(
        lambda key: loss.sample_derivatives(key, programs, lambda d: {"loc": d[0]}, 1, 20)
    )(random.key(0))
    assert np.all(np.isfinite(found))
