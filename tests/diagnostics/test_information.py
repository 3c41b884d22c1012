"""Covariances from independent noisy estimates whose means are known."""

import numpy as np
import pytest

from numpyro_sumo.diagnostics.information import (
    check_information,
    inverse_information,
    jackknife_error,
    newton_step,
    sandwich,
)
from tests.helpers.statistics import assert_mean

SCORES = np.random.default_rng(0).normal(size=(15, 2)) @ np.array([[1.0, 0.5], [0.0, 1.0]])
MEAT = SCORES.T @ SCORES
INFORMATION = np.array([[20.0, 6.0], [6.0, 30.0]])


def noisy(seed, number, noise=1.0):
    """Independent estimates: informations ``(R, 2, 2)`` and scores ``(R, 15, 2)``."""
    rng = np.random.default_rng(seed)
    informations = INFORMATION + noise * rng.normal(size=(number, 2, 2))
    informations = 0.5 * (informations + np.swapaxes(informations, 1, 2))
    return informations, SCORES + noise * rng.normal(size=(number, 15, 2))


def test_products_of_independent_scores_have_no_bias_of_their_noise():
    """The products of mean scores have: 15 data, each with variance 1/3."""
    bread = inverse_information(np.broadcast_to(np.eye(2), (3, 2, 2)))
    runs = [noisy(seed, 3)[1] for seed in range(4_000)]
    assert_mean([sandwich(bread, scores).of_all for scores in runs], MEAT)
    means = np.array([scores.mean(axis=0) for scores in runs])
    assert_mean(np.swapaxes(means, 1, 2) @ means, MEAT + 5.0 * np.eye(2))


def test_what_is_left_out_is_computed_from_the_others():
    informations, scores = noisy(0, 6)
    bread = inverse_information(informations)
    found = sandwich(bread, scores)
    for r in range(6):
        rest = np.delete(informations, r, axis=0), np.delete(scores, r, axis=0)
        of_rest = inverse_information(rest[0])
        np.testing.assert_allclose(bread.left_out[r], of_rest.of_all)
        np.testing.assert_allclose(found.left_out[r], sandwich(of_rest, rest[1]).of_all, rtol=1e-9)


@pytest.mark.parametrize("kind", ["information", "sandwich"])
def test_monte_carlo_error_is_the_spread_of_independent_runs(kind):
    """The ratio of their squares has standard deviation (2 / 999)^½ = 0.045."""
    jacobian = np.array([[1.0, 0.0], [1.0, -2.0]])
    found = []
    for seed in range(1_000):
        informations, scores = noisy(seed, 50)
        covariances = inverse_information(informations)
        if kind == "sandwich":
            covariances = sandwich(covariances, scores)
        found.append(covariances.errors(jacobian))
    errors, reported = map(np.array, zip(*found))
    ratio = (reported**2).mean(axis=0) / errors.var(axis=0, ddof=1)
    assert np.all(np.abs(ratio - 1.0) < 4 * 0.045)


def test_jackknife_error_of_a_mean_is_its_standard_error():
    values = np.random.default_rng(1).normal(size=20)
    left_out = (values.sum() - values) / 19.0
    assert jackknife_error(left_out) == pytest.approx(values.std(ddof=1) / 20**0.5)


def test_newton_step_of_a_quadratic_leads_to_its_maximum():
    target = np.array([0.3, -0.7])
    scores = np.broadcast_to(INFORMATION @ target / 15.0, (10, 15, 2))
    informations = np.broadcast_to(INFORMATION, (10, 2, 2))
    step, error = newton_step(inverse_information(informations), scores)
    np.testing.assert_allclose(step, target)
    np.testing.assert_allclose(error, 0.0, atol=1e-12)


def test_information_within_its_error_of_a_singular_one_is_refused():
    singular = np.array([[1.0, 1.0], [1.0, 1.02]])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(20, 1, 1))
    exact = np.broadcast_to(singular, (20, 2, 2))
    check_information(exact, ("a", "b"), 1e-7)
    with pytest.raises(ValueError, match=r"along \(a \+1, b -0.99\) is -?0.0\d+ ± 0.0\d+, where"):
        check_information(exact + 0.1 * noise * np.eye(2), ("a", "b"), 1e-7)


def test_negative_information_is_refused():
    with pytest.raises(ValueError, match=r"along \(b \+1\) is -1 ± 0"):
        check_information(np.broadcast_to(np.diag([2.0, -3.0]), (10, 2, 2)), ("a", "b"), 1e-7)
