"""How tests compile: most of them run a function once, so that compiling it is all their time."""

from functools import partial

import jax

from benchmarks.common.fast_compile import hasty_options

#: ``jax.jit`` for functions that run briefly: compiled in a quarter of the time, run slower.
quick_jit = partial(jax.jit, compiler_options=hasty_options())
