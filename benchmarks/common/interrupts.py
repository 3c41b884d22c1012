"""Ctrl-C that is never lost: JAX drops the exception if it arrives in one of its callbacks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

#: The exit status of a process that Ctrl-C has ended.
INTERRUPTED = 130

#: Whether Ctrl-C was pressed since :func:`recorded_interrupts` began.
_pressed = False


@contextmanager
def recorded_interrupts() -> Iterator[None]:
    """A block in which :func:`raise_if_interrupted` knows whether Ctrl-C was pressed.

    Ctrl-C raises KeyboardInterrupt as before. Python prints and drops it where it is raised in a
    callback of the garbage collector, and JAX has one.
    """
    global _pressed

    def record(number: int, frame: FrameType | None) -> NoReturn:
        global _pressed
        _pressed = True
        raise KeyboardInterrupt

    _pressed, previous = False, signal.signal(signal.SIGINT, record)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def raise_if_interrupted() -> None:
    """Raise KeyboardInterrupt if Ctrl-C was pressed; call it between the steps of long work.

    :raises KeyboardInterrupt: once for each time that its exception was lost.
    """
    global _pressed
    if _pressed:
        _pressed = False
        raise KeyboardInterrupt


def work_then_report(work: Callable[[], None], report: Callable[[], None]) -> None:
    """Call both; Ctrl-C during the work is raised again after the report on what is finished."""
    try:
        work()
        raise_if_interrupted()
    except KeyboardInterrupt:
        forget_interrupt()
        print("Interrupted; reporting on what is finished. Ctrl-C ends that.", file=sys.stderr)
        report()
        raise
    report()


def forget_interrupt() -> None:
    """Continue after a KeyboardInterrupt that was caught."""
    global _pressed
    _pressed = False


def end_process(status: int) -> NoReturn:
    """End the process with this status.

    An interrupted one ends without the interpreter's clean-up: after a compilation that was
    interrupted, that of JAX can end in a segmentation fault, which replaces the status.
    """
    if status != INTERRUPTED:
        sys.exit(status)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
