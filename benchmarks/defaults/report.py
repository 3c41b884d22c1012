"""Report of the defaults benchmark: every figure comes from its JSON."""

import math
from typing import Any

import numpy as np

from benchmarks.common.tables import markdown_table, number, with_error
from benchmarks.defaults.run import BOUND, LEARNING_RATE, MAX_GRADIENT_NORM, VARIANTS
from benchmarks.models.by_quadrature import MODELS
from numpyro_sumo import SUMO
from numpyro_sumo.losses.base import ImportanceLoss


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    sections = "\n".join(
        f"## {loss_class.__name__}\n\n{_table(results, loss_class, 'gap', 4)}\n\n"
        "KL divergence of the guide from the posterior:\n\n"
        f"{_table(results, loss_class, 'kl', 3)}\n"
        for loss_class in VARIANTS
    )
    settings = results["settings"]
    return f"""# Default options of a loss

How far the guide's {BOUND}-particle bound is below log p(x) after training, in nats: mean over
{settings["seeds"]} seeds ± its standard error. Columns are the guide's gradient or objective, and
the number of particles. All trainings in a table made the same expected number of draws, those of a
baseline included: that of {settings["steps"]} steps with the first column's loss. Adam at
{LEARNING_RATE} with cosine decay, gradients clipped at {MAX_GRADIENT_NORM:.0f}. A dash marks a
training that diverged. Draws are not time: a draw costs more with "dreg" than with "standard", and
a step has costs beyond its draws.

{sections}
The model of counts also learns two parameters. Their log-evidence is below the highest one found by
so many nats:

{_evidence_table(results)}
"""


def _table(
    results: dict[str, Any], loss_class: type[ImportanceLoss], figure: str, digits: int
) -> str:
    """One figure by model and variant."""
    variants = VARIANTS[loss_class]
    rows = []
    for model, problem in MODELS.items():
        cells = results["models"].get(model, {}).get(loss_class.__name__, {})
        values = {
            variant: [seed[figure] for seed in cell["seeds"]] for variant, cell in cells.items()
        }
        rows.append([problem.title, *(_mean(values.get(v), digits) for v in variants)])
    return markdown_table(["model", *variants], rows)


def _evidence_table(results: dict[str, Any]) -> str:
    """The difference of log-evidence from the highest one, by loss and variant."""
    evidences = {
        name: {v: [seed["log_evidence"] for seed in cell["seeds"]] for v, cell in cells.items()}
        for name, cells in results["models"].get("counts", {}).items()
    }
    every = [e for of_loss in evidences.values() for values in of_loss.values() for e in values]
    highest = max((value for value in every if value is not None), default=math.nan)
    variants = VARIANTS[SUMO]
    rows = []
    for name, of_loss in evidences.items():
        below = {
            variant: [None if value is None else highest - value for value in values]
            for variant, values in of_loss.items()
        }
        rows.append([name, *(_mean(below.get(v), 4) for v in variants)])
    return markdown_table(["loss", *variants], rows)


def _mean(values: list[float | None] | None, digits: int) -> str:
    """The mean over seeds ± its standard error; None stands for a seed that diverged."""
    if values is None:
        return "–"
    figures = np.array([math.nan if value is None else value for value in values])
    if len(figures) < 2:
        return number(float(figures[0]), digits)
    error = figures.std(ddof=1) / len(figures) ** 0.5
    return with_error(float(figures.mean()), float(error), digits)
