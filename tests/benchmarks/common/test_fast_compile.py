import os
import subprocess
import sys

import pytest

import jax

from benchmarks.common import fast_compile
from benchmarks.common.fast_compile import hasty_compilation, hasty_options


def test_options_unknown_to_xla_are_left_out(monkeypatch):
    options = {"xla_backend_optimization_level": 0, "xla_of_another_version": True}
    monkeypatch.setattr(fast_compile, "_OPTIONS", options)
    assert hasty_options() == {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("before", [None, "--xla_cpu_multi_thread_eigen=false"])
def test_child_processes_compile_hastily_and_settings_are_restored(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    setting = jax.config.read("jax_disable_most_optimizations")
    program = "import jax, os; jax.jit(lambda: 1.0)(); print(os.environ['XLA_FLAGS'])"
    with pytest.raises(RuntimeError), hasty_compilation():
        assert jax.config.read("jax_disable_most_optimizations")
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        flags = done.stdout.split()
        assert flags[: before is not None] == ([before] if before else [])
        assert "--xla_backend_optimization_level=0" in flags
        raise RuntimeError
    assert os.environ.get("XLA_FLAGS") == before
    assert jax.config.read("jax_disable_most_optimizations") == setting
