"""Report of the evidence benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import markdown_table, number, with_error

TITLES = {
    "iwelbo": "IWELBO",
    "sumo": "SUMO",
    "multilevel": "multilevel SUMO",
}


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    draws = markdown_table(
        ["estimator", "mean draws"],
        [[TITLES[name], number(mean, 1)] for name, mean in results["mean_draws"].items()],
    )
    sections = "\n".join(
        f"## {entry['title']}\n\n{_table(entry['cells'])}\n" for entry in results["models"].values()
    )
    return f"""# Estimates of log p(x) where it is known

{results["estimates"]} estimates for each row, seed {results["seed"]}; the run took
{results["seconds"]:.0f} s. At mismatch 0 the guide is the exact posterior; with the mismatch, the
distance of its mean and the error of its width grow.

{draws}

![Bias of each estimator](biases.png)

![Variance times draws of each estimator](costs.png)

*Bias* is the mean estimate minus log p(x), in nats, ± its standard error; *bias of the gradient* is
the same for the derivative in the model's parameter. *Var × draws* is the variance of an estimate
times its mean number of draws: with n draws in total, the squared standard error is that over n.
*k-hat* is that of the weights; beyond 0.7 no figure of the row can be trusted.

SUMO's variance is infinite: its figures are those of these samples only. Its mean is the bound at
the end of its longest tail, which lies below log p(x) where the guide misses by much; multilevel
tails double from level to level, and reach much further.

{sections}"""


def _table(cells: list[dict[str, Any]]) -> str:
    header = ["estimator", "mismatch", "bias", "bias of the gradient", "var × draws", "k-hat"]
    rows = [
        [
            TITLES[name],
            number(cell["mismatch"], 1),
            *(with_error(of[key], of[f"{key}_se"], 4) for key in ("bias", "gradient_bias")),
            number(of["variance_times_draws"], 2),
            number(cell["pareto_k"], 2),
        ]
        for cell in cells
        for name, of in cell["estimators"].items()
    ]
    return markdown_table(header, rows)
