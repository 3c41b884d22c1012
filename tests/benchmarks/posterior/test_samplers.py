import numpy as np

import jax.numpy as jnp

from numpyro.infer.util import log_density

from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.samplers import power_at, tempered


def test_the_power_of_a_target_rises_geometrically_to_one():
    powers = [power_at(step, 0.01, 1_000) for step in (0, 175, 350, 700, 999)]
    np.testing.assert_allclose(powers, [0.01, 0.1**1.5, 0.1, 1.0, 1.0], rtol=1e-5)
    assert power_at(3, 1.0, 1_000) == 1.0


def test_a_tempered_model_is_the_model_to_that_power():
    problem, z = PROBLEMS["eight_schools"](), {"mu": 3.0, "tau": 2.0, "theta": jnp.arange(8.0)}
    whole = log_density(problem.model, problem.args, {}, z)[0]
    program = tempered(problem.model)
    part = log_density(program, problem.args, {"power": 0.3}, z)[0]
    np.testing.assert_allclose(part, 0.3 * whole, rtol=1e-5)
    np.testing.assert_allclose(log_density(program, problem.args, {}, z)[0], whole, rtol=1e-5)
