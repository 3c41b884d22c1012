"""Measure the seconds a block takes, with JAX's compilation counted separately."""

import time
from typing import Any

from jax import monitoring


class Stopwatch:
    """Measures the time of a ``with`` block; the block must wait for its own results.

    ``compile_seconds`` is the time JAX spent on tracing, lowering and compiling, which happens at
    the first call of a jitted function and at every call of NumPyro's MCMC; ``seconds`` is the
    rest.

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
        monitoring.register_event_time_span_listener(self._record)
        self._began = time.time()  # the clock of JAX's spans
        return self

    def __exit__(self, *_: Any) -> None:
        total = time.time() - self._began
        monitoring.unregister_event_time_span_listener(self._record)
        # Spans overlap where a traced function calls another jitted function: count the union.
        end = self._began
        for start, stop in sorted(self._spans):
            self.compile_seconds += max(0.0, stop - max(start, end))
            end = max(end, stop)
        self.seconds = total - self.compile_seconds

    def _record(self, event: str, start_time: float, end_time: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            self._spans.append((start_time, end_time))
