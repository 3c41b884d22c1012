"""Functions that are compiled in another thread while other work goes on."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ._compat import jit_once

#: One thread: two compilations at once would each take twice as long on two cores.
_COMPILER = ThreadPoolExecutor(1, thread_name_prefix="compiler")


class CompiledSoon:
    """A function for arguments of these shapes and dtypes; the first call waits for the compiler.

    It is traced at once, in the calling thread, as NumPyro's handlers are not thread-safe.
    """

    def __init__(self, function: Callable[..., Any], *args: Any):
        self._lowered = jit_once(function).lower(*args)
        self._compiled = _COMPILER.submit(self._lowered.compile)

    def postpone(self) -> None:
        """Leaves compilation for the first call, unless it has begun."""
        self._compiled.cancel()

    def __call__(self, *args: Any) -> Any:
        if self._compiled.cancelled():
            self._compiled = _COMPILER.submit(self._lowered.compile)
        return self._compiled.result()(*args)
