"""Report of the structure benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import markdown_table


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    folders = [[f"`{name}`", str(lines)] for name, lines in results["folders"].items()]
    functions = results["functions_over_five_parameters"]
    over_five = [[f"`{name}`", str(number)] for name, number in functions.items()]
    imported = results["imported_by_sumo"]
    file, file_lines = results["longest_file"]
    function, function_lines = results["longest_function"]
    return f"""# The structure of the package

The package has {results["lines"]} lines, {results["docstring_lines"]} of them in docstrings.
The longest file is `{file}`, {file_lines} lines.
The longest function is `{function}`, {function_lines} lines without its docstring.
The README has {results["readme_words"]} words.
All figures are read from the source; `tests/test_structure.py` checks their bounds.

## Lines by folder

{markdown_table(["folder or file", "lines"], folders)}

## Functions with more than five parameters

There are {len(functions)}. Neither `self` nor `cls` counts; `*args` and `**kwargs` count one each.

{markdown_table(["function", "parameters"], over_five)}

## Imports of SUMO

`numpyro_sumo.losses.sumo` imports {len(imported)} modules of the package, directly or not:
{", ".join(f"`{name.removeprefix('numpyro_sumo.')}`" for name in imported)}.
"""
