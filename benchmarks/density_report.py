"""Tables of the density benchmark, every figure from its JSON."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tables import markdown_table, number

#: What is compared with.
BASELINE = "iwelbo"

#: Nats per point beyond which a training ran away: a coin for each pixel would give 44.
_FAR = 100.0


class Mean(NamedTuple):
    """A mean over seeds, and its standard error: NaN of a single one, and where any ran away."""

    value: float
    error: float

    def __str__(self) -> str:
        if not np.isfinite(self.value):
            return "**ran away**"
        return f"{number(self.value)} ± {number(self.error)}"


def mean(values: Any) -> Mean:
    """Of one figure for each seed; None stands for one that is not finite."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return Mean(float(values.mean()), float(error))


def ran_away(run: dict[str, Any]) -> bool:
    """Whether its parameters are not finite, or its model is worse than any at the start."""
    return run["nll"] is None or not run["nll"] < _FAR


def figures(by_seed: dict[int, Any], name: str) -> list[float | None]:
    """One figure of each run; None of those that ran away."""
    return [None if ran_away(run) else run[name] for run in by_seed.values()]


def groups(results: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, dict[int, Any]]]]:
    """Plan, draws, and by arm and seed the runs of it: as far as there are any."""
    for name, plan in results["configuration"]["plans"].items():
        for draws in map(int, plan["arms"]):
            runs: dict[str, dict[int, Any]] = {}
            for run in results["runs"].values():
                if (run["plan"], run["draws"]) == (name, draws):
                    runs.setdefault(run["arm"], {})[run["seed"]] = run
            if runs:
                yield name, draws, runs


def paired(
    runs: dict[str, dict[int, Any]], arm: str, figure: str, beside: str = BASELINE
) -> Mean | None:
    """What an arm has more than another, seed by seed; None without a seed that both have."""
    common = sorted(runs[arm].keys() & runs.get(beside, {}).keys())
    if arm == beside or not common:
        return None
    one, other = (
        np.array(figures({seed: runs[name][seed] for seed in common}, figure), float)
        for name in (arm, beside)
    )
    return mean(one - other)


def difference_cell(difference: Mean | None) -> str:
    """In bold if it is more than two standard errors from zero."""
    if difference is None or not np.isfinite(difference.value):
        return "–"
    beyond = abs(difference.value) > 2.0 * difference.error
    return f"**{difference}**" if beyond else str(difference)


def likelihood_table(results: dict[str, Any], name: str, draws: int) -> str:
    """Test negative log-likelihood, by arm."""
    runs = next(group[2] for group in groups(results) if group[:2] == (name, draws))
    rows = []
    for arm, by_seed in runs.items():
        of = lambda figure, by_seed=by_seed: mean(figures(by_seed, figure))
        told = results["configuration"]["plans"][name]["arms"][str(draws)][arm]
        baseline = f" + {told['baseline_draws']}" if told["baseline_draws"] else ""
        rows.append(
            [
                told["title"],
                number(told["draws"], 1) + baseline,
                str(told["longest"]),
                str(len(by_seed)),
                str(of("nll_bound")),
                str(of("nll")),
                difference_cell(paired(runs, arm, "nll_bound")),
                difference_cell(paired(runs, arm, "nll")),
                str(of("bias")),
                number(of("pareto_k").value, 2),
                number(of("seconds").value, 0),
            ]
        )
    header = [
        "loss",
        "draws",
        "longest",
        "seeds",
        "NLL by the bound",
        "NLL, unbiased",
        "beyond IWELBO's, bound",
        "beyond IWELBO's, unbiased",
        "objective − log p",
        "k-hat",
        "s",
    ]
    return markdown_table(header, rows)


def gradient_table(results: dict[str, Any], name: str) -> str:
    """Norms of the gradients, and how often they were clipped."""
    rows = []
    for _, draws, runs in (group for group in groups(results) if group[0] == name):
        for arm, by_seed in runs.items():
            norms = [run["gradient_norm"] for run in by_seed.values()]
            of = lambda figure, norms=norms: float(
                np.mean(np.array([each[figure] for each in norms], float))
            )
            title = results["configuration"]["plans"][name]["arms"][str(draws)][arm]["title"]
            row = [title, str(draws), number(of("median"), 2), number(of("99.9 %"), 2)]
            rows.append([*row, f"{100 * of('beyond'):.1f} %"])
    return markdown_table(["loss", "draws", "median norm", "99.9 %", "steps beyond"], rows)


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    plans = results["configuration"]["plans"]
    sections = []
    for name, plan in plans.items():
        tables = "\n\n".join(
            f"### {draws} draws\n\n{likelihood_table(results, name, draws)}"
            for other, draws, _ in groups(results)
            if other == name
        )
        if tables:
            sections.append(_section(name, plan, tables, gradient_table(results, name)))
    return f"""# Models with latent variables, trained on log p(x) and on bounds

{len(results["runs"])} trainings and their judgement took {results["seconds"] / 60:.0f} minutes. All
figures are in nats per point, of parameters averaged over the last steps of training, ± the
standard error over seeds; the split of the data, and what is made of the test points, are the same
for all.

*NLL by the bound* is the negative of IWELBO on test points, of as many draws of each as the section
says; *unbiased*, that of an estimate without bias, from draws of its own. *Beyond IWELBO's* are
these less IWELBO's at the same expected draws, seed by seed: below zero is better, and bold is more
than two standard errors (of five seeds chance alone goes there in one cell of eight). *Draws* are
those of each datum in expectation, and those of a baseline besides; *longest* is how many there may
be: what the estimate is unbiased for is the bound over so many. *Objective − log p* is the bias of
what was trained on, on test points, at the end. *k-hat* is the 90 % quantile of the Pareto shape of
the weights over test points. *s* is the time in training steps, compilation apart, with
{results["workers"]} trainings side by side. The ELBO's guide has the standard gradient; others', by
a bound, the doubly reparameterised one.

{_agreement(results)}

{chr(10).join(sections)}"""


def _section(name: str, plan: dict[str, Any], tables: str, gradients: str) -> str:
    pictures = (
        "![Validation along the training](training.png)\n\n"
        "![Test images, their reconstructions, and draws from the prior](images.png)\n\n"
        if name == "digits"
        else f"![The learned density of {name}](plane_{name}.png)\n\n"
    )
    return f"""## {name.capitalize()}

{plan["network"][0]} latents, two hidden layers of {plan["network"][1]} in model and guide;
{plan["epochs"]} epochs in batches of {plan["batch_size"]}, Adam at {plan["learning_rate"]} with
cosine decay; judged by {plan["judged_draws"]} draws. The gradients of model and guide are clipped
apart.

{pictures}{tables}

### Gradients

{gradients}
"""


def _agreement(results: dict[str, Any]) -> str:
    """How the unbiased estimates lie beside the bound."""
    runs = [run for run in results["runs"].values() if not ran_away(run)]
    if not runs:
        return ""
    apart = [
        (run["nll_bound"] - run["nll"]) / np.hypot(run["nll_se"], run["nll_bound_se"])
        for run in runs
    ]
    return (
        "The unbiased estimate of log p(x) lies "
        f"{number(float(np.mean(apart)), 2)} standard errors of the difference above the bound, on "
        f"average over runs, and between {number(min(apart), 2)} and {number(max(apart), 2)}."
    )
