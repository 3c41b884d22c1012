import numpy as np
import pytest
from scipy.special import logsumexp

import jax
from jax import random

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import kl_divergence

from benchmarks.density.judge import Judge, _bound_over, _error_of_bound
from benchmarks.density.models import Data, Task
from benchmarks.density.plans import FEW_BLOCKS, SHORT_TAIL, Arm
from numpyro_sumo import SUMO, MultilevelSUMO
from numpyro_sumo.programs.programs import Programs


def test_error_of_the_bound_is_its_spread_over_repetitions():
    log_weights = 0.7 * np.random.default_rng(0).normal(size=(400, 300, 20))
    bounds = logsumexp(log_weights, axis=1) - np.log(300)
    expected = bounds.mean(axis=1).std()
    np.testing.assert_allclose(_error_of_bound(log_weights[0]), expected, rtol=0.15)


def linear_model(points):
    with numpyro.plate("points", len(points)):
        z = numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=points)


def wide_guide(points):
    """The posterior with a larger scale."""
    with numpyro.plate("points", len(points)):
        numpyro.sample("z", dist.Normal(0.5 * points, 0.8).to_event(1))


def test_figures_are_those_of_closed_forms():
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    data = Data(points, points, points)
    judge = Judge(Task("linear", linear_model, wide_guide, data, False, (2, 0)), 400, 16, {})
    figures = judge.figures({}, 1)
    nll = -dist.Normal(0.0, 2.0**0.5).log_prob(points).sum(axis=1).mean()
    divergence = 2 * kl_divergence(dist.Normal(0.0, 0.8), dist.Normal(0.0, 0.5**0.5))
    assert abs(figures["nll"] - nll) < 4 * figures["nll_se"] < 0.02
    assert abs(figures["bias"] + divergence) < 4 * figures["bias_se"] < 0.05
    assert abs(judge.validation({}) - nll) < 0.05
    assert abs(figures["nll_bound"] - nll) < 4 * figures["nll_bound_se"] + divergence / 400 < 0.02
    assert figures["pareto_k"] < 0.7
    biases = [judge.figures({}, longest)["bias"] for longest in (1, 4, 16, 400)]
    assert biases == sorted(biases)
    assert abs(biases[-1]) < 0.01


def wider_guide(points):
    """The posterior with a much larger scale."""
    with numpyro.plate("points", len(points)):
        numpyro.sample("z", dist.Normal(0.5 * points, 1.2).to_event(1))


TRAINED = [
    SUMO(3, stopping_time=SHORT_TAIL, rotations=8, data_axes=0),
    MultilevelSUMO(2, stopping_time=FEW_BLOCKS, data_axes=0),
]


@pytest.mark.parametrize("loss", TRAINED, ids=["sumo", "multilevel"])
def test_the_bound_is_the_mean_of_the_estimates_in_training(loss):
    points = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    task = Task("linear", linear_model, wider_guide, Data(points, points, points), False, (2, 0))
    log_weights = Judge(task, 1, 1, {})._log_weights({}, points, 5_000)
    longest = Arm("", loss).config()["longest"]
    expected, expected_error = _bound_over(longest, log_weights)
    programs = Programs(linear_model, wider_guide, args=(points,))
    sample = jax.jit(lambda key: loss.sample_estimates(key, programs, 2_000)[0])
    estimates = sample(random.key(0))
    error = np.hypot(np.std(estimates) / estimates.size**0.5, expected_error)
    assert abs(float(np.mean(estimates)) - expected) < 4 * error < 0.03
    assert np.isnan(_bound_over(5_001, log_weights)[0])
    of_these = logsumexp(log_weights[:3_000], axis=0).mean() - np.log(3_000)
    np.testing.assert_allclose(_bound_over(3_000, log_weights)[0], of_these)
    shorter = _bound_over(loss.num_particles, log_weights)[0]
    assert expected - shorter > 4 * error
