import json

import numpy as np
import pytest

from benchmarks.common.results import RESULTS
from benchmarks.density import variants
from benchmarks.density.plans import FIRST_DRAWS, arms, plans
from benchmarks.density.report import report, summary_table
from benchmarks.density.tables import figures, mean, paired_difference
from numpyro_sumo.losses.objectives import SampleViews
from numpyro_sumo.ragged import GUIDE


@pytest.mark.parametrize("draws", [5, 15, 50])
def test_all_arms_make_about_the_same_number_of_draws(draws):
    for name, arm in arms(draws).items():
        # Tails that are not cut have no option for their mean but the number of first draws.
        off = 1.2 if name in FIRST_DRAWS else 0.1
        assert abs(arm.config()["draws"] - draws) < max(off, 0.06 * draws * (off > 1.0))
        assert (arm.config()["longest"] is None) == (name in FIRST_DRAWS)


def test_differences_are_over_the_seeds_that_both_arms_have():
    runs = {
        "iwelbo": {0: {"nll": 1.0}, 1: {"nll": 2.0}},
        "sumo": {0: {"nll": 1.5}, 1: {"nll": 2.1}, 2: {"nll": 40.0}},
        "lost": {0: {"nll": 1.0}, 1: {"nll": None}},
        "far": {0: {"nll": 1.0}, 1: {"nll": 45.0}},
    }
    for run in (run for by_seed in runs.values() for run in by_seed.values()):
        run["validation"] = [[0, 44.0]]
    difference = paired_difference(runs, "sumo", "nll")
    np.testing.assert_allclose(difference, (0.3, 0.2))
    assert paired_difference(runs, "iwelbo", "nll") is None
    for name in ("lost", "far"):
        assert np.isnan(paired_difference(runs, name, "nll").value)
        assert str(mean(figures(runs[name], "nll"))) == "**diverged**"


def results_of(plans, runs):
    """Results as in the JSON: one plan of digits, and NLL by arm and seed."""
    config = {name: plan.config() for name, plan in plans.items()}
    figures = {"nll_se": 0.1, "nll_bound_se": 0.1, "bias": -0.5, "pareto_k": 0.6, "seconds": 3.0}
    norm = {"median": 5.0, "99.9 %": 60.0, "clipped": 0.25}
    norms = {"gradient_norms": {"model": norm, "guide": norm}, "validation": [[0, 44.0]]}
    norms["workers"] = 2
    cells = {
        f"{arm}-{seed}": {"plan": "digits", "draws": 5, "arm": arm, "seed": seed, "nll": nll}
        | {"nll_bound": nll, **figures, **norms}
        for arm, by_seed in runs.items()
        for seed, nll in enumerate(by_seed)
    }
    return {"configuration": {"plans": config}, "runs": cells, "seconds": 60.0}


def test_summary_has_a_row_for_each_data_set_and_number_of_draws():
    runs = {"iwelbo": [22.0, 23.0], "sumo": [21.5, 22.3], "sumo_cut": [21.9, 1e6]}
    table = summary_table(results_of(plans(False), runs))
    header, _, row = table.splitlines()
    cells = dict(zip(header.split("|"), row.split("|")))
    assert cells[" data "] == " digits "
    assert cells[" IWELBO "] == " 22.500 ± 0.500 "
    assert cells[" SUMO "] == " **−0.600 ± 0.100** "
    assert cells[" SUMO, tail cut "] == " **1 of 2 diverged** "
    assert cells[" ELBO "] == " – "


def test_variants_make_as_many_draws_and_are_compared_with_their_own_loss():
    for arm in variants.variants().values():
        assert abs(arm.config()["draws"] - variants.DRAWS) < 0.1
    runs = {"iwelbo": [22.0, 23.0], "sumo": [21.0, 22.0], "sumo_clip_3": [21.1, 22.4]}
    text = variants.report(results_of(variants.variant_plans(False), runs))
    assert "| unchanged | 5.1 | 2 | 21.500 ± 0.500 | – | −0.500 ± 0.000 | 3.0 | 5.0 |" in text
    assert "| gradients clipped at 3 | 5.1 | 2 | 21.750 ± 0.650 | 0.250 ± 0.150 |" in text


def test_the_objective_without_a_baseline_is_the_square_of_the_estimate(monkeypatch):
    loss = variants.PlainSUMO(3, guide_objective="variance")
    estimates = np.array([-3.0, np.inf])
    monkeypatch.setattr(loss, "estimate", lambda sample: estimates + 0.0 * sample.kept)
    views = SampleViews({GUIDE: np.zeros(2)}, np.zeros(2, int), {})
    np.testing.assert_array_equal(loss.guide_value(None, views, None, None), [9.0, 0.0])


@pytest.mark.parametrize(
    "file, report",
    [("density/density.json", report), ("density_variants/variants.json", variants.report)],
    ids=["density", "variants"],
)
def test_reports_are_those_of_their_results(file, report):
    file = RESULTS / file
    assert (file.parent / "report.md").read_text() == report(json.loads(file.read_text()))
