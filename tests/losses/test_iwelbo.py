"""IWELBO is NumPyro's RenyiELBO at order zero, where that one is right."""

from functools import cache

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import substitute
from numpyro.infer import RenyiELBO, Trace_ELBO

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from tests.helpers.compiling import optimising_jit
from tests.helpers.models import (
    linear_gaussian_problem,
    plated_problem,
)
from tests.helpers.statistics import assert_same_mean, assert_tree_mean, mean_and_se


def fixed_subsample(problem, indices):
    """The plated problem on a subsample that is given, not drawn."""
    programs = {
        name: substitute(getattr(problem, name), data={"data": jnp.array(indices)})
        for name in ("model", "guide")
    }
    return problem._replace(args=(*problem.args, len(indices)), **programs)


PROBLEMS = {
    "joint_weights": linear_gaussian_problem(3),
    "weights_per_datum": plated_problem(5),
    "subsampled": fixed_subsample(plated_problem(5), [0, 3]),
}


@cache
def renyi_replicates(name):
    """Values and gradients of NumPyro's bound over three particles."""
    _, keys = random.split(random.key(4), (2, 10_000))
    return jax.vmap(value_and_gradient(RenyiELBO(0, 3), PROBLEMS[name]))(keys)


def value_and_gradient(loss, problem):
    evaluate = lambda key: jax.value_and_grad(
        lambda params: loss.loss(key, params, problem.model, problem.guide, *problem.args)
    )(problem.params)
    return jax.jit(evaluate)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_particles_of_the_same_keys_give_the_value_and_gradient_of_renyi_elbo(problem, monkeypatch):
    keys = random.split(random.key(3), 4)
    # RenyiELBO's guide takes the second half of a particle's key.
    weigh_as_renyi = lambda particle: lambda key: particle.views(0, random.split(key)[1])
    monkeypatch.setattr(
        "numpyro_sumo.ragged.evaluate.evaluate_fixed",
        lambda rng_key, particle, *args: jax.tree.map(
            lambda rows: rows[:, None], jax.vmap(weigh_as_renyi(particle))(keys)
        ),
    )
    renyi = RenyiELBO(alpha=0, num_particles=4)
    renyi.vectorize_particles_fn = lambda particle, _: jax.vmap(particle)(keys)
    expected_value, expected_gradient = value_and_gradient(renyi, problem)(random.key(0))
    loss = IWELBO(4, gradient="standard")
    value, gradient = value_and_gradient(loss, problem)(random.key(0))
    assert float(value) == pytest.approx(float(expected_value), rel=1e-5)
    for name in gradient:
        np.testing.assert_allclose(gradient[name], expected_gradient[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gradient_kind", ["dreg", "standard"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_mean_value_and_gradient_are_those_of_renyi_elbo(name, gradient_kind):
    keys, _ = random.split(random.key(4), (2, 10_000))
    loss = IWELBO(3, gradient=gradient_kind)
    value, gradient = jax.vmap(value_and_gradient(loss, PROBLEMS[name]))(keys)
    expected = renyi_replicates(name)
    assert_same_mean(value, expected[0])
    assert_tree_mean(gradient, expected[1], assert_same_mean)


def test_bound_rises_to_the_evidence_from_below():
    problem = linear_gaussian_problem(3, shift=0.6)
    keys = random.split(random.key(5), 4000)
    means = []
    for num_particles in (1, 4, 32):
        evaluate = value_and_gradient(IWELBO(num_particles), problem)
        mean, se = mean_and_se(jax.vmap(evaluate)(keys)[0])
        assert mean - 4 * se > problem.exact_loss
        means.append(mean)
    assert means[0] > means[1] + 0.1 > means[2] + 0.2


def test_one_particle_gives_the_elbo():
    """ELBO = log p(x) − KL(guide ‖ posterior), in closed form."""
    problem = linear_gaussian_problem(3, shift=0.5)
    keys = random.split(random.key(6), 20_000)
    values, _ = jax.vmap(value_and_gradient(IWELBO(1), problem))(keys)
    width = np.exp(0.05)
    kl = 3 * (0.5 * (width**2 + 0.5**2 - 1.0) - 0.05)
    mean, se = mean_and_se(values)
    assert abs(mean - (problem.exact_loss + kl)) < 4 * se < 0.1 * kl


# A subsampled plate that does not enclose all sites: an ELBO is a sum, and unbiased all the same.

DATA = jnp.linspace(-1.0, 3.0, 20)


def model_of_a_mean(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, numpyro.param("spread", 3.0)))
    with numpyro.plate("data", 20, subsample_size=5):
        numpyro.sample("x", dist.Normal(mean, 0.8), obs=numpyro.subsample(x, event_dim=0))


def guide_of_a_mean(x):
    numpyro.sample("mean", dist.Normal(numpyro.param("loc", 0.3), 0.5))


def model_of_local_latents(x):
    mean = numpyro.sample("mean", dist.Normal(0.0, numpyro.param("spread", 3.0)))
    with numpyro.plate("data", 20, subsample_size=5):
        z = numpyro.sample("z", dist.Normal(mean, 1.0))
        numpyro.sample("x", dist.Normal(z, 0.8), obs=numpyro.subsample(x, event_dim=0))


def guide_of_local_latents(x):
    guide_of_a_mean(x)
    with numpyro.plate("data", 20, subsample_size=5):
        batch = numpyro.subsample(x, event_dim=0)
        numpyro.sample("z", dist.Normal(0.5 * batch + numpyro.param("offset", 0.1), 0.7))


GLOBAL_PARAMS = {"spread": jnp.array(3.0), "loc": jnp.array(0.3)}
WITH_GLOBAL_LATENTS = {
    "likelihood_alone": (model_of_a_mean, guide_of_a_mean, GLOBAL_PARAMS),
    "local_latents": (
        model_of_local_latents,
        guide_of_local_latents,
        {**GLOBAL_PARAMS, "offset": jnp.array(0.1)},
    ),
}


def with_global_latents_at_keys(name, loss, key):
    model, guide, params = WITH_GLOBAL_LATENTS[name]
    at_key = lambda key: jax.value_and_grad(
        lambda params: loss.loss(key, params, model, guide, DATA)
    )(params)
    return optimising_jit(jax.vmap(at_key))(random.split(key, 20_000))


@cache
def trace_elbo_with_global_latents(name):
    return with_global_latents_at_keys(name, Trace_ELBO(), random.key(1))


@pytest.mark.parametrize("gradient_kind", ["dreg", "standard"])
@pytest.mark.parametrize("name", WITH_GLOBAL_LATENTS)
def test_one_particle_is_trace_elbo_for_a_global_latent_and_a_subsample(name, gradient_kind):
    loss = IWELBO(1, gradient=gradient_kind)
    found = with_global_latents_at_keys(name, loss, random.key(0))
    expected = trace_elbo_with_global_latents(name)
    assert_same_mean(found[0], expected[0])
    assert_tree_mean(found[1], expected[1], assert_same_mean)
    # What the comparison can see.
    assert mean_and_se(expected[0])[1] < 0.02 * abs(mean_and_se(expected[0])[0])


@pytest.mark.parametrize("loss", [IWELBO(2), SUMO(1), SUMO(), MultilevelSUMO(1)])
@pytest.mark.parametrize(
    "model, guide, params", WITH_GLOBAL_LATENTS.values(), ids=WITH_GLOBAL_LATENTS.keys()
)
def test_more_than_one_particle_is_refused_and_the_elbo_named(model, guide, params, loss):
    with pytest.raises(ValueError, match=r"'data' to enclose every .* IWELBO\(1\)\.$") as error:
        loss.loss(random.key(0), params, model, guide, DATA)
    assert "\n" not in str(error.value)


def guide_with_scales_of_their_own():
    with numpyro.handlers.scale(scale=2.0):
        u = numpyro.sample("u", dist.Normal(numpyro.param("loc", 0.3), 1.0))
    with numpyro.handlers.scale(scale=0.5):
        numpyro.sample("w", dist.Normal(u, 1.0))


def model_with_scales_of_their_own():
    with numpyro.handlers.scale(scale=2.0):
        u = numpyro.sample("u", dist.Normal())
    with numpyro.handlers.scale(scale=0.5):
        w = numpyro.sample("w", dist.Normal(u, 2.0))
    numpyro.sample("x", dist.Normal(w, 1.0), obs=1.2)


def test_one_particle_scales_each_site_by_its_own_scale_as_trace_elbo_does():
    programs = model_with_scales_of_their_own, guide_with_scales_of_their_own
    params = {"loc": jnp.array(0.3)}

    def at_keys(loss, key):
        at = lambda key: jax.value_and_grad(lambda params: loss.loss(key, params, *programs))(
            params
        )
        return optimising_jit(jax.vmap(at))(random.split(key, 20_000))

    found = at_keys(IWELBO(1, gradient="standard"), random.key(0))
    expected = at_keys(Trace_ELBO(), random.key(1))
    assert_same_mean(found[0], expected[0])
    assert_tree_mean(found[1], expected[1], assert_same_mean)
    with pytest.raises(ValueError, match="all guide sites to have one scale"):
        IWELBO(2).loss(random.key(0), params, *programs)
