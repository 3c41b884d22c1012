"""Functions that are compiled in another thread while other work goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpyro_sumo._compat import jit_once

#: One thread: two compilations at once would each take twice as long on two cores.
_COMPILER = ThreadPoolExecutor(1, thread_name_prefix="compiler")


class CompiledSoon:
    """A function for arguments of these shapes and dtypes; the first call waits for the compiler.

    It is traced at once, in the calling thread, as NumPyro's handlers are not thread-safe.
    """

    def __init__(self, function: Callable[..., Any], *args: Any):
        lowered = jit_once(function).lower(*args)
        self._compiled = _COMPILER.submit(lowered.compile)

    def __call__(self, *args: Any) -> Any:
        return self._compiled.result()(*args)
