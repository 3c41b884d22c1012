import pytest

from tests.helpers.compiling import compile_quickly

compile_quickly()


@pytest.fixture(scope="module")
def quick_compilation():
    """Nothing: all tests compile quickly."""
