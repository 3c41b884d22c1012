import json

import numpy as np

from benchmarks.speed import __main__ as speed
from benchmarks.speed.models import linear
from numpyro_sumo import IWELBO, SUMO


def losses_at(loss, program, num_keys=8):
    return speed._losses(program, loss, num_keys)


def test_padded_and_static_draws_give_the_estimates_of_ragged_ones():
    """What is compared by time computes the same numbers."""
    program = linear(2, 4)
    ragged = losses_at(SUMO(data_axes=0), program)
    cap = SUMO().stopping_time.cap
    np.testing.assert_allclose(losses_at(speed.FixedSUMO(4, cap), program), ragged, rtol=1e-5)
    same = speed.FixedSUMO(4, 3, times=3)
    times = SUMO(stopping_time=speed.Given(np.array(3)), data_axes=0)
    np.testing.assert_allclose(losses_at(same, program), losses_at(times, program), rtol=1e-5)


def test_data_in_lockstep_have_keys_of_their_own():
    """With one key for all, four data that are alike would have sixteen times one's variance."""
    program = linear(2, 1)
    alike = program._replace(args=(program.args[0].repeat(4, axis=0),))
    loss = speed.Lockstep(IWELBO(2))
    of_one, of_four = (losses_at(loss, each, 2_000).var() for each in (program, alike))
    assert 3.0 < of_four / of_one < 5.0


def test_run_writes_what_was_measured(tmp_path, monkeypatch):
    chosen = ("draws", "memory", "compilations")
    monkeypatch.setattr(speed, "SECTIONS", {name: speed.SECTIONS[name] for name in chosen})
    monkeypatch.setattr(speed, "KNEES", (20, 40))
    monkeypatch.setattr(speed, "vae", lambda batch_size: linear(3, batch_size))
    assert speed.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "speed.json").read_text())
    assert results["compilations"] == {"steps": 100, "compilations": 1}
    assert [row["longest"] for row in results["memory"]] == [20, 40]
    assert len(results["draws"]["seconds"]) == len(results["draws"]["draws"]) == 5
    names = {"speed.json", "report.html", "report.md", "draws.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert "1 in 100 steps" in (tmp_path / "report.md").read_text()
