"""The chain over draws of a guide that are weighted already."""

import numpy as np
import pytest

from numpyro_sumo.mcmc.chain_of_draws import chain_of_draws


def test_the_posterior_is_invariant():
    """Proposals from N(0, 1.5²) for N(0.5, 1): mean and sd of the chains within 4 errors."""
    rng = np.random.default_rng(0)
    z = rng.normal(0.0, 1.5, 40_000)
    log_weights = -0.5 * (z - 0.5) ** 2 + 0.5 * (z / 1.5) ** 2
    states, acceptance = chain_of_draws(rng, log_weights, 4)
    assert states.shape == (4, 10_000 - 64)
    draws = z[states]
    # Acceptance is about 0.7, so that the autocorrelation time is about 2.
    error = np.sqrt(2.0 / draws.size)
    assert abs(draws.mean() - 0.5) < 4 * error
    assert abs(draws.std() - 1.0) < 4 * error
    assert 0.5 < acceptance < 0.9


def test_equal_weights_are_always_accepted_in_their_order():
    states, acceptance = chain_of_draws(np.random.default_rng(0), np.zeros(400), 2)
    assert acceptance == 1.0
    np.testing.assert_array_equal(states, np.arange(400).reshape(2, 200)[:, 64:])


def test_draws_outside_the_support_are_never_states():
    log_weights = np.where(np.arange(1_000) % 2, -np.inf, 0.0)
    states, acceptance = chain_of_draws(np.random.default_rng(0), log_weights, 2)
    assert not np.any(states % 2)
    assert acceptance == pytest.approx(0.5)


def test_acceptance_is_the_ratio_of_weights():
    """Heavy draws are always accepted; light ones, of a quarter of the weight, follow at 1/4."""
    log_weights = np.where(np.arange(80_000) % 2, np.log(0.25), 0.0)
    states, acceptance = chain_of_draws(np.random.default_rng(0), log_weights, 1)
    is_light = states[0] % 2 == 1
    assert not is_light[::2].any()
    assert is_light[1::2].mean() == pytest.approx(0.25, abs=0.01)
    assert acceptance == pytest.approx((1.0 + 0.25) / 2, abs=0.01)
