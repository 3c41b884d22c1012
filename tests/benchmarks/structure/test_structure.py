import json

import pytest

from benchmarks.structure import report
from benchmarks.structure.__main__ import main
from benchmarks.structure.run import Source, unclear_words

FILES = {
    "house/__init__.py": "from .high.roof import tile\n",
    "house/low/__init__.py": "",
    "house/low/cellar.py": '"""A cellar.\n\nOf stone."""\n\nfrom ..high import roof\n',
    "house/high/__init__.py": "",
    "house/high/roof.py": """
import numpy as np

def tile(a, b, *args, c, d, **kwargs):
    '''Several

    lines.'''

    def nail():
        from house.low.cellar import stone

    return nail

class Chimney:
    def smoke(self, a): ...

    @classmethod
    def soot(cls): ...

    @staticmethod
    def ash(a): ...
""",
    "page.md": "Told\nof besides, but not of a naughty besidest.\n",
}


@pytest.fixture
def house(tmp_path):
    for name, text in FILES.items():
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return Source("house", tmp_path)


def test_imports_are_those_of_modules_relative_and_inside_of_functions(house):
    targets = {name: [each.target for each in found] for name, found in house.imports.items()}
    assert targets["house"] == ["house.high.roof"]
    assert targets["house.low.cellar"] == ["house.high.roof"]
    assert targets["house.high.roof"] == ["numpy", "house.low.cellar"]
    assert house.imported_by("house") == ["house.high.roof", "house.low.cellar"]


def test_circles_are_found(house):
    assert sorted(house.circle()) == [
        "house/high/roof.py:10: house.high.roof imports house.low.cellar",
        "house/low/cellar.py:5: house.low.cellar imports house.high.roof",
    ]
    assert sorted(house.circle(of_folders=True)) == [
        "house/high/roof.py:10: high imports low",
        "house/low/cellar.py:5: low imports high",
    ]


def test_imports_from_a_lower_layer_are_found_with_their_lines(house):
    layers = [{"low"}, {"high"}, {"house"}]
    assert house.imports_against(layers) == ["house/low/cellar.py:5: low imports high"]
    assert house.imports_against([{"low", "high"}, {"house"}])[1:] == [
        "house/low/cellar.py:5: low imports high"
    ]
    assert house.imports_against(layers[1:])[:1] == [
        "house/low/__init__.py:1: 'low' is in no layer"
    ]


def test_functions_have_their_parameters_and_lines_of_code(house):
    found = {each.name.removeprefix("house.high.roof."): each for each in house.functions}
    assert {name: each.parameters for name, each in found.items()} == {
        "tile": 6,
        "tile.nail": 0,
        "Chimney.smoke": 1,
        "Chimney.soot": 0,
        "Chimney.ash": 1,
    }
    assert found["tile"].place == "house/high/roof.py:4"
    assert found["tile"].lines == 6
    assert house.docstring_lines == 6


def test_unclear_words_are_found_across_lines_but_not_within_words(house):
    found = unclear_words([house.root / "page.md"], house.root)
    assert found == ["page.md:1: 'Told\nof'", "page.md:2: 'besides'"]


def test_run_prints_and_writes_the_figures(tmp_path, capsys):
    assert main(["--out", str(tmp_path)]) == 0
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".md", ".html"}
    results = json.loads((tmp_path / "structure.json").read_text())
    assert capsys.readouterr().out.startswith(json.dumps(results, indent=1))
    assert sum(results["folders"].values()) == results["lines"] > results["docstring_lines"] > 500
    assert (tmp_path / "report.md").read_text() == report.report(results)
