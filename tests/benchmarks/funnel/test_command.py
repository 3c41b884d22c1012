import pytest

from benchmarks.funnel import run
from benchmarks.funnel.__main__ import main


@pytest.mark.parametrize("steps", ["-1", "0", "2.5", "many"])
def test_steps_that_are_not_a_positive_integer_are_refused_in_one_line(steps, capsys):
    with pytest.raises(SystemExit) as exit:
        main([f"--steps={steps}"])
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert exit.value.code == 2
    assert f"expected an integer >= 1; got '{steps}'" in last_line


def test_a_folder_that_cannot_be_written_is_refused_before_training(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "train_arm", lambda *_: pytest.fail("training started"))
    file = tmp_path / "file"
    file.write_text("")
    assert main(["--out", str(file / "folder")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("funnel: Expected a folder that can be written") and "--out" in line
