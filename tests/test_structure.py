"""The structure of the source: import direction, sizes, numbers of parameters, clear words."""

from pathlib import Path

import pytest

from benchmarks.structure.run import (
    MOST_PARAMETERS,
    ROOT,
    SUMO,
    Source,
    unclear_words,
)

PACKAGE, BENCHMARKS = Source("numpyro_sumo"), Source("benchmarks")

#: From the lowest up; those of one layer do not import each other.
LAYERS = [
    {"_compat", "_version", "checks"},
    {"stopping_times", "optim", "background"},
    {"programs", "estimators"},
    {"ragged"},
    {"guides"},
    {"losses"},
    {"diagnostics", "mcmc"},
    {"certificates"},
    {"inference"},
    {"numpyro_sumo"},
]
MOST_LINES_OF_A_FILE = 300
MOST_LINES_OF_A_FUNCTION = 60

#: Functions with more than five parameters: public ones, and those that NumPyro calls.
MANY_PARAMETERS = {
    "numpyro_sumo.certificates.certify.certify",
    "numpyro_sumo.diagnostics.kl_sandwich.kl_sandwich",
    "numpyro_sumo.diagnostics.kl_sandwich.log_marginal",
    "numpyro_sumo.diagnostics.log_evidence.log_evidence",
    "numpyro_sumo.diagnostics.standard_errors.standard_errors",
    "numpyro_sumo.estimators.multilevel.multilevel",
    "numpyro_sumo.estimators.roulette.russian_roulette",
    "numpyro_sumo.guides.auto_hierarchical.AutoHierarchicalNormal.__init__",
    "numpyro_sumo.guides.placement.place",
    "numpyro_sumo.inference.fit.fit",
    "numpyro_sumo.losses.program_loss.ProgramLoss.loss",
    "numpyro_sumo.losses.program_loss.ProgramLoss.loss_with_mutable_state",
    "numpyro_sumo.mcmc.independence_metropolis.IndependenceMetropolis.__init__",
}
MOST_FUNCTIONS_WITH_MANY_PARAMETERS = 13

#: Modules of the package that :data:`SUMO` imports, directly or not.
MOST_IMPORTS_OF_SUMO = 33

TEXTS = [*PACKAGE.files, ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def lines(found) -> str:
    return "\n" + "\n".join(found)


def test_imports_go_down_from_layer_to_layer():
    wrong = PACKAGE.imports_against(LAYERS)
    assert not wrong, lines(wrong)


@pytest.mark.parametrize("source", [PACKAGE, BENCHMARKS], ids=lambda source: source.package)
def test_no_modules_import_each_other_in_a_circle(source):
    circle = source.circle()
    assert not circle, lines(circle)


def test_no_folders_import_each_other_in_a_circle():
    circle = PACKAGE.circle(of_folders=True)
    assert not circle, lines(circle)


def test_estimators_import_no_numpyro():
    wrong = [
        f"{each.place}: {each.target}"
        for module, imports in PACKAGE.imports.items()
        if PACKAGE.folder(module) == "estimators"
        for each in imports
        if each.target.partition(".")[0] == "numpyro"
    ]
    assert not wrong, lines(wrong)


def test_no_file_is_long():
    counts = PACKAGE.line_counts | BENCHMARKS.line_counts
    found = [f"{file}:{n}" for file, n in counts.items() if n > MOST_LINES_OF_A_FILE]
    assert not found, lines(found)


def test_no_function_is_long():
    found = [
        f"{each.place}: {each.name} has {each.lines} lines"
        for each in [*PACKAGE.functions, *BENCHMARKS.functions]
        if each.lines > MOST_LINES_OF_A_FUNCTION
    ]
    assert not found, lines(found)


def test_functions_with_more_than_five_parameters_are_those_named():
    found = {each.name: each for each in PACKAGE.functions if each.parameters > MOST_PARAMETERS}
    unknown = [
        f"{each.place}: {name} has {each.parameters} parameters"
        for name, each in found.items()
        if name not in MANY_PARAMETERS
    ]
    assert not unknown, lines(unknown)
    assert found.keys() == MANY_PARAMETERS, "take those that have fewer now out of MANY_PARAMETERS"
    assert len(found) <= MOST_FUNCTIONS_WITH_MANY_PARAMETERS


def test_sumo_imports_no_more_modules_than_counted():
    found = PACKAGE.imported_by(SUMO)
    places = [f"{PACKAGE.place(PACKAGE.trees[name][0])}:1" for name in found]
    assert len(found) <= MOST_IMPORTS_OF_SUMO, lines(places)


def test_words_are_clear():
    found = unclear_words(TEXTS)
    assert not found, lines(found)


def test_every_module_and_page_is_read():
    assert Path(__file__).parents[1] == ROOT
    assert len(PACKAGE.trees) == len(PACKAGE.files) > 40
    assert len(TEXTS) > len(PACKAGE.files) + 5
