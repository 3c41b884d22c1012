import pytest

import jax
import jax.numpy as jnp

from tests.helpers.compiling import quick_jit

_jit = jax.jit


def _quick_outside(function, **options):
    """``quick_jit``, but ``jax.jit`` where all is being traced, within what is compiled already."""
    traced = isinstance(jnp.zeros(()), jax.core.Tracer)
    return _jit(function, **options) if traced else quick_jit(function, **options)


@pytest.fixture(scope="module")
def quick_compilation():
    """What benchmarks compile by ``jax.jit`` is compiled as quickly as the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", _quick_outside)
        yield
