"""Losses that users write: one method, and the right gradient for model and guide."""

from dataclasses import dataclass

import pytest

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro.infer import RenyiELBO

from numpyro_sumo import IWELBO, SUMO
from numpyro_sumo.losses.base import ImportanceLoss
from tests.helpers.models import linear_gaussian_problem, plated_problem
from tests.helpers.statistics import assert_same_mean, assert_tree_mean

KEYS = random.split(random.key(5), 4_000)


@dataclass(kw_only=True, eq=False)
class Renyi(ImportanceLoss):
    alpha: float = 0.5

    def estimate(self, sample):
        order = 1.0 - self.alpha
        log_mean = logsumexp(order * sample.log_weights, axis=0) - jnp.log(self.num_particles)
        return log_mean / order


def values_and_gradients(loss, problem, keys):
    def at(key):
        evaluate = lambda params: loss.loss(
            key, params, problem.model, problem.guide, *problem.args
        )
        return jax.value_and_grad(evaluate)(problem.params)

    return jax.jit(lambda keys: jax.vmap(at)(keys))(keys)


@pytest.mark.parametrize(
    "problem", [linear_gaussian_problem(2), plated_problem(3)], ids=["joint", "plated"]
)
def test_a_renyi_bound_has_numpyro_s_values_and_gradients(problem):
    values, gradients = values_and_gradients(Renyi(num_particles=5), problem, KEYS)
    expected = values_and_gradients(RenyiELBO(alpha=0.5, num_particles=5), problem, KEYS[::-1])
    assert_same_mean(values, expected[0])
    assert_tree_mean(gradients, expected[1], assert_same_mean)


def test_at_order_zero_it_is_the_importance_weighted_bound_for_every_key():
    problem = plated_problem(3)
    found = values_and_gradients(Renyi(num_particles=3, alpha=0.0), problem, KEYS[:5])
    expected = values_and_gradients(IWELBO(3, gradient="standard"), problem, KEYS[:5])
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected)):
        assert jnp.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("parent", [IWELBO, SUMO])
def test_a_class_that_does_not_say_what_its_guide_maximises_is_refused_when_it_is_made(parent):
    with pytest.raises(TypeError, match="Own, which overrides estimate, to say what its guide"):
        type("Own", (parent,), {"estimate": lambda self, sample: sample.log_weights[0]})
    own = {
        "estimate": lambda self, sample: sample.log_weights[0],
        "guide_objectives": ("estimate",),
    }
    assert type("Own", (parent,), own)().objective_name == "estimate"


def test_a_subclass_that_keeps_the_estimate_need_not_say_it():
    assert type("Own", (SUMO,), {})().objective_name == "iwelbo"


def test_the_doubly_reparameterised_gradient_of_an_estimate_is_refused():
    with pytest.raises(ValueError, match="gradient='dreg' with guide_objective='iwelbo'"):
        Renyi(gradient="dreg")
