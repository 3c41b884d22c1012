"""What numpyro.infer.SVI and Predictive do with a loss."""

from functools import partial

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Predictive, Trace_ELBO, autoguide

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from tests.helpers.models import LOC, NOISE, linear_gaussian_problem, plated_problem, posterior
from tests.helpers.models import log_evidence as exact_log_evidence

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


X = plated_problem(4).args[0]


def plated_model(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def half_normal_by_factor(x):
    z = numpyro.sample("z", dist.Normal())
    numpyro.factor("half", jnp.where(z > x, 0.0, -jnp.inf))


def wide_normal(x):
    scale = numpyro.param("scale", 1.0)
    numpyro.sample("z", dist.Normal(0.0, scale))


@every_loss
def test_float64_all_the_way(loss):
    with jax.enable_x64(True):
        problem = linear_gaussian_problem(2)
        as_float64 = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(leaf, float), tree)
        (x,), params = as_float64(problem.args), as_float64(problem.exact_params)
        mean_and_sd = posterior(x)

        def guide(x):
            numpyro.sample("z", dist.Normal(*mean_and_sd).to_event(1))

        values = at_keys(loss, params, problem.model, guide, x)
        assert values.dtype == jnp.float64
        expected = -float(exact_log_evidence(x).sum())
        np.testing.assert_allclose(values, expected, atol=1e-8)


@every_loss
def test_an_ensemble_of_runs_is_the_runs_one_by_one(loss):
    problem = plated_problem(3)
    svi = SVI(problem.model, problem.guide, optax.adam(1e-2), loss)
    run = lambda key: svi.run(key, 4, *problem.args, progress_bar=False)
    keys = random.split(random.key(0), 3)
    together = jax.jit(jax.vmap(run))(keys)
    alone = jax.jit(run)
    for i, key in enumerate(keys):
        one = alone(key)
        np.testing.assert_allclose(together.losses[i], one.losses, rtol=1e-4, atol=1e-4)
        for name, leaf in one.params.items():
            np.testing.assert_allclose(together.params[name][i], leaf, rtol=1e-4, atol=1e-5)
    assert len(set(together.losses[:, -1].tolist())) == 3


@every_loss
def test_stable_update_leaves_parameters_alone_where_the_loss_is_not_finite(loss):
    svi = SVI(half_normal_by_factor, wide_normal, optax.adam(1e-2), loss)
    state = jax.jit(svi.init)(random.key(0), -jnp.inf)
    before = svi.get_params(state)
    update = jax.jit(svi.stable_update)
    state, value = update(state, jnp.inf)
    assert svi.get_params(state) == before and np.isnan(value)
    state, value = update(state, -jnp.inf)
    assert np.isfinite(value)


@pytest.mark.parametrize("loss", [SUMO(3), MultilevelSUMO(2)])
def test_forward_mode_differentiation_is_refused_by_losses_with_a_random_count(loss):
    problem = linear_gaussian_problem(2)
    svi = SVI(problem.model, problem.guide, optax.adam(1e-2), loss)
    update = partial(svi.update, forward_mode_differentiation=True)
    run = lambda key: update(svi.init(key, *problem.args), *problem.args)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.eval_shape(run, random.key(0))


def test_forward_mode_differentiation_of_a_fixed_number_of_draws_is_that_of_reverse_mode():
    problem = linear_gaussian_problem(2)
    svi = SVI(problem.model, problem.guide, optax.adam(1e-2), IWELBO(3))
    state = jax.jit(svi.init)(random.key(0), *problem.args)
    update = jax.jit(svi.update, static_argnames="forward_mode_differentiation")
    forward, reverse = (
        svi.get_params(update(state, *problem.args, forward_mode_differentiation=mode)[0])
        for mode in (True, False)
    )
    for name in reverse:
        np.testing.assert_allclose(forward[name], reverse[name], rtol=1e-4)


@every_loss
def test_losses_are_hashable_and_may_be_static_arguments(loss):
    problem = linear_gaussian_problem(2)

    traced = []

    def value(loss, key):
        traced.append(loss)
        return loss.loss(key, problem.params, problem.model, problem.guide, *problem.args)

    compiled = jax.jit(value, static_argnums=0)
    found = compiled(loss, random.key(0))
    compiled(loss, random.key(1))
    assert traced == [loss]
    # Compiling every operation by itself takes long for the others.
    apart = partial(value, loss) if type(loss) is SUMO else jax.jit(partial(value, loss))
    np.testing.assert_allclose(found, apart(random.key(0)), rtol=1e-4, atol=1e-4)


@every_loss
def test_predictive_and_sample_posterior_after_training(loss):
    guide = autoguide.AutoNormal(plated_model)
    svi = SVI(plated_model, guide, optax.adam(0.05), loss)
    run = jax.jit(lambda key: svi.run(key, 400, X, progress_bar=False).params)
    params = run(random.key(0))
    mean, sd = posterior(X)
    draws = guide.sample_posterior(random.key(1), params, sample_shape=(4_000,))["z"]
    np.testing.assert_allclose(draws.mean(axis=0), mean, atol=0.1)
    np.testing.assert_allclose(draws.std(axis=0), sd, atol=0.1)
    predictive = Predictive(guide, params=params, num_samples=4_000)
    np.testing.assert_allclose(predictive(random.key(2), X)["z"].mean(axis=0), mean, atol=0.1)
    with_data = Predictive(plated_model, guide=guide, params=params, num_samples=100)
    assert with_data(random.key(3), X)["x"].shape == (100, 4)


TRACE_ELBO_ALONE = {
    "losses_by_site": {"sum_sites": False},
    "guides_of_many_samples": {"multi_sample_guide": True},
}


@pytest.mark.parametrize("option", TRACE_ELBO_ALONE.values(), ids=TRACE_ELBO_ALONE.keys())
@every_loss
def test_what_only_a_mean_of_log_weights_can_do_is_no_option(option, loss):
    """The logarithm of a mean of weights is not a sum over sites, nor over samples of a guide."""
    Trace_ELBO(**option)
    with pytest.raises(TypeError, match=next(iter(option))):
        type(loss)(**option)
