"""Run long jobs in parallel, in a few processes with one core each."""

from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
import multiprocessing
from multiprocessing import connection
import os
import signal
import threading
from typing import Any

#: Runs a job in a worker process; set once, when the process starts.
_work: Callable[[Any], Any]


def run_parallel(
    prepare: Callable[..., Callable[[Any], Any]],
    args: tuple,
    jobs: Sequence[Any],
    kind: Callable[[Any], Hashable],
    num_workers: int,
) -> Generator[tuple[Any, Any]]:
    """Run the jobs; yield each (job, result) when it finishes.

    Ctrl-C, an error raised by a job, and closing the generator interrupt the running jobs, wait
    for their processes to end, and are raised again. With one worker, jobs run in this process.

    :param prepare: called once in each worker with ``args``; returns the function that runs a job.
        All of them are pickled.
    :param kind: maps a job to its kind; jobs of one kind go to the same worker and share what it
        has compiled.
    """
    waiting = [(kind(job), job) for job in jobs]
    num_workers = min(num_workers, len({kind_of for kind_of, _ in waiting}))
    if num_workers == 0:
        return
    if num_workers == 1:
        work = prepare(*args)
        yield from ((job, work(job)) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    workers = [
        ProcessPoolExecutor(1, spawn, _start, (prepare, args, core)) for core in range(num_workers)
    ]
    owners: dict[Hashable, int] = {}
    running: dict[Future, tuple[int, Any]] = {}

    def give(index: int) -> None:
        """Give an idle worker its next job."""
        own = (entry for entry in waiting if owners.get(entry[0], index) == index)
        if (entry := next(own, None)) is not None:
            waiting.remove(entry)
            kind_of, job = entry
            owners[kind_of] = index
            running[workers[index].submit(_do, job)] = index, job

    pids: list[int] = []
    try:
        started = [worker.submit(os.getpid) for worker in workers]
        pids = [future.result() for future in started]
        for index in range(num_workers):
            give(index)
        while running:
            ended, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in ended:
                index, job = running.pop(future)
                yield job, future.result()
                give(index)
    except BaseException:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
        raise
    finally:
        for worker in workers:
            worker.shutdown(cancel_futures=True)


def num_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(prepare: Callable, args: tuple, index: int) -> None:
    """Set up a worker process."""
    global _work
    # The terminal would send Ctrl-C to every process; the parent passes it on once.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    _work = prepare(*args)


def _end_with_parent() -> None:
    """End this process when its parent has ended, even if the parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _do(job: Any) -> Any:
    return _work(job)
