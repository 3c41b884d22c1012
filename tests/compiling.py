"""How tests compile: most of them run a function once, so that compiling it is all their time."""

from functools import partial

import jax

#: ``jax.jit`` for functions that run briefly: compiled in less than half the time, run slower.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
