"""Jobs in processes of their own."""

from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.common.workers import side_by_side


def squares(log):
    """A worker that notes who did what."""

    def square(job):
        with (Path(log) / str(os.getpid())).open("a") as file:
            file.write(f"{job} ")
        if job < 0:
            raise ValueError(f"{job} is no job")
        return job**2

    return square


def parity(job):
    return job % 2


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_job_is_done_once(num_workers, tmp_path):
    done = dict(side_by_side(squares, (tmp_path,), range(8), parity, num_workers))
    assert done == {job: job**2 for job in range(8)}
    notes = [list(map(int, file.read_text().split())) for file in tmp_path.iterdir()]
    assert sorted(sum(notes, [])) == list(range(8))
    if num_workers == 2:
        assert len(notes) == 2
        assert all(len({job % 2 for job in note}) == 1 for note in notes)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_what_a_job_raises_is_passed_on(num_workers, tmp_path):
    with pytest.raises(ValueError, match="-2 is no job"):
        list(side_by_side(squares, (tmp_path,), [1, -2], parity, num_workers))


def sleepers(log):
    """A worker whose jobs last until they are interrupted."""

    def sleep(job):
        try:
            (Path(log) / f"begun-{job}-{os.getpid()}").touch()
            time.sleep(120)
        except KeyboardInterrupt:
            (Path(log) / f"interrupted-{job}").touch()
            raise

    return sleep


def nap(folder):
    """What the process below does."""
    try:
        list(side_by_side(sleepers, (folder,), [0, 1, 2], partial(int), 2))
    except KeyboardInterrupt:
        (Path(folder) / "passed-on").touch()


def begun(folder):
    """A process with two workers at work, and what they noted."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.benchmarks.test_workers import nap\n"
        f"nap({str(folder)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3])
    assert until(lambda: len(list(folder.glob("begun-*"))) == 2)
    return process, [int(file.name.split("-")[2]) for file in folder.glob("begun-*")]


def until(condition, seconds=60):
    """Whether it comes true in time."""
    for _ in range(10 * seconds):
        if condition():
            return True
        time.sleep(0.1)
    return False


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    except FileNotFoundError:
        return True


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="looks for processes in /proc"
)


@needs_proc
def test_an_interrupt_reaches_the_jobs_under_way_and_begins_no_others(tmp_path):
    process, pids = begun(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert {file.name for file in tmp_path.glob("[ip]*")} == {
        "interrupted-0",
        "interrupted-1",
        "passed-on",
    }
    assert not list(tmp_path.glob("begun-2-*"))
    assert until(lambda: all(map(gone, pids)))


@needs_proc
def test_workers_end_with_the_process_that_began_them(tmp_path):
    process, pids = begun(tmp_path)
    process.kill()
    process.wait(60)
    assert until(lambda: all(map(gone, pids)))
