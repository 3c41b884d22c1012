import pytest

from benchmarks.common import readme


@pytest.mark.parametrize("name", readme.SECTIONS)
def test_the_readme_holds_the_tables_of_the_latest_results(name):
    text = (readme.ROOT / "README.md").read_text()
    assert readme.spliced(text, name, readme.SECTIONS[name]()) == text
