"""Tables of the density benchmark, every figure from its JSON."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from benchmarks.tables import markdown_table, number

#: What is compared with.
BASELINE = "iwelbo"


class Mean(NamedTuple):
    """A mean over seeds, and its standard error: NaN of a single one."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{number(self.value)} ± {number(self.error)}"


def mean(values: Any) -> Mean:
    """Of one figure for each seed."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else np.nan
    return Mean(float(values.mean()), float(error))


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
    return mean([runs[arm][seed][figure] - runs[beside][seed][figure] for seed in common])


def difference_cell(difference: Mean | None) -> str:
    """In bold if it is more than two standard errors from zero."""
    if difference is None:
        return "–"
    beyond = abs(difference.value) > 2.0 * difference.error
    return f"**{difference}**" if beyond else str(difference)


def likelihood_table(results: dict[str, Any], name: str, draws: int) -> str:
    """Test negative log-likelihood, by arm."""
    runs = next(group[2] for group in groups(results) if group[:2] == (name, draws))
    rows = []
    for arm, by_seed in runs.items():
        of = lambda figure, by_seed=by_seed: mean([run[figure] for run in by_seed.values()])
        told = results["configuration"]["plans"][name]["arms"][str(draws)][arm]
        rows.append(
            [
                told["title"],
                number(told["draws"], 1),
                str(of("nll_bound")),
                str(of("nll")),
                difference_cell(paired(runs, arm, "nll_bound")),
                str(of("bias")),
                number(of("seconds").value, 0),
            ]
        )
    header = [
        "loss",
        "draws",
        "NLL by the bound",
        "NLL, unbiased",
        "beyond IWELBO's, paired",
        "objective − log p",
        "s",
    ]
    return markdown_table(header, rows)


def gradient_table(results: dict[str, Any], name: str) -> str:
    """Norms of the gradients, and how often they were clipped."""
    rows = []
    for _, draws, runs in (group for group in groups(results) if group[0] == name):
        for arm, by_seed in runs.items():
            of = lambda figure, by_seed=by_seed: np.mean(
                [run["gradient_norm"][figure] for run in by_seed.values()]
            )
            norms = [number(float(of(figure)), 2) for figure in ("median", "99.9 %")]
            title = results["configuration"]["plans"][name]["arms"][str(draws)][arm]["title"]
            rows.append([title, str(draws), *norms, f"{100 * of('clipped'):.2f} %"])
    return markdown_table(["loss", "draws", "median norm", "99.9 %", "steps clipped"], rows)


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
    return f"""# Models with latent variables, trained on log p(x) itself

{results["configuration"]["seeds"]} seeds; {len(results["runs"])} trainings and their judgement took
{results["seconds"] / 60:.0f} minutes. All figures are in nats per point, of parameters averaged
over the last steps of training, ± the standard error over seeds.

*NLL by the bound* is the negative of IWELBO on test points, of as many draws of each as the section
says; *unbiased*, that of an estimate without bias, from draws of its own. *Beyond IWELBO's* is the
first of these less IWELBO's at the same expected draws and seed: below zero is better, and bold is
more than two standard errors. *Objective − log p* is the bias of what was trained on, on test
points, at the end. Losses by variance make 32 draws more for their baseline. *s* is the time in
training steps.

{_agreement(results)}

{chr(10).join(sections)}"""


def summary_table(results: dict[str, Any], name: str) -> str:
    """By arm and draws, what test negative log-likelihood is beyond IWELBO's; and IWELBO's own."""
    by_draws = {draws: runs for other, draws, runs in groups(results) if other == name}
    arms = results["configuration"]["plans"][name]["arms"]
    told = next(iter(arms.values()))

    def cell(runs, arm):
        if arm not in runs:
            return "–"
        if arm == BASELINE:
            return f"*{mean([run['nll_bound'] for run in runs[arm].values()])}*"
        return difference_cell(paired(runs, arm, "nll_bound"))

    order = [BASELINE, *(arm for arm in told if arm != BASELINE)]
    rows = [[told[arm]["title"], *(cell(runs, arm) for runs in by_draws.values())] for arm in order]
    return markdown_table(["loss", *(f"{draws} draws" for draws in by_draws)], rows)


def _section(name: str, plan: dict[str, Any], tables: str, gradients: str) -> str:
    pictures = (
        "![Validation along the training](training.png)\n\n"
        "![Test images, their reconstructions, and draws from the prior](images.png)\n\n"
        if name == "digits"
        else f"![The learned density of {name}](plane_{name}.png)\n\n"
    )
    return f"""## {name.capitalize()}

{plan["epochs"]} epochs in batches of {plan["batch_size"]}, Adam at {plan["learning_rate"]} with
cosine decay; judged by {plan["judged_draws"]} draws.

{pictures}{tables}

### Gradients

{gradients}
"""


def _agreement(results: dict[str, Any]) -> str:
    """How the unbiased estimates lie beside the bound."""
    runs = list(results["runs"].values())
    apart = [(run["nll_bound"] - run["nll"]) / run["nll_se"] for run in runs if run["nll_se"]]
    if not apart:
        return ""
    return (
        f"The unbiased estimate of log p(x) is {number(float(np.mean(apart)), 2)} of its own "
        f"standard errors above the bound on average over runs, between "
        f"{number(min(apart), 2)} and {number(max(apart), 2)}."
    )
