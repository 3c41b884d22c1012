"""A short run of the command, and the report on deviations that are known."""

import json

import numpy as np
import pytest

from benchmarks.parameters import optimisers, run
from benchmarks.parameters import report as report_module
from benchmarks.parameters.__main__ import main
from benchmarks.parameters.errors import count_right, deviations, furthest
from benchmarks.parameters.models import MODELS
from benchmarks.parameters.report import report
from numpyro_sumo import IWELBO

#: The loss that is compiled soonest.
FEW = {"IWELBO": {20: IWELBO(2)}}


def results_of(estimates):
    """Results of one cell with these values of the parameters by seed."""
    cell = {
        "model": "logistic_1",
        "guide": "local",
        "loss": "MultilevelSUMO",
        "draws": 20,
        "optimiser": optimisers.RECIPE,
        "mean_draws": 18.9,
        "seconds": 2.0,
        "compile_seconds": 1.0,
        "estimates": estimates,
    }
    exact = {
        "estimate": {"sigma": 2.0, "slope": -1.0},
        "standard_error": {"sigma": 0.1, "slope": 0.05},
    }
    config = {"steps": 10, "seeds": 2}
    return {
        "configuration": config,
        "exact": {"logistic_1": exact},
        "seconds": 3.0,
        "cells": {"a": cell},
    }


def test_deviations_are_in_percent_and_in_standard_errors():
    results = results_of({"sigma": [2.1, 2.35], "slope": [-1.001, -1.001]})
    found = deviations(results, results["cells"]["a"])
    assert found["sigma"] == pytest.approx((11.25, 6.25, 2.25, 6.625**0.5))
    assert found["slope"].percent == pytest.approx(-0.1)
    assert found["sigma"].is_right  # within two Monte Carlo errors
    assert found["slope"].is_right  # within 0.2 %
    assert count_right(found) == "2 / 2"


def test_report_marks_what_is_wrong_and_survives_a_seed_that_diverged():
    wrong = results_of({"sigma": [2.100, 2.104], "slope": [-1.0, -1.0]})
    assert "| 1 / 2 | sigma | **5.10 ± 0.10** | 1.02 |" in report(wrong)
    diverged = results_of({"sigma": [2.0, None], "slope": [-1.0, -1.0]})
    name, worst = furthest(deviations(diverged, diverged["cells"]["a"]))
    assert name == "sigma" and np.isnan(worst.percent) and not worst.is_right
    assert "| 1 / 2 | sigma | – ± – | – |" in report(diverged)


def test_quick_run_writes_a_report_and_continues_with_optimisers(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MODELS", {"mixed_model": MODELS["mixed_model"]})
    monkeypatch.setattr(run, "LOSSES", FEW)
    names = [optimisers.RECIPE, "Adam"]
    two = lambda steps: {name: optimisers.candidates(steps)[name] for name in names}
    for module in (run, report_module):
        monkeypatch.setattr(module, "candidates", two)
    command = ["--quick", "--steps", "4", "--out", str(tmp_path)]
    assert main(command) == 0
    assert {file.name for file in tmp_path.iterdir()} == {
        "deviations.png",
        "parameters.json",
        "report.html",
        "report.md",
    }
    cells = json.loads((tmp_path / "parameters.json").read_text())["cells"]
    assert set(cells) == {
        f"mixed_model, {guide}, {loss}, 20, {optimisers.RECIPE}"
        for guide in ("local", "amortised")
        for loss in FEW
    }
    for cell in cells.values():
        assert all(len(set(seeds)) == 2 for seeds in cell["estimates"].values())
    for module in (run, report_module):
        monkeypatch.setattr(module, "UNBIASED", tuple(FEW))
    assert main([*command, "--optimisers"]) == 0
    compared = json.loads((tmp_path / "optimisers.json").read_text())["cells"]
    assert [cell["optimiser"] for cell in compared.values()] == names
    text = (tmp_path / "report.md").read_text()
    assert "## Which optimiser?" in text and "nan" not in text
