import numpy as np
import pytest

from numpyro_sumo.diagnostics.arviz import arviz_data, summarise
from numpyro_sumo.diagnostics.pareto_k import pareto_k, pareto_smoothed


def test_arviz_data_keeps_chains_draws_and_sample_stats(tmp_path):
    v = np.arange(8.0).reshape(2, 4)
    data = arviz_data({"posterior": {"v": v, "x": -v}, "sample_stats": {"diverging": v > 5}})
    np.testing.assert_array_equal(data.posterior["v"].values, v)
    np.testing.assert_array_equal(data.posterior["x"].values, -v)
    assert data.sample_stats["diverging"].values.sum() == 2
    data.to_netcdf(tmp_path / "draws.nc")
    assert (tmp_path / "draws.nc").stat().st_size > 0


def test_draws_without_a_chain_axis_are_refused():
    with pytest.raises(ValueError, match=r"shape \(chain, draw, ...\); 'v' has shape \(3,\)"):
        arviz_data({"posterior": {"v": np.zeros(3)}})


def test_a_summary_of_independent_draws_has_full_ess_and_their_moments():
    v = np.random.default_rng(0).normal(2.0, 3.0, (4, 1_000))
    line = summarise(arviz_data({"posterior": {"v": v}}))["v"]
    assert line["mean"] == pytest.approx(v.mean())
    assert line["sd"] == pytest.approx(v.std(ddof=1), rel=1e-3)
    assert line["ess_bulk"] > 3_000 and abs(line["r_hat"] - 1) < 0.01
    assert line["mcse_mean"] == pytest.approx(3 / np.sqrt(4_000), rel=0.15)


def test_smoothed_weights_add_up_to_one_and_leave_the_body_alone():
    log_weights = np.random.default_rng(0).standard_t(3.0, (2, 1_000)) + 5.0
    smoothed, k_hat = pareto_smoothed(log_weights)
    np.testing.assert_array_equal(k_hat, pareto_k(log_weights))
    np.testing.assert_allclose(np.exp(smoothed).sum(axis=1), 1.0)
    np.testing.assert_array_equal(np.argsort(smoothed), np.argsort(log_weights))
    for raw, row in zip(log_weights, smoothed):
        body = raw < np.sort(raw)[-96]
        shift = (raw - row)[body]
        np.testing.assert_allclose(shift, shift[0])
        assert row.max() + shift[0] <= raw.max() + 1e-9


def test_smoothed_tail_is_that_of_the_pareto_distribution():
    """Weights u^(−k) have a Pareto tail of shape k, whose upper quantiles smoothing finds."""
    draws = np.random.default_rng(1).uniform(size=20_000)
    smoothed, k_hat = pareto_smoothed(-0.5 * np.log(draws))
    assert float(k_hat) == pytest.approx(0.5, abs=0.15)
    share = np.sort(np.exp(smoothed))[-200:].sum()
    assert share == pytest.approx(0.01**0.5, rel=0.1)


def test_weights_that_are_the_same_have_no_tail_and_few_weights_none_that_can_be_told(monkeypatch):
    monkeypatch.setattr("numpyro_sumo.diagnostics.pareto_k._smooth_tail", None)
    for draws, expected in ((100, -np.inf), (20, -np.inf)):
        smoothed, k_hat = pareto_smoothed(np.full(draws, 3.0))
        np.testing.assert_allclose(smoothed, -np.log(draws))
        assert k_hat == expected
    few = np.arange(10.0)
    smoothed, k_hat = pareto_smoothed(few)
    np.testing.assert_allclose(smoothed - smoothed[0], few)
    assert k_hat == np.inf


def test_weights_of_zero_stay_zero():
    log_weights = np.random.default_rng(2).normal(size=400)
    log_weights[::2] = -np.inf
    smoothed, k_hat = pareto_smoothed(log_weights)
    np.testing.assert_array_equal(np.isneginf(smoothed), np.isneginf(log_weights))
    assert np.isfinite(k_hat)
