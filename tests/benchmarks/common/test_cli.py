import pytest

from benchmarks.common.cli import Command, ends_on_interrupt
from benchmarks.common.results import RESULTS, InputError


def run(work, *arguments):
    command = Command("a.b", "What is it?")
    command.add_count("--steps", "steps", default=3)
    command.add_seed()
    command.add_quick()
    return command.run(work, list(arguments))


def test_options_and_folder_are_passed_on(tmp_path, capsys):
    seen = []
    assert run(seen.append, "--steps", "5", "--quick", "--out", str(tmp_path / "new")) == 0
    (options,) = seen
    assert (options.steps, options.seed, options.quick) == (5, 0, True)
    assert (tmp_path / "new").is_dir()
    assert capsys.readouterr().out.startswith(f"Wrote {tmp_path / 'new' / 'report.md'} after ")


def test_help_shows_the_question_and_the_default_folder(capsys):
    with pytest.raises(SystemExit):
        run(None, "--help")
    text = capsys.readouterr().out
    assert "What is it?" in text and "python -m benchmarks.a.b" in text
    assert str(RESULTS / "a_b") in text.replace("\n", "").replace(" ", "")


def test_an_input_error_is_printed_in_one_line(tmp_path, capsys):
    def work(options):
        raise InputError("Expected A; got B. Do C.")

    assert run(work, "--out", str(tmp_path)) == 2
    assert capsys.readouterr().err == "a.b: Expected A; got B. Do C.\n"


def test_other_errors_are_raised(tmp_path):
    def work(options):
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        run(work, "--out", str(tmp_path))


def test_an_interrupt_ends_the_block(capsys):
    with ends_on_interrupt("a"):
        raise KeyboardInterrupt
    assert capsys.readouterr().err.startswith("a: interrupted")
