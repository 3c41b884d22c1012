"""The list of quick tests names what there is."""

from pathlib import Path

import pytest

from tests.conftest import QUICK

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", QUICK)
def test_every_entry_of_the_list_of_quick_tests_exists(name):
    path, _, start = name.partition("::")
    assert (ROOT / path).exists()
    if start:
        assert f"def {start.partition('[')[0]}" in (ROOT / path).read_text()
