import numpy as np
import pytest
from scipy.stats import norm

from numpyro_sumo.reports import kolmogorov_smirnov, quantiles, summarise, to_arviz


def test_arviz_data_keeps_chains_draws_and_sample_stats(tmp_path):
    v = np.arange(8.0).reshape(2, 4)
    data = to_arviz({"v": v, "x": -v}, {"diverging": v > 5})
    np.testing.assert_array_equal(data.posterior["v"].values, v)
    np.testing.assert_array_equal(data.posterior["x"].values, -v)
    assert data.sample_stats["diverging"].values.sum() == 2
    data.to_netcdf(tmp_path / "draws.nc")
    assert (tmp_path / "draws.nc").stat().st_size > 0


def test_draws_without_a_chain_axis_are_refused():
    with pytest.raises(ValueError, match=r"shape \(chain, draw, ...\); 'v' has shape \(3,\)"):
        to_arviz({"v": np.zeros(3)})


def test_a_summary_of_independent_draws_has_full_ess_and_their_moments():
    v = np.random.default_rng(0).normal(2.0, 3.0, (4, 1_000))
    line = summarise(to_arviz({"v": v}))["v"]
    assert line["mean"] == pytest.approx(v.mean())
    assert line["sd"] == pytest.approx(v.std(ddof=1), rel=1e-3)
    assert line["ess_bulk"] > 3_000 and abs(line["r_hat"] - 1) < 0.01
    assert line["mcse_mean"] == pytest.approx(3 / np.sqrt(4_000), rel=0.15)


def test_kolmogorov_smirnov_is_the_largest_gap_of_the_distribution_functions():
    draws = np.array([[-1.0, 0.0], [0.5, 2.0]])
    ordered = np.sort(draws.ravel())
    gaps = [
        max(abs(i / 4 - norm.cdf(x)), abs((i + 1) / 4 - norm.cdf(x))) for i, x in enumerate(ordered)
    ]
    assert kolmogorov_smirnov(draws, norm.cdf) == pytest.approx(max(gaps))


def test_quantiles_go_by_the_name_of_their_probability():
    assert quantiles(np.arange(101.0), [0.01, 0.5]) == {"0.01": 1.0, "0.5": 50.0}
