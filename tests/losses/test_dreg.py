"""The doubly reparameterised gradient: its mean and noise, and guides that have none."""

from functools import partial

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.flatten_util
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, Trace_ELBO, autoguide

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO, ReverseKL
from tests.helpers.models import (
    SAMPLER_PARAMS,
    exact_reverse,
    linear_gaussian_problem,
    matching_problem,
    plated_problem,
)
from tests.helpers.statistics import assert_same_mean

LOSSES = {
    "iwelbo": IWELBO,
    "sumo": partial(SUMO, share_stopping_times=True),
    "multilevel": partial(MultilevelSUMO, share_stopping_times=True),
}
PROBLEMS = {"joint_weights": linear_gaussian_problem(3), "weights_per_datum": plated_problem(4)}
#: Each loss and each problem; the others of their pairs are made of the same parts.
PAIRS = {
    "iwelbo-joint_weights": ("iwelbo", "joint_weights"),
    "iwelbo-weights_per_datum": ("iwelbo", "weights_per_datum"),
    "sumo-joint_weights": ("sumo", "joint_weights"),
    "multilevel-weights_per_datum": ("multilevel", "weights_per_datum"),
}
every_pair = pytest.mark.parametrize(
    "loss_class, problem",
    [(LOSSES[loss], PROBLEMS[problem]) for loss, problem in PAIRS.values()],
    ids=PAIRS.keys(),
)


COMPILED = {}


def gradients(loss, problem, params, key, num_keys):
    """Gradients of the loss at many keys, 50 at a time so that one compiled function serves all."""
    name = repr(loss), problem.model, problem.guide
    if name not in COMPILED:
        of_params = lambda params, key, args: loss.loss(
            key, params, problem.model, problem.guide, *args
        )
        COMPILED[name] = jax.jit(jax.vmap(jax.grad(of_params), (None, 0, None)))
    # Weak types would be compiled anew.
    params = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    chunks = random.split(key, (num_keys // 50, 50))
    found = [COMPILED[name](params, keys, problem.args) for keys in chunks]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


@every_pair
def test_score_free_gradient_has_the_same_mean_and_at_most_a_fifth_of_the_variance(
    loss_class, problem
):
    left_key, right_key = random.split(random.key(0))
    score_free = gradients(loss_class(4), problem, problem.params, left_key, 4_000)
    standard = loss_class(4, gradient="standard")
    standard = gradients(standard, problem, problem.params, right_key, 4_000)
    for name in ("shift", "log_width"):
        assert_same_mean(score_free[name], standard[name])
        ratio = np.var(score_free[name], axis=0) / np.var(standard[name], axis=0)
        assert np.all(ratio < 0.2) and np.all(ratio > 0.0)


@every_pair
def test_at_the_exact_posterior_the_score_free_gradient_is_zero_for_every_key(loss_class, problem):
    found = gradients(loss_class(4), problem, problem.exact_params, random.key(1), 50)
    standard = loss_class(4, gradient="standard")
    standard = gradients(standard, problem, problem.exact_params, random.key(1), 50)
    for name in ("shift", "log_width"):
        np.testing.assert_allclose(found[name], 0.0, atol=2e-6)
        assert np.abs(standard[name]).min() > 1e-4


@every_pair
def test_model_parameters_get_the_same_gradient_whichever_the_guide_gets(loss_class, problem):
    score_free = gradients(loss_class(4), problem, problem.params, random.key(2), 50)
    standard = loss_class(4, gradient="standard")
    standard = gradients(standard, problem, problem.params, random.key(2), 50)
    for name in ("loc", "log_noise"):
        np.testing.assert_allclose(score_free[name], standard[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["iwelbo", "multilevel"])
def test_reverse_model_climbs_its_bound_by_the_same_mean_with_less_noise(loss):
    marginal = LOSSES[loss]
    near = {name: value + 0.1 for name, value in exact_reverse(SAMPLER_PARAMS).items()}
    problem = matching_problem(near)
    options = dict(guide_objective="iwelbo")
    found = {
        gradient: gradients(
            ReverseKL(marginal(3, gradient=gradient, **options), num_particles=2),
            problem,
            problem.params,
            key,
            4_000,
        )
        for gradient, key in zip(("dreg", "standard"), random.split(random.key(3)))
    }
    for name in ("centre", "weight", "log_width"):
        assert_same_mean(found["dreg"][name], found["standard"][name])
        assert np.var(found["dreg"][name]) < 0.2 * np.var(found["standard"][name])


def test_exact_reverse_model_gets_no_score_free_gradient_for_any_key():
    problem = matching_problem()
    marginal = IWELBO(3, guide_objective="iwelbo", gradient="dreg")
    loss = ReverseKL(marginal, num_particles=2)
    found = gradients(loss, problem, problem.exact_params, random.key(4), 50)
    for name in ("centre", "weight", "log_width"):
        np.testing.assert_allclose(found[name], 0.0, atol=1e-5)


def hierarchical_normal(x):
    """Latents that are real, positive and on a simplex."""
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(loc + weights[0], scale), obs=x)


X = jnp.array([0.5, 1.3, -0.2, 0.9])

AUTOGUIDES = {
    "auto_normal": autoguide.AutoNormal,
    "auto_multivariate_normal": autoguide.AutoMultivariateNormal,
    "auto_iaf_normal": autoguide.AutoIAFNormal,
}


@pytest.mark.parametrize("make_guide", AUTOGUIDES.values(), ids=AUTOGUIDES.keys())
def test_autoguides_climb_by_the_same_mean_gradient(make_guide):
    guide = make_guide(hierarchical_normal)
    svi = SVI(hierarchical_normal, guide, optax.adam(1e-2), loss=Trace_ELBO())
    params = jax.jit(lambda key: svi.run(key, 300, X, progress_bar=False).params)(random.key(0))
    found = {}
    for gradient, key in zip(("dreg", "standard"), random.split(random.key(5))):
        loss = IWELBO(4, gradient=gradient)

        def slope(key, loss=loss):
            """In one direction of the space of parameters."""
            at = lambda params: loss.loss(key, params, hierarchical_normal, guide, X)
            flat, _ = jax.flatten_util.ravel_pytree(jax.grad(at)(params))
            return flat @ jnp.cos(jnp.arange(len(flat)))

        slopes = jax.jit(lambda keys: jax.lax.map(slope, keys, batch_size=50))
        found[gradient] = slopes(random.split(key, 2_000))
    assert_same_mean(found["dreg"], found["standard"])
    assert np.abs(found["dreg"] - found["standard"]).max() > 0.1


BAD_OPTIONS = {
    "unknown": (dict(gradient="score"), r"one of \('dreg', 'standard'\); got 'score'"),
    "variance": (
        dict(gradient="dreg", guide_objective="variance"),
        "with guide_objective='iwelbo', .* got 'variance'. Pass gradient='standard'",
    ),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_gradients_that_do_not_exist_are_refused(options, message):
    for loss_class in (SUMO, MultilevelSUMO):
        with pytest.raises(ValueError, match=message):
            loss_class(4, **options)


def test_a_marginal_whose_reverse_model_climbs_no_bound_has_no_such_gradient():
    with pytest.raises(ValueError, match="default is 'forward_kl'; got IWELBO.* Name the obj"):
        ReverseKL(IWELBO(4, gradient="dreg"))
