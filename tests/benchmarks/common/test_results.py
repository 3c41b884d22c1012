import json

import pytest

from benchmarks.common.results import (
    InputError,
    check_writable,
    start_or_resume,
    write_json,
    written_whole,
)


def test_files_appear_when_the_block_ends(tmp_path):
    with written_whole(tmp_path) as folder:
        (folder / "report.md").write_text("new")
        assert not (tmp_path / "report.md").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]


def test_nothing_appears_when_the_block_fails(tmp_path):
    (tmp_path / "report.md").write_text("old")
    with pytest.raises(RuntimeError), written_whole(tmp_path) as folder:
        (folder / "report.md").write_text("half")
        raise RuntimeError
    assert [file.name for file in tmp_path.iterdir()] == ["report.md"]
    assert (tmp_path / "report.md").read_text() == "old"


def test_a_folder_that_can_be_written_is_created(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_earlier_results_are_continued_or_renamed(tmp_path, capsys):
    file, fresh = tmp_path / "a.json", {"steps": {"at most": (1, float("inf"))}, "runs": {}}
    assert start_or_resume(file, fresh, "steps") is fresh
    write_json(file, {**fresh, "runs": {"one": 1}})
    assert start_or_resume(file, fresh, "steps")["runs"] == {"one": 1}
    for number in (1, 2):
        assert start_or_resume(file, {"steps": 2, "runs": {}}, "steps")["runs"] == {}
        assert not file.exists()
        renamed = tmp_path / f"a.earlier-{number}.json"
        assert json.loads(renamed.read_text())["runs"] == {"one": 1}
        assert f"renamed to '{renamed.name}'" in capsys.readouterr().err
        write_json(file, {**fresh, "runs": {"one": 1}})


def test_incomplete_results_are_refused_in_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"runs": ')
    with pytest.raises(InputError, match="got a file that cannot be read .* Move it away"):
        start_or_resume(tmp_path / "a.json", {"steps": 1}, "steps")
