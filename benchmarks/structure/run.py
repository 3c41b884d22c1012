"""Measures the source of a package by ``ast`` alone: nothing is imported or run."""

import ast
from collections.abc import Iterator
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
import re
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]

#: The largest number of parameters of a function; above it the function is listed.
MOST_PARAMETERS = 5

#: Words that a reader of this field would have to guess.
UNCLEAR_WORDS = (
    "besides",
    "nought",
    "only datum",
    "told of",
    "what became of",
    "pile of",
    "behind it",
)

#: The module whose imports are counted.
SUMO = "numpyro_sumo.losses.sumo"

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Import(NamedTuple):
    """An import statement: the module that it names, and where it stands."""

    target: str
    place: str


class FunctionSize(NamedTuple):
    """A function of a package.

    :param name: its module, classes and name, joined by dots.
    :param place: file and line.
    :param parameters: their number, without ``self`` and ``cls``; ``*args`` counts as one.
    :param lines: those of code, from ``def`` to the end, without the docstring.
    """

    name: str
    place: str
    parameters: int
    lines: int


class Source:
    """The source files of a package.

    :param package: its name, a folder below ``root``.
    """

    def __init__(self, package: str, root: Path = ROOT):
        self.package, self.root = package, root
        self.files = sorted((root / package).rglob("*.py"))

    @cached_property
    def trees(self) -> dict[str, tuple[Path, ast.Module]]:
        """File and syntax tree of each module, by the module's name."""
        return {self._name(file): (file, ast.parse(file.read_text())) for file in self.files}

    @cached_property
    def line_counts(self) -> dict[str, int]:
        """The number of lines of each file."""
        return {self.place(file): len(file.read_text().splitlines()) for file in self.files}

    @cached_property
    def imports(self) -> dict[str, list[Import]]:
        """The imports of each module, those inside of functions included, by its name."""
        return {name: list(self._imports_of(name)) for name in self.trees}

    @cached_property
    def functions(self) -> list[FunctionSize]:
        """All functions and methods, also those inside of functions."""
        return [
            function
            for name, (file, tree) in self.trees.items()
            for function in _functions_below(tree, name, self.place(file))
        ]

    @property
    def docstring_lines(self) -> int:
        """The number of lines of all docstrings."""
        trees = (tree for _, tree in self.trees.values())
        return sum(_docstring_lines(node) for tree in trees for node in ast.walk(tree))

    def folder(self, module: str) -> str:
        """The folder of a module, or its own name at the top level of the package."""
        return module.removeprefix(f"{self.package}.").partition(".")[0]

    def imported_by(self, module: str) -> list[str]:
        """The modules of the package that a module imports, directly or not; not itself."""
        found, waiting = {module}, [module]
        while waiting:
            of_one = {each.target for each in self.imports[waiting.pop()]} & self.trees.keys()
            waiting += of_one - found
            found |= of_one
        return sorted(found - {module})

    def circle(self, of_folders: bool = False) -> list[str]:
        """Imports of modules, or of folders, that form a circle, as lines "file:line: ..."."""
        places: dict[str, dict[str, str]] = {}
        for module, imports in self.imports.items():
            for each in imports:
                ends = module, each.target
                own, other = map(self.folder, ends) if of_folders else ends
                if each.target in self.trees and own != other:
                    places.setdefault(own, {})[other] = f"{each.place}: {own} imports {other}"
        try:
            TopologicalSorter(places).prepare()
        except CycleError as error:
            names = error.args[1]
            return [places[own][other] for other, own in zip(names, names[1:])]
        return []

    def imports_against(self, layers: list[set[str]]) -> list[str]:
        """Imports that do not go down from layer to layer, as lines "file:line: ...".

        :param layers: the package's folders and top-level modules, from the lowest up. Those of one
            layer do not import each other.
        """
        height = {name: i for i, layer in enumerate(layers) for name in layer}
        wrong = [
            f"{self.place(file)}:1: '{self.folder(name)}' is in no layer"
            for name, (file, _) in self.trees.items()
            if self.folder(name) not in height
        ]
        for name, imports in self.imports.items():
            own = self.folder(name)
            for each in imports:
                other = self.folder(each.target)
                inside = each.target in self.trees and {own, other} <= height.keys()
                if inside and own != other and height[other] >= height[own]:
                    wrong.append(f"{each.place}: {own} imports {other}")
        return wrong

    def place(self, file: Path) -> str:
        """The path of a file relative to the root."""
        return file.relative_to(self.root).as_posix()

    def _name(self, file: Path) -> str:
        return ".".join(file.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")

    def _imports_of(self, name: str) -> Iterator[Import]:
        file, tree = self.trees[name]
        # What a relative import starts from: a package itself, or the package of a module.
        parts = name.split(".") if file.name == "__init__.py" else name.split(".")[:-1]
        for node in ast.walk(tree):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            place = f"{self.place(file)}:{node.lineno}"
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, place) for alias in node.names)
                continue
            base = parts[: len(parts) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            submodules = [f"{origin}.{alias.name}" for alias in node.names]
            found = {each if each in self.trees else origin for each in submodules}
            yield from (Import(target, place) for target in sorted(found))


def unclear_words(files: list[Path], root: Path = ROOT) -> list[str]:
    """Where :data:`UNCLEAR_WORDS` stand in text files, as lines "file:line: word"."""
    # Words of a phrase may stand on two lines of a comment.
    phrases = "|".join(word.replace(" ", r"[\s#:]+") for word in UNCLEAR_WORDS)
    found = []
    for file in files:
        text = file.read_text()
        for match in re.finditer(rf"\b(?:{phrases})\b", text, re.IGNORECASE):
            line = text.count("\n", 0, match.start()) + 1
            found.append(f"{file.relative_to(root).as_posix()}:{line}: '{match[0]}'")
    return found


def measure() -> dict[str, Any]:
    """The structural figures of the package and of its front page."""
    source = Source("numpyro_sumo")
    by_folder: dict[str, int] = {}
    for name, (file, _) in source.trees.items():
        folder = source.folder(name)
        by_folder[folder] = by_folder.get(folder, 0) + source.line_counts[source.place(file)]
    return {
        "lines": sum(by_folder.values()),
        "docstring_lines": source.docstring_lines,
        "folders": by_folder,
        "longest_file": max(source.line_counts.items(), key=lambda item: item[1]),
        "longest_function": max((each.lines, each.name) for each in source.functions)[::-1],
        "imported_by_sumo": source.imported_by(SUMO),
        "functions_over_five_parameters": {
            each.name: each.parameters
            for each in source.functions
            if each.parameters > MOST_PARAMETERS
        },
        "readme_words": len((ROOT / "README.md").read_text().split()),
    }


def _functions_below(node: ast.AST, prefix: str, file: str) -> Iterator[FunctionSize]:
    """The functions inside of a module, class or function."""
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, Function | ast.ClassDef):
            name = f"{prefix}.{child.name}"
        if isinstance(child, Function):
            lines = (child.end_lineno or 0) - child.lineno + 1 - _docstring_lines(child)
            parameters = _num_parameters(child, isinstance(node, ast.ClassDef))
            yield FunctionSize(name, f"{file}:{child.lineno}", parameters, lines)
        yield from _functions_below(child, name, file)


def _num_parameters(function: Function, in_class: bool) -> int:
    arguments = function.args
    decorators = {ast.unparse(each) for each in function.decorator_list}
    has_self = in_class and "staticmethod" not in decorators
    by_position = [*arguments.posonlyargs, *arguments.args]
    collected = [each for each in (arguments.vararg, arguments.kwarg) if each is not None]
    return len(by_position) - has_self + len(arguments.kwonlyargs) + len(collected)


def _docstring_lines(node: ast.AST) -> int:
    if not isinstance(node, Function | ast.ClassDef | ast.Module) or not ast.get_docstring(node):
        return 0
    docstring = node.body[0]
    return (docstring.end_lineno or 0) - docstring.lineno + 1
