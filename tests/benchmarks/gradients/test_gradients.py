import json

from benchmarks.gradients import report, run
from benchmarks.gradients.__main__ import main
from benchmarks.models.conjugate import MODELS
from numpyro_sumo import IWELBO


def test_run_writes_means_that_agree_and_variances_that_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "MODELS", {"beta": MODELS["beta"]})
    monkeypatch.setattr(run, "MISMATCHES", (0.0, 0.1))
    monkeypatch.setattr(run, "LOSSES", {"IWELBO": IWELBO})
    assert main(["--keys", "950", "--out", str(tmp_path)]) == 0
    names = {"gradients.json", "report.html", "report.md"}
    assert {file.name for file in tmp_path.iterdir()} == names
    results = json.loads((tmp_path / "gradients.json").read_text())
    assert results["keys"] == 1_000
    exact, near = results["cells"]
    assert exact["dreg"]["variance"] < 1e-8 < 0.1 < exact["standard"]["variance"]
    difference = near["dreg"]["mean"] - near["standard"]["mean"]
    error = (near["dreg"]["mean_se"] ** 2 + near["standard"]["mean_se"] ** 2) ** 0.5
    assert abs(difference) < 4 * error
    assert near["dreg"]["variance"] < 0.2 * near["standard"]["variance"]
    text = (tmp_path / "report.md").read_text()
    assert "| beta-Bernoulli | IWELBO | 0.1 |" in text
    assert text == report.report(results)
