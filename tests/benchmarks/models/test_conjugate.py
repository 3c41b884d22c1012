import numpy as np
import pytest

import jax
from jax import random

from benchmarks.models.conjugate import MODELS
from numpyro_sumo import IWELBO
from numpyro_sumo.programs.programs import Programs


@pytest.fixture(scope="module", params=MODELS.values(), ids=MODELS.keys())
def problem(request):
    return request.param


@pytest.fixture(scope="module")
def log_weights(problem):
    """Maps the mismatch to 200 log-weights, summed over the data."""

    @jax.jit
    def at(mismatch):
        params, args = {"theta": problem.theta}, (problem.x, mismatch)
        programs = Programs(problem.model, problem.guide, params, args)
        return IWELBO(1).sample_estimates(random.key(0), programs, 200)[0]

    return lambda mismatch: np.asarray(at(mismatch)).reshape(200, -1).sum(axis=1)


def test_weights_without_mismatch_are_the_closed_form(problem, log_weights):
    exact = float(problem.log_evidence(problem.theta, problem.x))
    np.testing.assert_allclose(log_weights(0.0), exact, atol=2e-4)


def test_mismatch_spreads_the_weights(log_weights):
    near, far = (log_weights(mismatch).std() for mismatch in (0.1, 0.5))
    assert 0.01 < near < far
