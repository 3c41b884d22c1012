import json

import numpy as np
import pytest

from jax import random

from benchmarks.evidence import __main__ as evidence
from benchmarks.models.conjugate import MODELS
from numpyro_sumo import IWELBO
from tests.helpers.compiling import quick_jit

every_model = pytest.mark.parametrize("problem", MODELS.values(), ids=MODELS.keys())


def weights(problem, mismatch):
    """Single log-weights, by datum where there are plates, summed over the data."""
    estimates = lambda key: IWELBO(1).estimates(
        key,
        {"theta": problem.theta},
        problem.model,
        problem.guide,
        (problem.x, mismatch),
        {},
        200,
    )
    values, _ = quick_jit(estimates)(random.key(0))
    return np.asarray(values).reshape(200, -1).sum(axis=1)


@every_model
def test_guide_without_mismatch_weighs_every_draw_by_the_closed_form(problem):
    exact = float(problem.log_evidence(problem.theta, problem.x))
    np.testing.assert_allclose(weights(problem, 0.0), exact, atol=2e-4)


@every_model
def test_mismatch_spreads_the_weights(problem):
    assert weights(problem, 0.1).std() < weights(problem, 0.5).std()
    assert weights(problem, 0.1).std() > 0.01


def test_quick_run_writes_report_figures_and_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(evidence, "MODELS", {"beta": MODELS["beta"]})
    monkeypatch.setattr(evidence, "MISMATCHES", (0.0, 0.5))
    monkeypatch.setattr(evidence, "ESTIMATORS", {"iwelbo": IWELBO(2)})
    assert evidence.main(["--quick", "--out", str(tmp_path)]) == 0
    names = {"biases.png", "costs.png", "evidence.json", "report.html", "report.md"}
    assert {file.name for file in tmp_path.iterdir()} == names
    cells = json.loads((tmp_path / "evidence.json").read_text())["models"]["beta"]["cells"]
    exact, off = (cell["estimators"]["iwelbo"] for cell in cells)
    assert abs(exact["bias"]) < 1e-4 and exact["variance"] < 1e-8
    # the bound is biased, downwards
    assert off["bias"] < -4 * off["bias_se"]
    report = (tmp_path / "report.md").read_text()
    assert "| IWELBO | 0.5 |" in report and "nan" not in report


def test_folder_that_cannot_be_written_is_refused_in_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("")
    assert evidence.main(["--out", str(file / "below")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("evidence: Expected a folder") and error.count("\n") == 1
