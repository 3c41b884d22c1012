import errno
import gc
import os
import signal

import pytest

from benchmarks.common.cli import Command
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


def test_an_interrupt_is_said_in_one_line_and_in_the_status(tmp_path, capsys):
    def work(options):
        raise KeyboardInterrupt

    assert run(work, "--out", str(tmp_path)) == 130
    assert capsys.readouterr().err == f"a.b: interrupted; what was finished is in '{tmp_path}'.\n"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_is_lost_in_a_callback_is_said_too(tmp_path, capsys):
    """The garbage collector drops what its callbacks raise, and JAX has such a callback."""
    interrupt = lambda *_: os.kill(os.getpid(), signal.SIGINT)

    def work(options):
        gc.callbacks.append(interrupt)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(interrupt)

    before = signal.getsignal(signal.SIGINT)
    assert run(work, "--out", str(tmp_path)) == 130
    assert capsys.readouterr().err.startswith("a.b: interrupted")
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_disk_is_said_in_one_line(tmp_path, capsys):
    def work(options):
        raise OSError(errno.ENOSPC, "No space left on device", "a.json")

    assert run(work, "--out", str(tmp_path)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("a.b: Expected to write 'a.json'; got") and "No space left" in line


def test_a_missing_file_is_an_error_of_the_program(tmp_path):
    def work(options):
        (tmp_path / "missing").read_text()

    with pytest.raises(FileNotFoundError):
        run(work, "--out", str(tmp_path))
