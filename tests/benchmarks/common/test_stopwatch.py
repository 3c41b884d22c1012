import time

import pytest

import jax

from benchmarks.common import stopwatch


def test_compilation_is_counted_separately():
    @jax.jit
    def slow_to_trace(x):
        time.sleep(0.2)
        return jax.jit(lambda x: x + 1.0)(x)

    with stopwatch.Stopwatch() as first:
        slow_to_trace(1.0).block_until_ready()
        time.sleep(0.1)
    assert first.compile_seconds > 0.2
    assert first.seconds > 0.1
    with stopwatch.Stopwatch() as second:
        slow_to_trace(1.0).block_until_ready()
    assert second.compile_seconds == 0.0


def test_nested_spans_count_once(monkeypatch):
    times = iter([10.0, 20.0])
    monkeypatch.setattr(stopwatch.time, "time", lambda: next(times))
    with stopwatch.Stopwatch() as watch:
        for start, stop in [(12.0, 13.0), (11.0, 14.0), (15.0, 16.0)]:
            watch._record("/jax/core/compile/a", start, stop, fun_name="f")
        watch._record("/jax/something/else", 16.0, 19.0)
    assert watch.compile_seconds == pytest.approx(4.0)
    assert watch.seconds == pytest.approx(6.0)


def test_nothing_is_recorded_after_the_block():
    with stopwatch.Stopwatch() as watch:
        pass
    jax.jit(lambda x: x * 3.0)(1.0)
    assert watch._spans == []
