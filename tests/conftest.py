import pytest

import jax

from tests.compiling import quick_jit


@pytest.fixture(scope="module")
def quick_compilation():
    """What benchmarks compile by ``jax.jit`` is compiled as quickly as the tests' own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "jit", quick_jit)
        yield
