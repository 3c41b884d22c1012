import json

import pytest

from benchmarks.common.results import RESULTS
from benchmarks.posterior.figures import has_converged
from benchmarks.posterior.report import report
from benchmarks.posterior.tables import overview_table, summary_table
from tests.benchmarks.posterior.results import outcome, results_of, sampler


def test_a_report_shows_every_figure_it_was_given():
    text = report(results_of({"funnel10": outcome("funnel10"), "banana": outcome("banana")}))
    assert (
        "KL between 0.0123 ± 0.0004 and 0.0123 ± 0.0004" in text
        and "k-hat 0.35" in text
        and "(exactly 0)" in text
    )
    assert "395" in text and "accepts 91 %" in text and "from 104 effective draws" in text
    assert "| funnel: ESS / s, × NUTS | 25.0 | at least 10 | yes |" in text
    assert "| funnel, Metropolis: sd of v | 1.000 | 1 ± 3 × 0.010 | yes |" in text
    for name in ("funnel10", "banana"):
        for kind in ("marginals", "pairs", "ranks"):
            assert f"({kind}_{name}.png)" in text
    assert "quick" not in text
    assert "A quick run" in report(results_of({}, steps=50))


CERTIFIED = {"elbo_lower": -0.03, "elbo_upper": -0.02, "kl_lower": 0.21, "kl_upper": 0.32}


@pytest.mark.parametrize(
    "name, k_hat, between, at_most",
    [
        ("funnel10", 0.6, "0.0200 … 0.0300 ± 0.0004", "0.030"),
        ("funnel10", 0.9, "0.0200 … 0.0300 ± 0.0004", "0.030"),
        ("eight_schools", 0.6, "0.2100 … 0.3200 ± 0.0004", "0.320"),
        ("eight_schools", 0.9, "> 0.2100 … 0.3200 ± 0.0004", "> 0.320"),
    ],
)
def test_kl_is_by_the_exact_log_evidence_or_marked_as_a_lower_bound(name, k_hat, between, at_most):
    found = outcome(name)
    found["certificate"] |= {**CERTIFIED, "pareto_k": k_hat}
    results = results_of({name: found})
    assert f" | {between} | {k_hat:.2f} | " in overview_table(results)
    assert f" | {at_most} | " in summary_table(results)
    found["certificate"] |= {"elbo_lower": None, "kl_upper": None}
    assert "… – ±" in overview_table(results) and " | – | " in summary_table(results)


def test_a_report_marks_what_has_not_converged():
    found = outcome("funnel10", break_even_ess=None)
    found["certificate"]["pareto_k"] = 0.9
    found["samplers"]["metropolis"] |= {"r_hat": {"value": 1.2, "of": "v"}}
    text = report(results_of({"funnel10": found}))
    assert "beyond 0.7" in text and "never pays" in text and "**no**" in text
    del found["certificate"], found["samplers"]["metropolis"]
    assert "**diverged**" in report(results_of({"funnel10": found}))


def test_a_sampler_has_converged_if_r_hat_means_and_distances_are():
    good = sampler("", ["v"])
    assert has_converged(good) and not has_converged(None)
    changes = [("r_hat", 1.02), ("r_hat", None), ("mean_error", -0.11), ("ks", 0.11), ("ks", None)]
    for key, value in changes:
        assert not has_converged(good | {key: {"value": value, "of": "v"}})


def test_the_report_is_that_of_its_results():
    file = RESULTS / "posterior" / "posterior.json"
    assert (file.parent / "report.md").read_text() == report(json.loads(file.read_text()))
