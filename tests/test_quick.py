"""The lists of quick and of slow tests name what there is."""

from pathlib import Path

import pytest

from tests.conftest import QUICK, SLOW

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", [*QUICK, *SLOW])
def test_every_entry_of_the_lists_exists(name):
    path, _, start = name.partition("::")
    assert (ROOT / path).exists()
    if start:
        assert f"def {start.partition('[')[0]}" in (ROOT / path).read_text()
