"""Report of the gradients benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import markdown_table, number, with_error
from benchmarks.models.conjugate import MODELS


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    header = ["model", "loss", "mismatch", "mean, dreg", "mean, standard", "variance", "ratio"]
    rows = []
    for cell in results["cells"]:
        dreg, standard = cell["dreg"], cell["standard"]
        rows.append(
            [
                MODELS[cell["model"]].title,
                cell["loss"],
                number(cell["mismatch"], 1),
                *(with_error(each["mean"], each["mean_se"], 4) for each in (dreg, standard)),
                number(standard["variance"], 4),
                number(dreg["variance"] / standard["variance"], 4),
            ]
        )
    return f"""# The doubly reparameterised gradient beside the standard one

Gradient of a loss with {results["num_particles"]} particles in the guide's one parameter, its
mismatch: {results["keys"]} keys for each figure, seed {results["seed"]}; the run took
{results["seconds"]:.0f} s. Means are ± their standard error; *variance* is that of the standard
gradient, and *ratio* the variance with "dreg" divided by it. Mismatch 0 is the exact posterior.

{markdown_table(header, rows)}
"""
