"""Long jobs side by side, each in one of a few processes that has a core of its own."""

from collections.abc import Callable, Generator, Hashable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
import multiprocessing
from multiprocessing import connection
import os
import signal
import threading
from typing import Any

#: What a worker process does of a job; made once, when it starts.
_work: Callable[[Any], Any]


def side_by_side(
    begin: Callable[..., Callable[[Any], Any]],
    args: tuple,
    jobs: Sequence[Any],
    kind: Callable[[Any], Hashable],
    num_workers: int,
) -> Generator[tuple[Any, Any]]:
    """Does the jobs; yields each with what came of it, as they end.

    Ctrl-C, and whatever a job raises, interrupts the jobs that are under way, waits until they are
    out, and is passed on; so does closing the generator. With one worker all is done here, in this
    process.

    :param begin: called in each worker with ``args``, gives what does a job. All are pickled.
    :param kind: of a job: those of one kind go to the same worker, for what it has compiled serves
        them all.
    """
    waiting = [(kind(job), job) for job in jobs]
    num_workers = min(num_workers, len({kind_of for kind_of, _ in waiting}))
    if num_workers == 0:
        return
    if num_workers == 1:
        work = begin(*args)
        yield from ((job, work(job)) for job in jobs)
        return
    spawn = multiprocessing.get_context("spawn")
    workers = [
        ProcessPoolExecutor(1, spawn, _start, (begin, args, index)) for index in range(num_workers)
    ]
    owners: dict[Hashable, int] = {}
    running: dict[Future, tuple[int, Any]] = {}

    def give(index: int) -> None:
        """The next job to a worker that has none."""
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
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _start(begin: Callable, args: tuple, index: int) -> None:
    """What a worker does first."""
    global _work
    # Ctrl-C comes by way of the parent alone, and once.
    if hasattr(os, "setpgrp"):
        os.setpgrp()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    _work = begin(*args)


def _end_with_parent() -> None:
    """Ends this process when the one that started it is gone, in whatever way."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _do(job: Any) -> Any:
    return _work(job)
