import json

from benchmarks.defaults import __main__ as command
from benchmarks.defaults import report, run
from benchmarks.models.by_quadrature import MODELS


def test_an_interrupted_run_is_continued_with_what_is_missing(tmp_path, monkeypatch, capsys):
    funnel = {"funnel": MODELS["funnel"]}
    monkeypatch.setattr(run, "MODELS", funnel)
    monkeypatch.setattr(report, "MODELS", funnel)
    calls = []

    def train_and_judge(model, name, variant, steps, num_seeds):
        calls.append((name, variant))
        if len(calls) == 3:
            raise KeyboardInterrupt
        seeds = [{"log_evidence": 0.0, "gap": 0.25, "gap_se": 0.1, "kl": float("nan")}] * 2
        return {"loss": repr(run.make_loss(name, variant)), "seeds": seeds}

    monkeypatch.setattr(command, "train_and_judge", train_and_judge)
    assert command.main(["--out", str(tmp_path)]) == 130
    assert "defaults: interrupted" in capsys.readouterr().err
    first = calls[:3]
    assert command.main(["--out", str(tmp_path)]) == 0
    every = [(c.__name__, v) for c, variants in run.VARIANTS.items() for v in variants]
    assert first + calls[3:] == every[:3] + every[2:]
    text = (tmp_path / "report.md").read_text()
    assert "0.2500 ± 0.0000" in text and "nan" not in text
    # Results of other options are replaced.
    results = json.loads((tmp_path / "defaults.json").read_text())
    results["models"]["funnel"]["SUMO"]["dreg, 8"]["loss"] = "SUMO(num_particles=9)"
    (tmp_path / "defaults.json").write_text(json.dumps(results))
    before = len(calls)
    assert command.main(["--out", str(tmp_path)]) == 0
    assert calls[before:] == [("SUMO", "dreg, 8")]
