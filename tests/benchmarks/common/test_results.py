import json

import pytest

from benchmarks.common.results import check_writable, resumed, write_json, written_whole


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


def test_a_folder_that_can_be_written_is_made(tmp_path):
    check_writable(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_earlier_results_are_gone_on_with_or_put_aside(tmp_path, capsys):
    file, fresh = tmp_path / "a.json", {"steps": {"at most": (1, float("inf"))}, "runs": {}}
    assert resumed(file, fresh, "steps") is fresh
    write_json(file, {**fresh, "runs": {"one": 1}})
    assert resumed(file, fresh, "steps")["runs"] == {"one": 1}
    for number in (1, 2):
        assert resumed(file, {"steps": 2, "runs": {}}, "steps")["runs"] == {}
        assert not file.exists()
        aside = tmp_path / f"a.earlier-{number}.json"
        assert json.loads(aside.read_text())["runs"] == {"one": 1}
        assert f"it is '{aside.name}' now" in capsys.readouterr().err
        write_json(file, {**fresh, "runs": {"one": 1}})


def test_results_that_are_cut_short_are_told_of_in_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"runs": ')
    with pytest.raises(ValueError, match="cut short or something else .* Move it away"):
        resumed(tmp_path / "a.json", {"steps": 1}, "steps")
