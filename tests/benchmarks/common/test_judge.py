import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.common.judge import (
    break_even_ess,
    judge_against,
    kolmogorov_smirnov,
    quantiles,
    worst,
)


def test_kolmogorov_smirnov_is_the_largest_gap_of_the_distribution_functions():
    draws = np.array([[-1.0, 0.0], [0.5, 2.0]])
    ordered = np.sort(draws.ravel())
    gaps = [
        max(abs(i / 4 - norm.cdf(x)), abs((i + 1) / 4 - norm.cdf(x))) for i, x in enumerate(ordered)
    ]
    assert kolmogorov_smirnov(draws, norm.cdf) == pytest.approx(max(gaps))


def test_quantiles_go_by_the_name_of_their_probability():
    assert quantiles(np.arange(101.0), [0.01, 0.5]) == {"0.01": 1.0, "0.5": 50.0}


def test_errors_are_in_standard_deviations_of_the_exact_distribution():
    rng = np.random.default_rng(0)
    points = rng.permutation(norm.ppf((np.arange(4_000) + 0.5) / 4_000)).reshape(4, 1_000)
    draws = {"moved": 5.0 + 2.0 * (points + 0.3), "wide": 5.0 + 3.0 * points}
    exact = {name: norm(5.0, 2.0) for name in draws}
    _, figures = judge_against(draws, exact, (0.025, 0.5, 0.975), (0.025, 0.975))
    errors = figures["errors"]
    assert errors["mean"] == pytest.approx({"moved": 0.3, "wide": 0.0}, abs=1e-3)
    assert errors["sd"] == pytest.approx({"moved": 0.0, "wide": 0.5}, abs=2e-3)
    assert errors["tails"] == pytest.approx({"moved": 0.3, "wide": 0.98}, abs=5e-3)
    assert figures["ks"]["moved"] == pytest.approx(2 * norm.cdf(0.15) - 1, abs=1e-3)


def test_the_worst_value_is_the_farthest_or_the_least_or_nan():
    assert worst({"a": 0.2, "b": -0.5}) == {"value": -0.5, "of": "b"}
    assert worst({"a": 20.0, "b": 5.0}, least=True) == {"value": 5.0, "of": "b"}
    assert worst({"a": np.nan, "b": 5.0})["of"] == "a"


def test_total_times_are_equal_at_the_break_even_ess():
    n = break_even_ess(60.0, 500.0, 4.0, 20.0)
    assert 60.0 + n / 500.0 == pytest.approx(4.0 + n / 20.0)
    assert break_even_ess(1.0, 500.0, 4.0, 20.0) == 0.0
    assert break_even_ess(60.0, 20.0, 4.0, 500.0) == np.inf
    assert break_even_ess(60.0, np.nan, 4.0, 500.0) == np.inf
