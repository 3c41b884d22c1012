"""Seconds that work takes, those in which JAX compiles apart."""

import time
from typing import Any

from jax import monitoring


class Stopwatch:
    """Takes the time of a ``with`` block; the block waits for what it computes.

    ``seconds`` are those without compilation, ``compile_seconds`` those of JAX's tracing, lowering
    and compiling, which happen at a first call, and with NumPyro's MCMC at every call.

    >>> import jax
    >>> from benchmarks.common.stopwatch import Stopwatch
    >>> with Stopwatch() as watch:
    ...     value = jax.jit(lambda x: x + 1.0)(1.0).block_until_ready()
    >>> watch.compile_seconds > 0.0 and watch.seconds > 0.0
    True
    """

    def __enter__(self) -> "Stopwatch":
        self.seconds = self.compile_seconds = 0.0
        self._spans: list[tuple[float, float]] = []
        monitoring.register_event_time_span_listener(self._note)
        self._began = time.time()  # the clock of JAX's spans
        return self

    def __exit__(self, *_: Any) -> None:
        whole = time.time() - self._began
        monitoring.unregister_event_time_span_listener(self._note)
        # Spans lie within one another: where a function that is traced calls one that is, too.
        end = self._began
        for start, stop in sorted(self._spans):
            self.compile_seconds += max(0.0, stop - max(start, end))
            end = max(end, stop)
        self.seconds = whole - self.compile_seconds

    def _note(self, event: str, start_time: float, end_time: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self._spans.append((start_time, end_time))
