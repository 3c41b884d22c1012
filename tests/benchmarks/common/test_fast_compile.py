"""Compilation in haste: with what XLA knows, for as long as it is asked for."""

import os
import subprocess
import sys

import pytest

import jax

from benchmarks.common import fast_compile as compiling
from benchmarks.common.fast_compile import hasty_options, in_haste


def test_options_that_are_not_known_are_left_out(monkeypatch):
    options = {"xla_backend_optimization_level": 0, "xla_of_another_version": True}
    monkeypatch.setattr(compiling, "_OPTIONS", options)
    assert hasty_options() == {"xla_backend_optimization_level": 0}


@pytest.mark.parametrize("before", [None, "--xla_cpu_multi_thread_eigen=false"])
def test_processes_begun_meanwhile_compile_in_haste_and_then_all_is_as_it_was(monkeypatch, before):
    if before is None:
        monkeypatch.delenv("XLA_FLAGS", raising=False)
    else:
        monkeypatch.setenv("XLA_FLAGS", before)
    setting = jax.config.read("jax_disable_most_optimizations")
    program = "import jax, os; jax.jit(lambda: 1.0)(); print(os.environ['XLA_FLAGS'])"
    with pytest.raises(RuntimeError), in_haste():
        assert jax.config.read("jax_disable_most_optimizations")
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        flags = done.stdout.split()
        assert flags[: before is not None] == ([before] if before else [])
        assert "--xla_backend_optimization_level=0" in flags
        raise RuntimeError
    assert os.environ.get("XLA_FLAGS") == before
    assert jax.config.read("jax_disable_most_optimizations") == setting
