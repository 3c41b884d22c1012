import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.guides import __main__ as command
from benchmarks.guides import chain_means, cross_validation, warm_starts
from benchmarks.guides.chain_means import mean_jobs
from benchmarks.guides.cross_validation import LOO_PARTS, loo_jobs, psis_loo
from benchmarks.guides.report_chains import (
    chains_sections,
    errors_apart,
    seconds_to_ess,
    share_of_plain,
)
from benchmarks.guides.report_means import means_section
from benchmarks.guides.studies import houses, start_studies
from benchmarks.guides.warm_starts import start_jobs
from numpyro_sumo.diagnostics.arviz import IS_ARVIZ_1

LOO = LOO_PARTS[IS_ARVIZ_1]


def loo_cell(elpd, large_k):
    """Certificates of a guide, beside chains of elpd −30 whose Monte Carlo error is 0.3."""
    nuts = {"elpd": -30.0, "elpd_se": 2.0, "monte_carlo_se": 0.3, "largest_k": 0.61}
    count = len(elpd)
    of_guide = {"elpd": elpd, "monte_carlo_se": [0.4] * count, "elpd_se": [2.1] * count}
    more = {"largest_pointwise": [0.123] * count, "largest_k": [0.65] * count, "large_k": large_k}
    size = cross_validation.Size()._asdict()
    return of_guide | more | {"nuts": nuts, "num_data": 8, "size": size}


def variant(before, drawing, ess, r_hat=1.001, compiling=0.0):
    return {
        "seconds": {"warm-up": before, "draws": drawing},
        "compile_seconds": {"warm-up": compiling, "draws": 0.0},
        "r_hat": r_hat,
        "ess": ess,
        "steps_of_a_draw": 7.0,
    }


def start_cell(plain, normal, multivariate):
    variants = {"NUTS": plain, "AutoNormal": normal, "AutoMultivariateNormal": multivariate}
    return {"variants": variants, "size": warm_starts.Size()._asdict()}


def test_difference_of_elpd_is_in_errors_of_both():
    np.testing.assert_allclose(errors_apart(loo_cell([-29.5, -31.5], [0, 0])), [1.0, -3.0])


def test_report_counts_certificates_within_two_errors_of_nuts():
    cell = loo_cell([-29.5, -31.5, -30.2], [0, 0, 3])
    text = chains_sections({"loo": {"schools": {"AutoNormal": cell}}})
    assert "1 of 2 certificates without a warning lie within 2 combined" in text
    assert "and 1 of 1 with one; the largest difference of all is 75.0% of the SE of elpd" in text
    row = "| −31.50 ± 0.40 | −30.00 ± 0.30 | **−3.0** | −0.750 | 0.123 | 0.65 | 0.61 | 0 of 8 |"
    assert f"| eight schools, non-centred | AutoNormal {row}" in text
    assert "| 1.0 | 0.250 |" in text and "| 3 of 8 |" in text


def test_report_without_warnings_names_none():
    text = chains_sections({"loo": {"schools": {"AutoNormal": loo_cell([-30.0], [0])}}})
    assert "1 of 1 certificates without a warning" in text and "with one" not in text


def test_report_has_a_table_for_each_version_of_arviz():
    cells = {
        "loo": {"schools": {"AutoNormal": loo_cell([-30.0], [0])}},
        "loo_arviz_1": {"schools": {"AutoNormal": loo_cell([-35.0], [0]) | {"arviz": "1.3.0"}}},
    }
    text = chains_sections(cells)
    assert "By ArviZ 0.23: **1 of 1 certificates" in text
    assert "By ArviZ 1.3.0: **0 of 1 certificates" in text
    assert text.count("## Is leave-one-out") == 1
    del cells["loo"]
    assert "By ArviZ 1.3.0" in chains_sections(cells)


def means_cell(z, r_hat):
    size = chain_means.Size()._asdict()
    return {"z": z, "r_hat": r_hat, "ess": 800.0, "accept_prob": 0.81, "size": size}


def test_report_counts_means_within_four_errors_with_and_without_convergence():
    cells = {
        "AutoNormal": means_cell([0.5, -3.9], 1.001),
        "AutoIAFNormal": means_cell([4.1, 0.2], 1.2),
        "AutoBNAFNormal": means_cell([None, 0.2], None),
    }
    text = means_section({"normal_gamma": cells})
    assert "**4 of 6 means of all 3 guides lie within 4 MCSE of the exact ones" in text
    assert "of the 1 guides whose chains have an R-hat of at most 1.01, 2 of 2.**" in text
    assert "| AutoNormal | 81% | 1.001 | 800 | 2 of 2 | 3.9 |" in text
    assert "| AutoIAFNormal | 81% | **1.200** | 800 | **1 of 2** | 4.1 |" in text
    assert "| AutoBNAFNormal | 81% | **–** | 800 | **1 of 2** | – |" in text
    assert means_section({}) == ""


def test_means_of_a_chain_from_a_trained_guide_are_exact():
    cell = chain_means.compare_means(
        "normal_gamma", "AutoNormal", 0, chain_means.Size(50, 1_000, 0.2)
    )
    assert len(cell["z"]) == 2 and max(map(abs, cell["z"])) < 4.0
    assert cell["r_hat"] < 1.05 and cell["accept_prob"] > 0.5 and cell["ess"] > 100


def test_seconds_are_those_before_the_draws_and_a_share_of_the_draws():
    one = variant(10.0, 4.0, ess=800.0, compiling=20.0)
    assert seconds_to_ess(one, compiled=False) == 12.0
    assert seconds_to_ess(one, compiled=True) == 32.0
    one["seconds"] |= {"train": 3.0, "certify": 0.5, "warm start": 0.25}
    assert seconds_to_ess(one, compiled=False) == 15.75


@pytest.mark.parametrize("r_hat", [1.011, math.nan, None])
def test_chains_that_have_not_converged_never_get_there(r_hat):
    assert seconds_to_ess(variant(1.0, 1.0, 400.0, r_hat), compiled=False) is None


def test_share_is_the_median_of_repeats():
    plain, failed = variant(10.0, 10.0, 400.0), variant(1.0, 1.0, 400.0, r_hat=1.5)
    cells = {
        str(seconds): start_cell(plain, variant(seconds, 1.0, 400.0), failed)
        for seconds in (3.0, 5.0, 19.0)
    }
    assert share_of_plain(cells, "AutoNormal", compiled=False) == 0.3
    assert share_of_plain(cells, "AutoMultivariateNormal", compiled=False) == math.inf
    unknown = {"1": start_cell(failed, plain, plain)}
    assert share_of_plain(unknown, "AutoNormal", compiled=False) is None


VERDICTS = {
    "pays": (9.0, "**pays** (0.50 of the seconds of plain NUTS)"),
    "saves": (15.0, "**saves less than the bar asks** (0.80 of the seconds of plain NUTS)"),
    "loses": (20.0, "**does not pay** (1.05 of the seconds of plain NUTS)"),
}


@pytest.mark.parametrize("before, verdict", VERDICTS.values(), ids=VERDICTS)
def test_report_says_whether_the_better_start_pays(before, verdict):
    plain, worse = variant(10.0, 10.0, 400.0), variant(50.0, 1.0, 400.0)
    warm = variant(before, 1.0, 400.0, compiling=100.0)
    cells = {"repeat 1": start_cell(plain, worse, warm)}
    text = chains_sections({"warm_start": {"logistic": cells}})
    assert "the better guide is AutoMultivariateNormal, whose start " + verdict in text
    assert "without compilation, and **does not pay** (" in text
    assert "| Hierarchical logistic regression | plain NUTS | – |" in text and "nan" not in text


def test_report_says_that_a_start_fails_whose_chains_do_not_converge():
    failed = variant(1.0, 1.0, 400.0, r_hat=1.5)
    cells = {"repeat 1": start_cell(variant(10.0, 10.0, 400.0), failed, failed)}
    text = chains_sections({"warm_start": {"logistic": cells}})
    assert "whose start **does not pay** (R-hat above 1.01) without" in text
    cells = {"repeat 1": start_cell(failed, failed, failed)}
    text = chains_sections({"warm_start": {"logistic": cells}})
    assert "plain NUTS has an R-hat above 1.01; there is no comparison" in text


def test_results_without_chains_have_no_section():
    assert chains_sections({"evidence": {}, "comfort": {}}) == ""


def test_loo_of_exact_draws_is_the_exact_one():
    """y ~ N(x, 1) with x ~ N(0, 1): x given both data is N(1/2, 1/3)."""
    y, rng = np.array([0.3, 1.2]), np.random.default_rng(0)
    x = rng.normal(y.sum() / 3, 3**-0.5, (4, 2_500))
    pointwise, pareto_k = psis_loo(stats.norm.logpdf(y, x[..., None]))
    exact = stats.norm.logpdf(y, y[::-1] / 2, 1.5**0.5)
    np.testing.assert_allclose(pointwise, exact, atol=0.02)
    assert np.all(pareto_k < 0.7)


def test_loo_of_a_datum_whose_likelihood_is_the_same_for_all_draws_is_that_likelihood():
    """ArviZ 1.x raises an error for it."""
    rng = np.random.default_rng(1)
    log_likelihood = np.stack([rng.normal(-1.0, 0.1, (4, 500)), np.full((4, 500), -0.25)], axis=-1)
    pointwise, pareto_k = psis_loo(log_likelihood)
    assert pointwise[1] == pytest.approx(-0.25) and pareto_k[1] == -np.inf
    assert pointwise[0] == pytest.approx(-1.005, abs=0.02) and np.isfinite(pareto_k[0])
    alone, _ = psis_loo(log_likelihood[..., 1:])
    assert alone == pytest.approx(-0.25)


def test_houses_are_two_to_twenty_in_each_of_forty_counties():
    sizes = np.bincount(houses()["county"])
    assert len(sizes) == 40 and sizes.min() >= 2 and sizes.max() <= 20
    assert set(houses()["floor"]) == {0, 1} and 300 < sizes.sum() < 500


def test_quick_form_has_one_small_model_of_each_comparison():
    jobs = command.jobs_of(quick=True)
    assert [job for job in jobs if job[0] in command.COMPARISONS] == [
        (LOO, "schools", "AutoMultivariateNormal"),
        ("warm_start", "schools", "repeat 1"),
        ("chain_means", "normal_gamma", "AutoNormal"),
    ]
    assert len(loo_jobs(quick=False)) == 5 and len(start_jobs(quick=False)) == 6
    assert len(mean_jobs(quick=False)) == 48
    jobs = command.jobs_of(quick=False)
    assert len(set(jobs)) == len(jobs)
    assert {model for _, model, _ in start_jobs(quick=False)} <= start_studies().keys()


@pytest.mark.slow
@pytest.mark.parametrize("part", [LOO, "warm_start"])
def test_tiny_comparison_is_reported(part):
    tiny = {
        LOO: cross_validation.Size(1, 200, 20, 25, 0.01),
        "warm_start": warm_starts.Size(20, 10, 20, 200, 0.01),
    }
    _, model, name = {LOO: loo_jobs, "warm_start": start_jobs}[part](True)[0]
    cell = command.COMPARISONS[part][0](model, name, 0, tiny[part])
    text = chains_sections({part: {model: {name: cell}}})
    assert "eight schools" in text and "nan" not in text
