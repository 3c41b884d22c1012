"""What NumPyro lets a user do with a loss, each with every loss that stands on its own."""

from flax import linen as nn
import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.handlers import mask, seed
from numpyro.infer import SVI, Trace_ELBO, autoguide

from numpyro_sumo import IWELBO, IWHVI, SUMO, HierarchicalGuide, MultilevelSUMO, ReverseKL
from tests.helpers.models import (
    AUXILIARY,
    LOC,
    NOISE,
    plated_problem,
    posterior,
)
from tests.helpers.models import log_evidence as exact_log_evidence
from tests.helpers.statistics import assert_same_mean

SHARED = {"share_stopping_times": True}
LOSSES = {
    "iwelbo": IWELBO(3),
    "sumo": SUMO(3, **SHARED),
    "multilevel": MultilevelSUMO(2, **SHARED),
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
X = plated_problem(4).args[0]


def at_keys(loss, params, model, guide, *args, num_keys=20, **kwargs):
    """The loss at several keys."""
    evaluate = lambda key: loss.loss(key, params, model, guide, *args, **kwargs)
    return jax.jit(jax.vmap(evaluate))(random.split(random.key(0), num_keys))


# Plates


def table(values):
    """A latent for every cell of nested plates."""
    with numpyro.plate("rows", values.shape[0], dim=-2):
        with numpyro.plate("columns", values.shape[1], dim=-1):
            z = numpyro.sample("z", dist.Normal(LOC, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=values)


def table_posterior(values, shift=0.0):
    mean, sd = posterior(values)
    with numpyro.plate("rows", values.shape[0], dim=-2):
        with numpyro.plate("columns", values.shape[1], dim=-1):
            numpyro.sample("z", dist.Normal(mean + shift, sd))


VALUES = jnp.linspace(-1.0, 2.0, 6).reshape(3, 2)


@every_loss
def test_nested_plates_have_a_weight_for_every_cell(loss):
    values = at_keys(loss, {}, table, table_posterior, VALUES)
    np.testing.assert_allclose(values, -exact_log_evidence(VALUES).sum(), atol=2e-3)


def test_weights_of_cells_are_not_joined():
    """A joint weight of six cells would make the bound looser."""
    guide = lambda values: table_posterior(values, 0.3)
    apart = at_keys(IWELBO(3), {}, table, guide, VALUES, num_keys=2_000)
    each = sum(
        np.asarray(
            at_keys(IWELBO(3), {}, table, guide, VALUES[i : i + 1, j : j + 1], num_keys=2_000),
            np.float64,
        )
        for i in range(3)
        for j in range(2)
    )
    assert_same_mean(apart, each)


def plated_model(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x)


def surrogate_model():
    noise = numpyro.param("surrogate_noise", 1.0)
    with numpyro.plate("data", len(X)):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0))
        numpyro.sample("x", dist.Normal(z, noise), obs=X)


GUIDES = {
    "normal": autoguide.AutoNormal,
    "multivariate_normal": autoguide.AutoMultivariateNormal,
    "low_rank": autoguide.AutoLowRankMultivariateNormal,
    "iaf": autoguide.AutoIAFNormal,
    "bnaf": lambda model: autoguide.AutoBNAFNormal(model, hidden_factors=[2]),
    "laplace": autoguide.AutoLaplaceApproximation,
    "delta": autoguide.AutoDelta,
    "dais": lambda model: autoguide.AutoDAIS(model, K=2),
    "surrogate_dais": lambda model: autoguide.AutoSurrogateLikelihoodDAIS(
        model, surrogate_model, K=2
    ),
}


@pytest.mark.filterwarnings("ignore:Expected a guide that draws at random")
@pytest.mark.parametrize("make_guide", GUIDES.values(), ids=GUIDES.keys())
def test_one_particle_is_trace_elbo_for_every_autoguide_of_a_plated_model(make_guide):
    """Auxiliary sites and all: their density is counted, once, as in Trace_ELBO."""
    guide = make_guide(plated_model)
    svi = SVI(plated_model, guide, optax.sgd(0.1), Trace_ELBO())
    params = jax.jit(lambda key: svi.get_params(svi.init(key, X)))(random.key(1))

    @jax.jit
    def at_two_keys(keys, other_keys):
        losses = IWELBO(1, gradient="standard"), Trace_ELBO()
        return [
            jax.vmap(lambda key, loss=loss: loss.loss(key, params, plated_model, guide, X))(keys)
            for loss, keys in zip(losses, (keys, other_keys))
        ]

    left, right = (random.split(random.key(i), 2_000) for i in (0, 2))
    found, expected = at_two_keys(left, right)
    if np.ptp(expected) < 1e-4:  # nothing random
        np.testing.assert_allclose(found, expected[0], rtol=1e-5)
    else:
        assert_same_mean(found, expected)


def test_plates_of_an_autoguide_are_subsampled_with_the_model():
    def model(x, size):
        with numpyro.plate("data", len(x), subsample_size=size):
            batch = numpyro.subsample(x, event_dim=0)
            z = numpyro.sample("z", dist.Normal(LOC, 1.0))
            numpyro.sample("x", dist.Normal(z, NOISE), obs=batch)

    guide = autoguide.AutoNormal(
        model, create_plates=lambda x, size: numpyro.plate("data", len(x), subsample_size=size)
    )
    svi = SVI(model, guide, optax.sgd(0.1), SUMO(3))
    jax.eval_shape(lambda key: svi.init(key, X, 2), random.key(0))
    mean, sd = posterior(X)
    params = {"z_auto_loc": mean, "z_auto_scale": jnp.full(4, sd)}
    values = at_keys(SUMO(3), params, model, guide, X, 2, num_keys=30)
    evidence = np.asarray(exact_log_evidence(X))
    possible = [-2.0 * (evidence[i] + evidence[j]) for i in range(4) for j in range(i)]
    distances = np.abs(np.asarray(values)[:, None] - possible)
    assert distances.min(axis=1).max() < 5e-3
    assert len(set(distances.argmin(axis=1))) > 3


# Handlers, primitives and parameters


@every_loss
def test_masked_data_factors_and_deterministic_sites(loss):
    observed = jnp.array([True, False, True, True])

    def model():
        with numpyro.plate("data", 4):
            with mask(mask=observed):
                z = numpyro.sample("z", dist.Normal(LOC, 1.0))
                numpyro.sample("x", dist.Normal(numpyro.deterministic("mean", z), NOISE), obs=X)
        numpyro.factor("weight", jnp.asarray(0.7))

    def guide():
        mean, sd = posterior(X)
        with numpyro.plate("data", 4), mask(mask=observed):
            numpyro.sample("z", dist.Normal(mean, sd))

    expected = -jnp.where(observed, exact_log_evidence(X), 0.0).sum() - 0.7
    np.testing.assert_allclose(at_keys(loss, {}, model, guide), expected, atol=2e-3)


@every_loss
def test_constrained_parameters_stay_in_their_support(loss):
    def model():
        scale = numpyro.param("scale", 1.0, constraint=constraints.positive)
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("x", dist.Normal(z, scale), obs=0.1)

    def guide():
        width = numpyro.param("width", 0.5, constraint=constraints.interval(0.1, 0.9))
        numpyro.sample("z", dist.Normal(0.0, width))

    svi = SVI(model, guide, optax.adam(0.3), loss)
    params = jax.jit(lambda key: svi.run(key, 60, progress_bar=False).params)(random.key(0))
    assert 0.0 < params["scale"] < 0.9
    assert 0.1 < params["width"] < 0.9 and params["width"] != 0.5


NUM_STEPS = 5


def random_walk(x):
    def step(z, x_t):
        z = numpyro.sample("z", dist.Normal(z, 1.0))
        numpyro.sample("x", dist.Normal(z, NOISE), obs=x_t)
        return z, None

    scan(step, 0.0, x)


@every_loss
def test_models_that_scan_have_the_evidence_of_the_kalman_filter(loss):
    x = jnp.array([0.3, -0.2, 1.0, 1.7, 0.9])
    covariance = jnp.minimum(*jnp.meshgrid(*[jnp.arange(1.0, NUM_STEPS + 1)] * 2))
    marginal = covariance + NOISE**2 * jnp.eye(NUM_STEPS)
    gain = covariance @ jnp.linalg.inv(marginal)
    guide = autoguide.AutoMultivariateNormal(random_walk)
    jax.eval_shape(lambda key: seed(guide, key)(x), random.key(0))
    params = {
        "auto_loc": gain @ x,
        "auto_scale_tril": jnp.linalg.cholesky(covariance - gain @ covariance),
    }
    expected = -dist.MultivariateNormal(jnp.zeros(NUM_STEPS), marginal).log_prob(x)
    np.testing.assert_allclose(at_keys(loss, params, random_walk, guide, x), expected, atol=5e-3)


class BatchNormalised(nn.Module):
    """Its running mean says how often it was updated."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(1)(nn.BatchNorm(use_running_average=False, momentum=0.9)(x))


def normalised_model(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normalised_guide(x):
    net = flax_module("net", BatchNormalised(), input_shape=(1,), mutable=["batch_stats"])
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(net(x[:, None])[:, 0], 0.8))


def running_mean(state):
    return state.mutable_state["net$state"]["batch_stats"]["BatchNorm_0"]["mean"].squeeze()


@every_loss
def test_mutable_state_is_updated_once_a_step_whatever_the_draws(loss):
    svi = SVI(normalised_model, normalised_guide, optax.adam(1e-3), loss)
    state = jax.jit(svi.init)(random.key(0), X)
    update = jax.jit(svi.update)
    for _ in range(3):
        expected = 0.9 * running_mean(state) + 0.1 * X.mean()
        state, value = update(state, X)
        assert float(running_mean(state)) == pytest.approx(float(expected), rel=1e-5)
        assert np.isfinite(value)


def test_mutable_state_of_a_sampler_is_updated_once_a_step():
    def target():
        numpyro.sample("x", dist.Normal().expand([2]).to_event(1))

    def sampler():
        net = flax_module("net", BatchNormalised(), input_shape=(2, 1), mutable=["batch_stats"])
        u = numpyro.sample("u", dist.Normal().expand([2]).to_event(1), infer=AUXILIARY)
        loc = net(jnp.array([[1.0], [2.0]]))[:, 0]
        numpyro.sample("x", dist.Normal(loc + u, 1.0).to_event(1))

    def reverse(latents):
        width = numpyro.param("width", 0.7)
        numpyro.sample("u", dist.Normal(0.5 * latents["x"], width).to_event(1))

    guide = HierarchicalGuide(sampler, reverse)
    svi = SVI(target, guide, optax.adam(1e-3), ReverseKL(IWHVI(3), num_particles=4))
    before = jax.jit(svi.init)(random.key(0))
    state, value = jax.jit(svi.update)(before)
    expected = 0.9 * running_mean(before) + 0.1 * 1.5
    assert float(running_mean(state)) == pytest.approx(float(expected), rel=1e-5)
    assert np.isfinite(value)
