"""IWELBO is NumPyro's RenyiELBO at order zero, where that one is right."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import RenyiELBO, autoguide

from numpyro_sumo import IWELBO, SUMO
from tests.compiling import quick_jit
from tests.models import (
    linear_gaussian_problem,
    log_evidence,
    plated,
    plated_posterior,
    plated_problem,
    posterior,
)
from tests.statistics import assert_same_mean, assert_tree_mean, mean_and_se


def fixed_subsample(problem, indices):
    """The plated problem on a subsample that is given, not drawn."""

    def choose(program):
        def chosen(x):
            plate = numpyro.plate
            numpyro.plate = lambda name, size, subsample_size: plate(
                name, size, subsample_size=len(indices), subsample=jnp.array(indices)
            )
            try:
                program(x)
            finally:
                numpyro.plate = plate

        return chosen

    return problem._replace(model=choose(plated), guide=choose(plated_posterior))


PROBLEMS = {
    "joint_weights": linear_gaussian_problem(3),
    "weights_per_datum": plated_problem(5),
    "subsampled": fixed_subsample(plated_problem(5), [0, 3]),
}


def value_and_gradient(loss, problem):
    evaluate = lambda key: jax.value_and_grad(
        lambda params: loss.loss(key, params, problem.model, problem.guide, *problem.args)
    )(problem.params)
    return quick_jit(evaluate)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_particles_of_the_same_keys_give_the_value_and_gradient_of_renyi_elbo(problem, monkeypatch):
    keys = random.split(random.key(3), 4)
    monkeypatch.setattr(
        "numpyro_sumo.losses.base.evaluate_log_weights",
        lambda log_weight, *args, **options: jax.tree.map(
            lambda rows: rows[:, None], jax.vmap(lambda key: log_weight(0, key))(keys)
        ),
    )
    renyi = RenyiELBO(alpha=0, num_particles=4)
    renyi.vectorize_particles_fn = lambda particle, _: jax.vmap(particle)(keys)
    expected_value, expected_gradient = value_and_gradient(renyi, problem)(random.key(0))
    value, gradient = value_and_gradient(IWELBO(4), problem)(random.key(0))
    assert float(value) == pytest.approx(float(expected_value), rel=1e-5)
    for name in gradient:
        np.testing.assert_allclose(gradient[name], expected_gradient[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_mean_value_and_gradient_are_those_of_renyi_elbo(problem):
    left_keys, right_keys = random.split(random.key(4), (2, 20_000))
    value, gradient = jax.vmap(value_and_gradient(IWELBO(3), problem))(left_keys)
    expected = jax.vmap(value_and_gradient(RenyiELBO(0, 3), problem))(right_keys)
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
    problem = linear_gaussian_problem(3)
    keys = random.split(random.key(6), 40_000)
    values, _ = jax.vmap(value_and_gradient(IWELBO(1), problem))(keys)
    width = np.exp(0.05)
    kl = 3 * (0.5 * (width**2 + 0.2**2 - 1.0) - 0.05)
    mean, se = mean_and_se(values)
    assert abs(mean - (problem.exact_loss + kl)) < 4 * se < 0.1 * kl


PLAIN_LOSSES = {"iwelbo": IWELBO(3), "sumo": SUMO(3)}
AUTOGUIDES = {
    "auto_normal": (autoguide.AutoNormal, ("z_auto_loc", "z_auto_scale"), lambda sd: sd),
    "auto_diagonal_normal": (
        autoguide.AutoDiagonalNormal,
        ("auto_loc", "auto_scale"),
        lambda sd: sd,
    ),
    "auto_multivariate_normal": (
        autoguide.AutoMultivariateNormal,
        ("auto_loc", "auto_scale_tril"),
        jnp.diag,
    ),
}


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
@pytest.mark.parametrize(
    "autoguide_class, names, shape_scale", AUTOGUIDES.values(), ids=AUTOGUIDES.keys()
)
def test_autoguide_at_the_posterior_gives_minus_log_evidence_for_every_key(
    loss, autoguide_class, names, shape_scale
):
    """A guide that does not factorise over the plate has one weight for all of the data."""
    problem = plated_problem(4)
    guide = autoguide_class(problem.model)
    mean, sd = posterior(problem.args[0])
    guide_params = dict(zip(names, (mean, shape_scale(jnp.full(4, sd)))))
    params = {"loc": problem.params["loc"], "log_noise": problem.params["log_noise"]}
    numpyro.handlers.seed(guide, 0)(*problem.args)
    evaluate = lambda key: loss.loss(
        key, {**params, **guide_params}, problem.model, guide, *problem.args
    )
    values = quick_jit(jax.vmap(evaluate))(random.split(random.key(7), 30))
    np.testing.assert_allclose(values, problem.exact_loss, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
def test_subsampling_scale_multiplies_finished_estimates(loss):
    """With the posterior as guide each estimate is the evidence of the data in one subsample."""
    problem = plated_problem(4)
    evaluate = lambda key: loss.loss(
        key, problem.exact_params, problem.model, problem.guide, *problem.args, 2
    )
    values = quick_jit(jax.vmap(evaluate))(random.split(random.key(8), 60))
    evidences = np.asarray(log_evidence(problem.args[0]))
    possible = [-2.0 * (evidences[i] + evidences[j]) for i in range(4) for j in range(i)]
    distances = np.abs(np.asarray(values)[:, None] - possible)
    assert np.all(distances.min(axis=1) < 5e-3)
    assert len(set(distances.argmin(axis=1))) == len(possible)


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
def test_model_without_observations_has_the_log_normaliser_of_its_factors(loss):
    def model():
        z = numpyro.sample("z", dist.Normal())
        numpyro.factor("tilt", 0.7 * z + 1.2)

    def exact_guide():
        numpyro.sample("z", dist.Normal(0.7, 1.0))

    evaluate = lambda key: loss.log_evidence(key, {}, model, exact_guide)
    estimates = quick_jit(jax.vmap(evaluate))(random.split(random.key(9), 20))
    np.testing.assert_allclose(estimates, 1.2 + 0.5 * 0.7**2, atol=1e-3)


def test_log_evidence_is_minus_the_loss():
    problem = linear_gaussian_problem(2)
    arguments = (random.key(2), problem.params, problem.model, problem.guide, *problem.args)
    assert float(IWELBO(2).log_evidence(*arguments)) == -float(IWELBO(2).loss(*arguments))
