"""The exact likelihoods are those of the programs, and their maxima are maxima."""

from dataclasses import dataclass

import numpy as np
import pytest
from scipy.special import logsumexp

import jax
import jax.numpy as jnp

from numpyro.infer.util import log_density

from benchmarks.parameters import exact
from benchmarks.parameters.by_quadrature import NUM_NODES
from benchmarks.parameters.gaussian import linear_mixed_model
from benchmarks.parameters.latent_models import GUIDES, LatentModel
from benchmarks.parameters.models import MODELS

GRID = np.linspace(-40.0, 40.0, 16_001)


@dataclass
class Joint:
    """log p(x, z) of the first few data of a model at its starting values, by its program."""

    problem: LatentModel
    num_data: int = 4

    def __post_init__(self):
        self.data = [part[: self.num_data] for part in self.problem.data]
        self.params = {
            name: jnp.asarray(p.start, float) for name, p in self.problem.parameters.items()
        }

    def __call__(self, z):
        args = *map(jnp.asarray, self.data), jnp.arange(self.num_data)
        return log_density(self.problem.model, args, {}, self.params | {"z": z})[0]


def of_dimension(wanted):
    return [name for name, problem in MODELS.items() if (problem.latent_size == 1) == wanted]


@pytest.mark.parametrize("name", of_dimension(True))
def test_likelihood_by_quadrature_is_that_of_the_program(name):
    joint = Joint(MODELS[name], num_data=1)
    values = jax.jit(jax.vmap(lambda z: joint(z[None, None])))(jnp.asarray(GRID))
    expected = logsumexp(np.asarray(values, float)) + np.log(GRID[1] - GRID[0])
    assert MODELS[name].log_likelihood(joint.params, *joint.data) == pytest.approx(
        expected, abs=1e-3
    )


@pytest.mark.parametrize("name", of_dimension(False))
def test_likelihood_in_closed_form_is_that_of_the_program(name):
    joint = Joint(MODELS[name])
    shape = joint.num_data, MODELS[name].latent_size
    flat = lambda z: joint(z.reshape(shape))

    @jax.jit
    def by_laplace():
        """The log-joint is quadratic in z: one Newton step is the mode, and this is exact."""
        start = jnp.zeros(np.prod(shape))
        information = -jax.hessian(flat)(start)
        mode = jnp.linalg.solve(information, jax.grad(flat)(start))
        return flat(mode) - 0.5 * jnp.linalg.slogdet(information / (2.0 * jnp.pi))[1]

    expected = by_laplace()
    found = MODELS[name].log_likelihood(joint.params, *joint.data)
    assert found == pytest.approx(float(expected), abs=2e-3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("guide", GUIDES)
def test_guides_have_the_latent_site_of_the_model(name, guide):
    problem = MODELS[name]
    event_shapes = []

    @jax.jit
    def density():
        z = jnp.zeros((len(problem.data[0]), problem.latent_size))
        density, trace = log_density(GUIDES[guide](problem), problem.args, {}, {"z": z})
        event_shapes.append(trace["z"]["fn"].event_shape)
        return density

    assert jnp.isfinite(density()) and event_shapes == [(problem.latent_size,)]


def test_estimate_by_quadrature_does_not_depend_on_the_number_of_nodes():
    coarse, fine = (
        exact.maximum_likelihood(MODELS["logistic_3"], num_nodes=number)
        for number in (NUM_NODES, 2 * NUM_NODES)
    )
    assert coarse.gradient < 1e-6
    assert coarse.estimate == pytest.approx(fine.estimate, rel=1e-9)
    assert coarse.standard_error == pytest.approx(fine.standard_error, rel=1e-9)


def test_estimate_of_the_mean_of_a_mixed_model_is_that_of_least_squares():
    # All groups have the same times: the fixed effects are those of the mean curve.
    problem = linear_mixed_model()
    found = exact.maximum_likelihood(problem)
    times = np.arange(4.0)
    curve = problem.data[0].mean(axis=0)
    at = found.estimate
    covariance = (
        at["sd_intercept"] ** 2
        + at["sd_slope"] ** 2 * np.outer(times, times)
        + at["sd_noise"] ** 2 * np.eye(4)
    )
    design = np.stack([np.ones(4), times], axis=1)
    weighted = np.linalg.solve(covariance, design)
    information = len(problem.data[0]) * design.T @ weighted
    expected = np.linalg.solve(design.T @ weighted, weighted.T @ curve)
    assert [at["intercept"], at["slope"]] == pytest.approx(expected.tolist(), rel=1e-6)
    errors = np.sqrt(np.diag(np.linalg.inv(information)))
    assert found.standard_error["slope"] == pytest.approx(errors[1], rel=1e-6)
