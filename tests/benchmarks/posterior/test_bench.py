import json

import pytest

from benchmarks.posterior import bench, problems
from benchmarks.posterior.__main__ import main
from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.report import report
from tests.benchmarks.posterior.results import outcome


def run_names(folder, monkeypatch, names, interrupt_at=None):
    """The problems that are run when these are requested."""
    ran = []

    def run_problem(problem, *_):
        if problem.name == interrupt_at:
            raise KeyboardInterrupt
        ran.append(problem.name)
        return outcome(problem.name)

    monkeypatch.setattr(bench, "run_problem", run_problem)
    monkeypatch.setattr(problems, "log_joint", lambda model, args: -1.0)
    results = bench.new_results(bench.QUICK, 0, folder)
    bench.run_all(results, names, bench.QUICK, 0, folder)
    return ran


def test_a_run_is_continued_with_the_missing_models(tmp_path, monkeypatch):
    names = ["funnel10", "banana", "mixture25"]
    assert run_names(tmp_path, monkeypatch, ["banana"]) == ["banana"]
    with pytest.raises(KeyboardInterrupt):
        run_names(tmp_path, monkeypatch, names, "mixture25")
    kept = json.loads((tmp_path / "posterior.json").read_text())["problems"]
    assert list(kept) == ["funnel10", "banana"]
    assert run_names(tmp_path, monkeypatch, names) == ["mixture25"]
    results = json.loads((tmp_path / "posterior.json").read_text())
    assert list(results["problems"]) == names
    text = report(results)
    assert all(PROBLEMS[name]().title in text for name in names)
    longer = PROBLEMS["banana"]()
    longer = longer._replace(effort=longer.effort._replace(steps=7))
    monkeypatch.setitem(PROBLEMS, "banana", lambda: longer)
    assert run_names(tmp_path, monkeypatch, names) == ["banana"]


def test_an_unknown_model_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as exit:
        main(["--model", "funnel"])
    assert exit.value.code == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "invalid choice: 'funnel'" in last_line and "eight_schools" in last_line


def test_a_quick_run_writes_report_and_pictures(tmp_path):
    arguments = ["--model", "banana", "--quick", "--out", str(tmp_path)]
    assert main(arguments) == 0
    (found,) = json.loads((tmp_path / "posterior.json").read_text())["problems"].values()
    assert "refused" not in found, found.get("refused")
    assert list(found["samplers"]) == ["raw", "resampled", "metropolis", "nuts", "exact"]
    assert found["samplers"]["exact"]["ks"]["value"] < 2.2 / 2_000**0.5
    assert 0.0 < found["acceptance"] <= 1.0
    assert found["training"]["steps"] == bench.QUICK.steps
    for kind in ("marginals", "pairs", "ranks"):
        assert (tmp_path / f"{kind}_banana.png").stat().st_size > 0
    assert "A quick run" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.html").exists()
