"""How tests compile: most of them run a function once, so that compiling it is all their time."""

from functools import partial

import jax


def _is_known(name: str, value: object) -> bool:
    """Whether this version of XLA has the option."""
    try:
        jax.jit(lambda: 0.0, compiler_options={name: value})()
    except jax.errors.JaxRuntimeError:
        return False
    return True


_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

#: ``jax.jit`` for functions that run briefly: compiled in a quarter of the time, run slower.
quick_jit = partial(
    jax.jit,
    compiler_options={name: value for name, value in _OPTIONS.items() if _is_known(name, value)},
)
