"""Four simple targets of known moments, for guides that are spoilt on purpose."""

from functools import cache

import numpy as np

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from benchmarks.guides.problems import Exact, Problem

#: Degrees of freedom of Student's t, and half the distance of the two modes.
DEGREES, HALF_DISTANCE = 4.0, 8.0


def _gaussian(title: str, covariance: np.ndarray) -> Problem:
    zeros, root = np.zeros(len(covariance)), np.linalg.cholesky(covariance)

    def model():
        numpyro.sample("z", dist.MultivariateNormal(zeros, scale_tril=root))

    draw = lambda rng, number: {"z": rng.standard_normal((number, len(zeros))) @ root.T}
    sd = np.sqrt(np.diag(covariance))
    return Problem(title, model, Exact(0.0, {"z": zeros}, {"z": sd}, draw))


def _student_t() -> Problem:
    def model():
        numpyro.sample("z", dist.StudentT(DEGREES).expand([2]).to_event(1))

    draw = lambda rng, number: {"z": rng.standard_t(DEGREES, (number, 2))}
    sd = np.full(2, (DEGREES / (DEGREES - 2.0)) ** 0.5)
    return Problem("Student's t", model, Exact(0.0, {"z": np.zeros(2)}, {"z": sd}, draw))


def _two_modes() -> Problem:
    locs = HALF_DISTANCE * np.array([-1.0, 1.0])

    def model():
        parts = dist.Normal(jnp.asarray(locs), 1.0)
        halves = dist.Categorical(probs=jnp.array([0.5, 0.5]))
        numpyro.sample("z", dist.MixtureSameFamily(halves, parts))

    draw = lambda rng, number: {"z": rng.choice(locs, number) + rng.standard_normal(number)}
    mean, sd = np.zeros(()), np.array((1.0 + HALF_DISTANCE**2) ** 0.5)
    return Problem("two modes", model, Exact(0.0, {"z": mean}, {"z": sd}, draw))


@cache
def simple_targets() -> dict[str, Problem]:
    """The targets by name; each has evidence 1."""
    equal = 0.5 * np.eye(10) + 0.5
    return {
        "gaussian_2": _gaussian("Gaussian, ρ = 0.9", np.array([[1.0, 0.9], [0.9, 1.0]])),
        "gaussian_10": _gaussian("Gaussian, 10 dimensions, ρ = 0.5", equal),
        "student_t": _student_t(),
        "two_modes": _two_modes(),
    }
