import json

from benchmarks.evidence import __main__ as command
from benchmarks.evidence import run
from benchmarks.models.conjugate import MODELS
from numpyro_sumo import IWELBO


def test_quick_run_writes_report_figures_and_pictures(tmp_path, monkeypatch):
    estimators = {"iwelbo": IWELBO(2)}
    monkeypatch.setattr(run, "MODELS", {"beta": MODELS["beta"]})
    monkeypatch.setattr(run, "MISMATCHES", (0.0, 0.5))
    monkeypatch.setattr(run, "ESTIMATORS", estimators)
    monkeypatch.setattr(command, "ESTIMATORS", estimators)
    assert command.main(["--quick", "--out", str(tmp_path)]) == 0
    names = {"biases.png", "costs.png", "evidence.json", "report.html", "report.md"}
    assert {file.name for file in tmp_path.iterdir()} == names
    cells = json.loads((tmp_path / "evidence.json").read_text())["models"]["beta"]["cells"]
    exact, off = (cell["estimators"]["iwelbo"] for cell in cells)
    assert abs(exact["bias"]) < 1e-4 and exact["variance"] < 1e-8
    # the bound is below log p(x) on average
    assert off["bias"] < -4 * off["bias_se"]
    report = (tmp_path / "report.md").read_text()
    assert "| IWELBO | 0.5 |" in report and "nan" not in report
