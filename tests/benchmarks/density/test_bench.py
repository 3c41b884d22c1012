import json
import shutil

from benchmarks.density import __main__ as command
from benchmarks.density import pictures
from benchmarks.density.bench import Bench
from benchmarks.density.models import Data
from benchmarks.density.plans import Arm, Plan, plans
from numpyro_sumo import IWELBO, MultilevelSUMO


def tiny(quick):
    """One arm per data set: most of the time is compilation."""
    few = {
        "digits": {"iwelbo": Arm("IWELBO", IWELBO(5))},
        "moons": {"multilevel": Arm("ML", MultilevelSUMO(1))},
    }

    def shrunk(plan):
        task = plan.task._replace(data=Data(*(part[:60] for part in plan.task.data)))
        return Plan(
            task,
            {5: few[plan.task.title]},
            epochs=1,
            batch_size=25,
            learning_rate=1e-3,
            judged_draws=100,
            judged_particles=4,
        )

    return {name: shrunk(plan) for name, plan in plans(True).items()}


def test_run_is_continued_and_writes_tables_and_pictures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "plans", tiny)
    monkeypatch.setattr(pictures, "GRID", 12)
    run, stops = Bench.run, [True]

    def stopped_once(self, cell):
        if cell.plan == "moons" and stops and stops.pop():
            raise KeyboardInterrupt
        return run(self, cell)

    monkeypatch.setattr(Bench, "run", stopped_once)
    arguments = ["--seeds", "1", "--quick", "--workers", "1", "--out", str(tmp_path)]
    assert command.main(arguments) == 130
    assert "density: interrupted" in capsys.readouterr().err
    first = json.loads((tmp_path / "density.json").read_text())["runs"]
    assert list(first) == ["digits-5-iwelbo-0"]
    assert command.main(arguments) == 0
    runs = json.loads((tmp_path / "density.json").read_text())["runs"]
    assert list(runs) == ["digits-5-iwelbo-0", "moons-5-multilevel-0"]
    assert {name: runs[name] for name in first} == first
    assert {file.name for file in tmp_path.iterdir()} == {
        "checkpoints",
        "density.json",
        "images.png",
        "plane_moons.png",
        "report.html",
        "report.md",
        "training.png",
    }
    assert "| ML |" in (tmp_path / "report.md").read_text()
    # Pictures of deleted trainings are kept.
    shutil.rmtree(tmp_path / "checkpoints")
    images, page = ((tmp_path / name).read_bytes() for name in ("images.png", "report.html"))
    assert command.main(arguments) == 0
    assert (tmp_path / "images.png").read_bytes() == images
    assert (tmp_path / "report.html").read_bytes() == page


def test_incomplete_checkpoint_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "plans", tiny)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "digits-5-iwelbo-0.msgpack").write_bytes(b"cut")
    assert command.main(["--seeds", "1", "--workers", "1", "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("density: ") and line.endswith("Move it away to start again.")
