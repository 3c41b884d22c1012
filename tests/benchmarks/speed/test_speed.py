import json

import numpy as np

from benchmarks.speed import run
from benchmarks.speed.__main__ import main
from benchmarks.speed.losses import FixedSUMO, FixedTime, Lockstep
from benchmarks.speed.models import linear
from benchmarks.speed.run import losses_at_keys
from numpyro_sumo import IWELBO, SUMO


def test_padded_and_static_draws_give_the_estimates_of_ragged_ones():
    """The losses whose times are compared have the same values."""
    program = linear(2, 4)
    at_keys = lambda loss: losses_at_keys(program, loss, 8)
    cap = SUMO().stopping_time.cap
    np.testing.assert_allclose(
        at_keys(FixedSUMO(4, num_tail=cap)), at_keys(SUMO(data_axes=0)), rtol=1e-5
    )
    same = SUMO(stopping_time=FixedTime(np.array(3)), data_axes=0)
    np.testing.assert_allclose(at_keys(FixedSUMO(4, num_tail=3, times=3)), at_keys(same), rtol=1e-5)


def test_data_in_lockstep_have_independent_keys():
    """With one key for all, four equal data would have sixteen times the variance of one."""
    program = linear(2, 1)
    alike = program._replace(args=(program.args[0].repeat(4, axis=0),))
    loss = Lockstep(IWELBO(2))
    of_one, of_four = (losses_at_keys(each, loss, 2_000).var() for each in (program, alike))
    assert 3.0 < of_four / of_one < 5.0


def test_run_writes_its_measurements(tmp_path, monkeypatch):
    chosen = ("draws", "memory", "compilations")
    for name in set(run.SECTIONS) - set(chosen):
        monkeypatch.delitem(run.SECTIONS, name)
    monkeypatch.setattr(run, "KNEES", (20,))
    monkeypatch.setattr(run, "autoencoder", lambda batch_size: linear(3, batch_size))
    monkeypatch.setattr(run, "schools", lambda: linear(1, 1))
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "speed.json").read_text())
    assert results["compilations"] == {"steps": 100, "compilations": 1}
    assert [row["longest"] for row in results["memory"]] == [20]
    assert len(results["draws"]["seconds"]) == len(results["draws"]["draws"]) == 5
    names = {"speed.json", "report.html", "report.md", "draws.png"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert "1 in 100 steps" in (tmp_path / "report.md").read_text()
