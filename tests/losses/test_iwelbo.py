"""IWELBO is NumPyro's RenyiELBO at order zero, where that one is right."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import substitute
from numpyro.infer import RenyiELBO

from numpyro_sumo import IWELBO
from tests.helpers.compiling import quick_jit
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


def value_and_gradient(loss, problem):
    evaluate = lambda key: jax.value_and_grad(
        lambda params: loss.loss(key, params, problem.model, problem.guide, *problem.args)
    )(problem.params)
    return quick_jit(evaluate)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_particles_of_the_same_keys_give_the_value_and_gradient_of_renyi_elbo(problem, monkeypatch):
    keys = random.split(random.key(3), 4)
    # RenyiELBO's guide takes the second half of a particle's key.
    weigh_as_renyi = lambda particle: lambda key: particle.views(0, random.split(key)[1])
    monkeypatch.setattr(
        "numpyro_sumo.losses.base.evaluate_fixed",
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
@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())
def test_mean_value_and_gradient_are_those_of_renyi_elbo(problem, gradient_kind):
    left_keys, right_keys = random.split(random.key(4), (2, 10_000))
    loss = IWELBO(3, gradient=gradient_kind)
    value, gradient = jax.vmap(value_and_gradient(loss, problem))(left_keys)
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
    problem = linear_gaussian_problem(3, shift=0.5)
    keys = random.split(random.key(6), 20_000)
    values, _ = jax.vmap(value_and_gradient(IWELBO(1), problem))(keys)
    width = np.exp(0.05)
    kl = 3 * (0.5 * (width**2 + 0.5**2 - 1.0) - 0.05)
    mean, se = mean_and_se(values)
    assert abs(mean - (problem.exact_loss + kl)) < 4 * se < 0.1 * kl
