"""Stopping times: what is drawn is what the survival function says."""

import numpy as np
import pytest
from scipy.stats import chi2

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo import SUMO
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail, StoppingTime
from tests.helpers.compiling import optimising_jit

TAILS = {
    "paper": ReciprocalTail(),
    "stops_at_the_knee": ReciprocalTail(decay=0.0),
    "short": ReciprocalTail(knee=3, decay=0.5),
    "geometric": ReciprocalTail(knee=1, decay=0.8),
    "late_knee": ReciprocalTail(knee=1000, decay=0.99),
    "doubling": GeometricTail(),
    "doubling_cut_short": GeometricTail(0.6, max_level=3),
}
every_tail = pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS.keys())

KEYS = {"new_style": random.key, "old_style": random.PRNGKey}
every_key = pytest.mark.parametrize("make_key", KEYS.values(), ids=KEYS.keys())


@every_tail
def test_survival_starts_at_one_and_decreases(tail):
    assert tail.survival.shape == (tail.cap,)
    assert tail.survival[0] == 1.0
    assert np.all(np.diff(tail.survival) < 0.0)


@every_tail
def test_probabilities_sum_to_one_and_to_the_survival(tail):
    assert np.all(tail.probabilities > 0.0)
    assert tail.probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    np.testing.assert_allclose(
        np.cumsum(tail.probabilities[::-1])[::-1], tail.survival, rtol=1e-9, atol=1e-15
    )


@every_tail
def test_mean_is_that_of_the_probabilities(tail):
    expected = np.dot(np.arange(1, tail.cap + 1), tail.probabilities)
    assert tail.mean == pytest.approx(expected, rel=1e-12)


@every_tail
def test_log_survival_of_a_jax_array_is_that_of_a_numpy_array(tail):
    k = np.arange(1, tail.cap + 1)
    on_host = tail.log_survival(k)
    on_device = jax.jit(tail.log_survival)(jnp.asarray(k))
    assert on_device.shape == k.shape
    np.testing.assert_allclose(on_device, on_host, rtol=1e-6)


@pytest.mark.parametrize(
    "k, expected",
    [(1, 1.0), (2, 0.5), (79, 1 / 79), (80, 1 / 80), (81, 0.9 / 80), (90, 0.9**10 / 80)],
)
def test_survival_is_that_of_the_paper(k, expected):
    assert ReciprocalTail().survival[k - 1] == pytest.approx(expected, rel=1e-12)


def test_mean_of_the_paper_is_5_08():
    assert round(ReciprocalTail().mean, 2) == 5.08


def test_median_of_the_paper_is_1_and_99th_percentile_82():
    distribution = np.cumsum(ReciprocalTail().probabilities)
    assert 1 + np.searchsorted(distribution, 0.5) == 1
    assert 1 + np.searchsorted(distribution, 0.99) == 82


@pytest.mark.parametrize("name", ["paper", "short", "geometric", "late_knee"])
def test_tail_is_cut_where_survival_falls_below_the_resolution_of_float32(name):
    tail = TAILS[name]
    assert tail.survival[-1] >= 2.0**-24
    assert tail.survival[-1] * tail.decay < 2.0**-24


def test_cap_of_the_paper_is_196():
    assert ReciprocalTail().cap == 196


def test_no_decay_stops_at_the_knee():
    tail = ReciprocalTail(knee=5, decay=0.0)
    assert tail.cap == 5
    np.testing.assert_allclose(tail.survival, [1.0, 1 / 2, 1 / 3, 1 / 4, 1 / 5])
    draws = tail.sample(random.key(0), (10_000,))
    assert (draws.min(), draws.max()) == (1, 5)


def test_knee_of_one_without_decay_always_stops_at_once():
    tail = ReciprocalTail(knee=1, decay=0.0)
    assert tail.mean == 1.0
    assert np.all(tail.sample(random.key(0), (1000,)) == 1)


@every_tail
def test_drawn_counts_are_as_likely_as_survival_says(tail):
    num_draws = 2**24 if tail in (ReciprocalTail(), ReciprocalTail(decay=0.0)) else 2**21
    batch = 2**20

    def add_batch(counts, key):
        draws = tail.sample(key, (batch,))
        return counts + jnp.bincount(draws, length=tail.cap + 1), None

    keys = random.split(random.key(1), num_draws // batch)
    zeros = jnp.zeros(tail.cap + 1, jnp.int32)
    run = optimising_jit(lambda keys: jax.lax.scan(add_batch, zeros, keys)[0])
    counts = np.asarray(run(keys))
    assert counts[0] == 0 and counts.sum() == num_draws

    observed, expected = pool(counts[1:], num_draws * tail.probabilities)
    statistic = np.sum((observed - expected) ** 2 / expected)
    assert chi2.sf(statistic, len(expected) - 1) > 1e-4


def pool(observed, expected):
    """Joins neighbouring bins until each is expected to hold at least ten."""
    pooled, sums = [], np.zeros(2)
    for pair in zip(observed, expected):
        sums = sums + pair
        if sums[1] >= 10.0:
            pooled.append(sums)
            sums = np.zeros(2)
    pooled[-1] = pooled[-1] + sums
    return np.transpose(pooled)


class FineTail(StoppingTime):
    """K is 1 but once in 4096 times, and then any of 2¹⁶ values, at survivals 2⁻²⁸ apart."""

    cap = 2**16 + 1

    def log_survival(self, k):
        return np.log(np.where(k == 1, 1.0, 2.0**-12 * (1.0 - (k - 2) / 2**16)))


def test_survivals_finer_than_a_float32_uniform_are_told_apart():
    """Such a uniform is a multiple of 2⁻²³, of which 32 of these values share one."""
    draws = np.asarray(optimising_jit(lambda key: FineTail().sample(key, (2**23,)))(random.key(3)))
    rare = draws[draws > 1]
    assert len(rare) == pytest.approx(2048, abs=4 * 2048**0.5)
    counts = np.bincount(rare % 32, minlength=32)
    expected = len(rare) / 32
    assert chi2.sf(np.sum((counts - expected) ** 2) / expected, 31) > 1e-4


@every_key
def test_draws_are_int32_of_the_given_shape_under_jit(make_key):
    tail = ReciprocalTail()
    draws = jax.jit(lambda key: tail.sample(key, (50, 4)))(make_key(0))
    assert draws.dtype == jnp.int32 and draws.shape == (50, 4)
    assert len(np.unique(draws)) > 5
    np.testing.assert_array_equal(draws, tail.sample(random.key(0), (50, 4)))


@every_key
def test_vmapped_draws_are_those_of_each_key(make_key):
    tail = ReciprocalTail()
    keys = random.split(make_key(2), 20)
    one_by_one = [int(tail.sample(key)) for key in keys]
    assert len(set(one_by_one)) > 3
    np.testing.assert_array_equal(jax.vmap(tail.sample)(keys), one_by_one)


BAD_OPTIONS = {
    "zero_knee": ({"knee": 0}, "knee to be an integer >= 1; got 0"),
    "negative_knee": ({"knee": -3}, "knee to be an integer >= 1; got -3"),
    "fractional_knee": ({"knee": 2.5}, "knee to be an integer >= 1; got 2.5"),
    "boolean_knee": ({"knee": True}, "knee to be an integer >= 1; got True"),
    "decay_of_one": ({"decay": 1.0}, r"decay in \[0, 1\); got 1.0"),
    "negative_decay": ({"decay": -0.1}, r"decay in \[0, 1\); got -0.1"),
    "decay_not_a_number": ({"decay": float("nan")}, r"decay in \[0, 1\); got nan"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_bad_options_are_refused_in_one_line(options, message):
    with pytest.raises(ValueError, match="Expected " + message) as error:
        ReciprocalTail(**options)
    assert "\n" not in str(error.value)


def test_geometric_survival_is_that_of_the_formula_up_to_what_float32_resolves():
    tail = GeometricTail(0.6464)
    np.testing.assert_allclose(tail.survival, 0.3536 ** np.arange(tail.cap), rtol=1e-12)
    assert tail.survival[-1] >= 2.0**-24 > 0.3536 * tail.survival[-1]


class Custom(StoppingTime):
    """Whatever survival probabilities it is given."""

    def __init__(self, *survival):
        self.given = np.array(survival)

    @property
    def cap(self):
        return len(self.given)

    def log_survival(self, k):
        return np.log(self.given)


NO_STOPPING_TIMES = {
    "no_values": (Custom(), "with cap >= 1; .* has 0. Raise"),
    "may_be_zero": (Custom(0.5, 0.2), r"at least 1, P\(K >= 1\) = 1; .* = 0.5. Fix"),
    "more_than_certain": (Custom(2.0, 0.2), r"P\(K >= 1\) = 2. Fix"),
    "increases": (Custom(1.0, 0.2, 0.3), "that decrease and stay positive .* do not. Fix"),
    "stays": (Custom(1.0, 0.2, 0.2), "that decrease and stay positive"),
}


@pytest.mark.parametrize("tail, message", NO_STOPPING_TIMES.values(), ids=NO_STOPPING_TIMES.keys())
def test_what_is_no_survival_function_is_refused_in_one_line(tail, message):
    with pytest.raises(ValueError, match=message) as error:
        SUMO(stopping_time=tail)
    assert "\n" not in str(error.value)


BAD_GEOMETRIC = {
    "zero": ({"success_probability": 0.0}, "between 0 and 1; got 0.0. Choose"),
    "one": ({"success_probability": 1.0}, "between 0 and 1; got 1.0. Choose"),
    "nan": ({"success_probability": float("nan")}, "between 0 and 1; got nan. Choose"),
    "no_level": ({"max_level": 0}, "max_level to be an integer >= 1; got 0. Pass"),
    "boolean": ({"max_level": True}, "max_level to be an integer >= 1; got True. Pass"),
    "fraction": ({"max_level": 2.5}, "max_level to be an integer >= 1; got 2.5. Pass"),
}


@pytest.mark.parametrize("options, message", BAD_GEOMETRIC.values(), ids=BAD_GEOMETRIC.keys())
def test_geometric_tail_outside_its_range_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GeometricTail(**options)
