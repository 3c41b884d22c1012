from functools import partial
import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import pytest

from benchmarks.common.workers import run_parallel

ROOT = Path(__file__).parents[3]


def squares(log):
    """A worker that records its jobs in a file of its own."""

    def square(job):
        with (Path(log) / str(os.getpid())).open("a") as file:
            file.write(f"{job} ")
        if job < 0:
            raise ValueError(f"{job} is not a job")
        return job**2

    return square


def parity(job):
    return job % 2


@pytest.mark.parametrize("num_workers", [1, 2])
def test_every_job_runs_once(num_workers, tmp_path):
    done = dict(run_parallel(squares, (tmp_path,), range(8), parity, num_workers))
    assert done == {job: job**2 for job in range(8)}
    notes = [list(map(int, file.read_text().split())) for file in tmp_path.iterdir()]
    assert sorted(sum(notes, [])) == list(range(8))
    if num_workers == 2:
        assert len(notes) == 2
        assert all(len({job % 2 for job in note}) == 1 for note in notes)


@pytest.mark.parametrize("num_workers", [1, 2])
def test_the_error_of_a_job_is_raised(num_workers, tmp_path):
    with pytest.raises(ValueError, match="-2 is not a job"):
        list(run_parallel(squares, (tmp_path,), [1, -2], parity, num_workers))


def sleepers(log):
    """A worker whose jobs sleep until they are interrupted."""

    def sleep(job):
        try:
            (Path(log) / f"started-{job}-{os.getpid()}").touch()
            time.sleep(120)
        except KeyboardInterrupt:
            (Path(log) / f"interrupted-{job}").touch()
            raise

    return sleep


def nap(folder):
    """Run three jobs in two workers."""
    try:
        list(run_parallel(sleepers, (folder,), [0, 1, 2], partial(int), 2))
    except KeyboardInterrupt:
        (Path(folder) / "raised").touch()


def start(folder):
    """A process with two running workers, and the ids of these."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from tests.benchmarks.common.test_workers import nap\n"
        f"nap({str(folder)!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    assert until(lambda: len(list(folder.glob("started-*"))) == 2)
    return process, [int(file.name.split("-")[2]) for file in folder.glob("started-*")]


def until(condition, seconds=60):
    """Whether the condition is met in time."""
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


needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")


@needs_proc
def test_an_interrupt_reaches_the_running_jobs_and_starts_no_others(tmp_path):
    process, pids = start(tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
    assert {file.name for file in tmp_path.glob("[ir]*")} == {
        "interrupted-0",
        "interrupted-1",
        "raised",
    }
    assert not list(tmp_path.glob("started-2-*"))
    assert until(lambda: all(map(gone, pids)))


@needs_proc
def test_workers_end_with_the_process_that_started_them(tmp_path):
    process, pids = start(tmp_path)
    process.kill()
    process.wait(60)
    assert until(lambda: all(map(gone, pids)))
