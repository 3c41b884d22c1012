"""Compile quickly and run slowly, for programs that run too briefly to repay optimisation."""

from collections.abc import Iterator
from contextlib import contextmanager
import os

import jax

from numpyro_sumo._compat import known_compiler_options

_OPTIONS: dict[str, object] = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


def hasty_options() -> dict[str, object]:
    """Compiler options for ``jax.jit`` that skip optimisation; unknown to this XLA: left out."""
    return known_compiler_options(_OPTIONS)


@contextmanager
def hasty_compilation() -> Iterator[None]:
    """Skip compiler optimisation in the block, and in processes started within it."""
    flags = " ".join(f"--{name}={value}".lower() for name, value in hasty_options().items())
    old_flags = os.environ.get("XLA_FLAGS")
    old_setting = jax.config.read("jax_disable_most_optimizations")
    os.environ["XLA_FLAGS"] = f"{old_flags or ''} {flags}".strip()
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", old_setting)
        if old_flags is None:
            del os.environ["XLA_FLAGS"]
        else:
            os.environ["XLA_FLAGS"] = old_flags
