"""Report of the parameters benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import bold, markdown_table, number, with_error
from benchmarks.parameters.errors import (
    MONTE_CARLO_ERRORS,
    PERCENT,
    WRONG,
    count_right,
    deviations,
    furthest,
    root_mean_square,
    select,
)
from benchmarks.parameters.latent_models import NUM_DATA
from benchmarks.parameters.models import MODELS
from benchmarks.parameters.optimisers import RECIPE, candidates
from benchmarks.parameters.run import LOSSES, MAIN_DRAWS, UNBIASED, cells


def report(results: dict[str, Any], optimisers: dict[str, Any] | None = None) -> str:
    """The report in Markdown.

    :param optimisers: the results of ``--optimisers``, where they exist.
    """
    config = results["configuration"]
    sections = "\n".join(_section(results, model) for model in results["exact"])
    return f"""# Parameters learned by each loss, beside the exact maximum-likelihood estimate

{NUM_DATA} data or groups in each model, {config["steps"]} steps, {config["seeds"]} seeds, and one
recipe for all: `{RECIPE}`. A deviation is the mean over seeds less the exact estimate, ± its Monte
Carlo error (the standard error over seeds), in percent of the exact estimate; in brackets in
statistical standard errors, which is how far the data leave the parameter uncertain. Seconds are
those of one processor core for the training of one seed, without compilation. The run took
{results["seconds"]:.0f} s.{_unfinished(results)}

![Deviation against seconds](deviations.png)

## {MAIN_DRAWS} draws in short

*right*: parameters within {PERCENT} % of the exact estimate or {MONTE_CARLO_ERRORS:.0f} Monte
Carlo errors. *worst*: the parameter furthest off in statistical standard errors; bold is beyond
{WRONG:.0f} Monte Carlo errors. Of a loss whose Monte Carlo error is large, *right* says little.

{_short_table(results)}
{_optimisers(optimisers) if optimisers else ""}
{sections}"""


def _unfinished(results: dict[str, Any]) -> str:
    """A sentence on what has not been trained yet, if there is anything."""
    done, every = len(results["cells"]), len(cells(quick=False))
    return "" if done >= every else f" **Unfinished: {done} of {every} trainings.**"


def _short_table(results: dict[str, Any]) -> str:
    """Right parameters and the worst one, by model, guide and loss."""
    header = ["model", "guide", "loss", "right", "worst", "deviation, %", "in standard errors"]
    rows = []
    for model in MODELS:
        for cell in select(results, model=model, draws=MAIN_DRAWS):
            found = deviations(results, cell)
            rows.append(
                [
                    MODELS[model].title,
                    cell["guide"],
                    cell["loss"],
                    count_right(found),
                    *_worst(found),
                ]
            )
    return markdown_table(header, rows)


def _worst(found: dict[str, Any]) -> list[str]:
    """Name and deviation of the parameter that is furthest off."""
    name, worst = furthest(found)
    is_wrong = abs(worst.z) > WRONG
    return [
        name,
        bold(with_error(worst.percent, worst.percent_error, 2), is_wrong),
        number(worst.in_standard_errors, 2),
    ]


def _section(results: dict[str, Any], model: str) -> str:
    """Exact estimates and all deviations of one model."""
    exact = results["exact"][model]
    names = list(exact["estimate"])
    top = [
        "",
        "",
        "",
        *(with_error(exact["estimate"][n], exact["standard_error"][n]) for n in names),
    ]
    rows = [["exact ± statistical standard error", *top]]
    for guide in ("local", "amortised"):
        for loss in LOSSES:
            found_cells = sorted(
                select(results, model=model, guide=guide, loss=loss), key=lambda cell: cell["draws"]
            )
            for cell in found_cells:
                found = deviations(results, cell)
                rows.append(
                    [
                        loss,
                        guide,
                        number(cell["mean_draws"], 1),
                        number(cell["seconds"] / results["configuration"]["seeds"], 1),
                        *(
                            f"{with_error(found[n].percent, found[n].percent_error, 2)} "
                            f"({number(found[n].in_standard_errors, 2)})"
                            for n in names
                        ),
                    ]
                )
    return (
        f"## {MODELS[model].title}\n\n"
        f"{markdown_table(['loss', 'guide', 'draws', 'seconds', *names], rows)}\n"
    )


def _optimisers(results: dict[str, Any]) -> str:
    """The comparison of optimisers: by loss, over all models."""
    config = results["configuration"]
    models = [model for model in results["exact"] if any(select(results, model=model))]
    header = ["optimiser", "right", *(MODELS[model].title for model in models)]
    tables = []
    for loss in UNBIASED:
        rows = []
        for name in candidates(1):
            found = {
                cell["model"]: deviations(results, cell)
                for cell in select(results, loss=loss, optimiser=name)
            }
            if not found:
                continue
            every = {f"{m}, {n}": each for m, of in found.items() for n, each in of.items()}
            shown = [
                number(root_mean_square(found[m], "of_one_seed"), 3) if m in found else "–"
                for m in models
            ]
            rows.append([name, count_right(every), *shown])
        if rows:
            tables.append(f"### {loss}\n\n{markdown_table(header, rows)}\n")
    return f"""
## Which optimiser?

The same trainings at {MAIN_DRAWS} draws with the local guide, by each optimiser, with
{config["steps"]} steps and {config["seeds"]} seeds. Figures are the root mean square deviation of a
single training, over seeds and a model's parameters, in statistical standard errors; bias and noise
both count. *right* as above, over these models: noise makes it easy.

{"".join(tables)}"""
