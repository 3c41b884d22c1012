import json

import numpy as np
import pytest

from benchmarks.funnel import __main__ as funnel
from benchmarks.funnel.report import report, write_results
from numpyro_sumo.diagnostics.arviz import to_arviz


def verdict(**changes):
    line = {"mean": 0.0, "sd": 1.0, "mcse_mean": 0.01, "mcse_sd": 0.01}
    line |= {"ess_bulk": 100.0, "ess_tail": 90.0, "r_hat": 1.0}
    quantiles = {str(p): float(p) for p in funnel.PROBABILITIES}
    return {
        "title": "a sampler",
        "draws": 8,
        "summary": {"v": line, "x": line},
        "quantiles": {"v": quantiles, "x": quantiles},
        "ks": {"v": 0.0123, "x·exp(−v)": 0.0456},
        **changes,
    }


def learned(**changes):
    return (
        verdict(
            kl={"lower": 0.001, "lower_se": 0.0001, "upper": 0.002, "upper_se": 0.0003},
            loss="ReverseKL()",
            mean_draws=16.0,
            steps=10,
            interrupted=False,
            seconds_to_train=3.0,
            seconds_to_compile=1.0,
            steps_per_second=3.3,
            seconds_per_10000_draws=0.01,
            curve={
                "objective_steps": [5, 10],
                "objective": [1.0, 0.5],
                "objective_se": [0.1, 0.05],
            },
        )
        | changes
    )


def results(**samplers):
    return {"seed": 0, "steps": 10, "draws_per_step": 64, "scale_of_v": 1.35, "seconds": 12.0} | {
        "samplers": samplers
    }


@pytest.mark.parametrize("steps", ["-1", "0", "2.5", "many"])
def test_steps_that_are_not_a_positive_integer_are_refused_in_one_line(steps, capsys):
    with pytest.raises(SystemExit) as exit:
        funnel.main([f"--steps={steps}"])
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert exit.value.code == 2
    assert f"expected an integer >= 1; got '{steps}'" in last_line


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(funnel, "train_arm", lambda *_: pytest.fail("training began"))
    file = tmp_path / "file"
    file.write_text("")
    assert funnel.main(["--out", str(file / "folder")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "Expected a folder that can be written" in line and "--out" in line


def test_the_arms_make_the_same_expected_number_of_draws():
    draws = {name: arm.marginal.mean_draws for name, arm in funnel.ARMS.items()}
    few = draws.pop("iwelbo_few")
    assert few < 16
    assert all(abs(count - 16) < 0.05 for count in draws.values())


def test_a_report_shows_every_figure_it_was_given():
    text = report(results(sumo=learned(), nuts_centred=verdict(divergences=395)))
    assert "0.0010 … 0.0020 ± 0.0003" in text
    assert "0.0123" in text and "0.0456" in text and "395" in text
    assert "contours_sumo.png" in text and "contours_nuts_centred.png" not in text
    assert "Interrupted" not in text


def test_a_report_says_which_arm_was_interrupted():
    text = report(results(sumo=learned(interrupted=True, title="SUMO")))
    assert "Interrupted while training: SUMO." in text


def test_figures_that_are_not_finite_are_words_in_the_report_and_null_in_the_json(tmp_path):
    broken = learned(kl={"lower": float("nan"), "upper": float("nan"), "upper_se": float("nan")})
    data = {"sumo": to_arviz({"v": np.zeros((2, 4)), "x": np.zeros((2, 4))})}
    write_results(tmp_path, results(sumo=broken), data)
    assert "ran away" in report(results(sumo=broken))
    assert (
        json.loads((tmp_path / "funnel.json").read_text())["samplers"]["sumo"]["kl"]["upper"]
        is None
    )
    assert (tmp_path / "sumo.nc").stat().st_size > 0


def test_snapshots_nearest_to_each_fifth_are_chosen():
    snapshots = {step: f"at {step}" for step in range(0, 110, 10)}
    assert list(funnel.every_fifth(snapshots)) == [0, 20, 40, 60, 80, 100]
    assert funnel.every_fifth({0: "start", 7: "stop"}) == {0: "start", 7: "stop"}
