import pytest

from benchmarks.results_folder import check_writable, written_whole


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
