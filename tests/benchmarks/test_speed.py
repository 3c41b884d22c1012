import json

import numpy as np

from benchmarks import speed
from benchmarks.speed_programs import linear
from numpyro_sumo import SUMO


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
    program = linear(2, 4)
    values = losses_at(speed.Lockstep(SUMO(8)), program, 400)
    ragged = losses_at(SUMO(8, data_axes=0), program, 400)
    error = np.hypot(values.std(), ragged.std()) / 400**0.5
    assert abs(values.mean() - ragged.mean()) < 4 * error
    assert not np.allclose(values[0], values[1])


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
    names = {"speed.json", "report.md", "draws.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert "1 in 100 steps" in (tmp_path / "report.md").read_text()
