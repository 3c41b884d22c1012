"""Report of the coverage benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import markdown_table, number, with_error
from benchmarks.coverage.models import MODELS


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    sections = "\n\n".join(_section(cell) for cell in results["cells"])
    return f"""# Coverage of the intervals of standard_errors

Data sets are simulated at the truth, and each is fitted by maximising its exact likelihood (closed
form, or quadrature with 60 nodes), so that what is measured are the errors and not the training.
`standard_errors` then gives {100 * results["level"]:g} % intervals from
{results["num_estimates"]} estimates by `{results["estimator"]}`. The guide is Student's t
with five degrees of freedom around the posterior. True variance components are away from zero,
where Wald intervals do not hold.

Coverage is in percent, ± its binomial standard error. *se / exact* is the standard error divided by
that of the exact observed information: its mean over the data sets, ± its standard deviation. The
*reported error* is the Monte Carlo error that `standard_errors` gives for it, on the same scale.
Seed {results["seed"]}; the run took {results["seconds"]:.0f} s.

{sections}
"""


def _section(cell: dict[str, Any]) -> str:
    problem, num_sets = MODELS[cell["model"]], cell["num_sets"]
    groups, size = problem.shape
    header = ["parameter", "truth", "mean estimate", "spread of estimates", "mean se"]
    header += ["coverage", "coverage, sandwich", "se / exact", "reported error"]
    rows = []
    for i, name in enumerate(cell["names"]):
        rows.append(
            [
                name,
                number(cell["truth"][i], 1),
                *(number(cell[key][i]) for key in ("mean_estimate", "sd_estimate", "mean_se")),
                *(_percent(cell[key][i], num_sets) for key in ("coverage", "coverage_sandwich")),
                with_error(cell["se_ratio"][i], cell["se_ratio_sd"][i]),
                number(cell["mc_error"][i]),
            ]
        )
    return f"""## {problem.title[0].upper()}{problem.title[1:]}

{groups} groups of {size} observations, {num_sets} data sets.

{markdown_table(header, rows)}"""


def _percent(share: float, number_of: int) -> str:
    error = (share * (1.0 - share) / number_of) ** 0.5
    return with_error(100.0 * share, 100.0 * error, 1)
