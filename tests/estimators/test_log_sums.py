"""Running log-sums: against plain sums, their derivative, terms that are nought."""

import numpy as np
import pytest

import jax
import jax.numpy as jnp

from numpyro_sumo.estimators.log_sums import log_add, running_log_sums

RUNS = {
    "one": [17],
    "each_of_one": [1] * 17,
    "of_many_lengths": [1, 4, 2, 9, 1, 3],
    "a_power_of_two": [16, 8],
    "few_terms": [1, 3, 2],
}
every_run = pytest.mark.parametrize("lengths", RUNS.values(), ids=RUNS.keys())


def terms_and_begins(lengths):
    begins = np.concatenate([np.arange(length) == 0 for length in lengths])
    log_terms = 30.0 * np.random.default_rng(0).normal(size=(len(begins), 2))
    return jnp.asarray(log_terms), jnp.asarray(begins)


def plainly(log_terms, lengths):
    """Each run's sums, one after the other."""
    ends = np.cumsum(lengths)
    return jnp.stack(
        [
            jax.nn.logsumexp(log_terms[start : i + 1], axis=0)
            for start, end in zip(ends - lengths, ends)
            for i in range(start, end)
        ]
    )


@every_run
def test_sums_and_their_derivative_are_those_of_plain_sums(lengths):
    with jax.enable_x64(True):
        log_terms, begins = terms_and_begins(lengths)
        factors = jnp.cos(jnp.arange(log_terms.size)).reshape(log_terms.shape)
        got, of_got = jax.vjp(lambda terms: running_log_sums(terms, begins), log_terms)
        expected, of_expected = jax.vjp(lambda terms: plainly(terms, lengths), log_terms)
        np.testing.assert_allclose(got, expected, rtol=1e-12)
        np.testing.assert_allclose(*of_got(factors), *of_expected(factors), rtol=1e-9, atol=1e-15)


@every_run
def test_terms_that_are_nought_add_nothing_and_get_no_derivative(lengths):
    log_terms, begins = terms_and_begins(lengths)
    nought = jnp.arange(len(begins))[:, None] % 3 < jnp.array([1, 3])  # the second: all of them
    held = jnp.where(nought, -jnp.inf, log_terms)
    sums, pull_back = jax.vjp(lambda terms: running_log_sums(terms, begins), held)
    with np.errstate(divide="ignore"):
        expected = plainly(held, lengths)
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    (gradient,) = pull_back(jnp.where(jnp.isneginf(sums), 0.0, 1.0))
    assert np.all(np.isfinite(gradient))
    assert np.all(np.asarray(gradient)[np.asarray(nought)] == 0.0)


@pytest.mark.parametrize("length", [2, 20])
def test_no_number_stays_in_its_run(length):
    begins = jnp.arange(2 * length) % length == 0
    log_terms = jnp.zeros(2 * length).at[length + 1].set(jnp.nan)
    sums, pull_back = jax.vjp(lambda terms: running_log_sums(terms, begins), log_terms)
    place = np.arange(2 * length)
    assert np.isnan(sums).tolist() == (place > length).tolist()
    (gradient,) = pull_back(sums)
    assert np.isnan(gradient).tolist() == (place >= length).tolist()


def test_sum_of_two_noughts_has_no_derivative():
    value, gradient = jax.value_and_grad(log_add)(-jnp.inf, -jnp.inf)
    assert (value, gradient) == (-np.inf, 0.0)
    assert jax.grad(log_add)(1.0, 1.0) == 0.5
