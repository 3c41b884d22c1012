"""Tables of the density benchmark, every figure from its JSON."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t as student_t

from benchmarks.common.tables import markdown_table, number

#: What is compared with.
REFERENCE = "iwelbo"


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
    """Whether its parameters are not finite, or its model is worse than it was at the start."""
    return run["nll"] is None or not run["nll"] < run["validation"][0][1]


def figures(by_seed: dict[int, Any], name: str) -> list[float | None]:
    """One figure of each run; None of those that ran away."""
    return [None if ran_away(run) else run[name] for run in by_seed.values()]


def groups(results: dict[str, Any]) -> Iterator[tuple[str, int, dict[str, dict[int, Any]]]]:
    """Plan, draws, and by arm and seed the runs of it: as far as there are any."""
    for name, plan in results["configuration"]["plans"].items():
        for draws, arms in plan["arms"].items():
            runs: dict[str, dict[int, Any]] = {arm: {} for arm in arms}
            for run in results["runs"].values():
                if (run["plan"], str(run["draws"])) == (name, draws):
                    runs[run["arm"]][run["seed"]] = run
            runs = {arm: by_seed for arm, by_seed in runs.items() if by_seed}
            if runs:
                yield name, int(draws), runs


def paired(
    runs: dict[str, dict[int, Any]], arm: str, figure: str, beside: str = REFERENCE
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


def away(by_seed: dict[int, Any]) -> str:
    """How many runs ran away, in bold; empty if none did."""
    count = sum(map(ran_away, by_seed.values()))
    return f"**{count} of {len(by_seed)} ran away**" if count else ""


def chance(results: dict[str, Any]) -> str:
    """How often a mean of differences that is zero goes beyond two standard errors: Student's t."""
    num_seeds = len({run["seed"] for run in results["runs"].values()})
    return f"{100 * 2 * student_t.sf(2.0, num_seeds - 1):.0f} %" if num_seeds > 1 else "none"


def likelihood_table(results: dict[str, Any], name: str, draws: int) -> str:
    """Test negative log-likelihood, by arm."""
    runs = next(group[2] for group in groups(results) if group[:2] == (name, draws))
    rows = []
    for arm, by_seed in runs.items():
        of = lambda figure, by_seed=by_seed: mean(figures(by_seed, figure))
        told = results["configuration"]["plans"][name]["arms"][str(draws)][arm]
        rows.append(
            [
                told["title"],
                draws_cell(told),
                str(told["longest"]),
                str(len(by_seed)),
                away(by_seed) or str(of("nll_bound")),
                away(by_seed) or str(of("nll")),
                number(of("nll_se").value),
                difference_cell(paired(runs, arm, "nll_bound")),
                difference_cell(paired(runs, arm, "nll")),
                bias_cell(by_seed),
                number(of("pareto_k").value, 2),
                number(of("seconds").value, 1),
            ]
        )
    header = [
        "loss",
        "draws",
        "bound over",
        "seeds",
        "NLL by the bound",
        "NLL, unbiased",
        "its error",
        "beyond IWELBO's, bound",
        "beyond IWELBO's, unbiased",
        "objective − log p",
        "k-hat",
        "s",
    ]
    return markdown_table(header, rows)


def summary_table(results: dict[str, Any]) -> str:
    """IWELBO's negative log-likelihood, unbiased, and what each arm is beyond it: all data."""
    plans = results["configuration"]["plans"]
    titles = {
        arm: told["title"] + _baseline(told)
        for plan in plans.values()
        for by_name in plan["arms"].values()
        for arm, told in by_name.items()
    }
    others = {arm: title for arm, title in titles.items() if arm != REFERENCE}
    rows = []
    for name, draws, runs in groups(results):
        usual = str(mean(figures(runs[REFERENCE], "nll"))) if REFERENCE in runs else "–"
        cells = [
            away(runs.get(arm, {}))
            or difference_cell(paired(runs, arm, "nll") if arm in runs else None)
            for arm in others
        ]
        rows.append([name, str(draws), usual, *cells])
    return markdown_table(["data", "draws", titles[REFERENCE], *others.values()], rows)


def draws_cell(told: dict[str, Any]) -> str:
    """Expected draws of each datum."""
    return number(told["draws"], 1) + _baseline(told)


def bias_cell(by_seed: dict[int, Any]) -> str:
    """The bias of what was trained on, where all runs have one."""
    bias = mean(figures(by_seed, "bias"))
    return str(bias) if np.isfinite(bias.value) else "–"


def _baseline(told: dict[str, Any]) -> str:
    """The draws that an arm makes besides."""
    return f" + {told['baseline_draws']}" if told["baseline_draws"] else ""


def gradient_table(results: dict[str, Any], name: str) -> str:
    """Norms of the gradients of model and guide, and how often they were clipped."""
    rows = []
    for _, draws, runs in (group for group in groups(results) if group[0] == name):
        arms = results["configuration"]["plans"][name]["arms"][str(draws)]
        for arm, by_seed in runs.items():
            rows.append([arms[arm]["title"], str(draws), *gradient_cells(by_seed)])
    return markdown_table(["loss", "draws", *GRADIENT_HEADER], rows)


GRADIENT_HEADER = [
    f"{part}'s {figure}" for part in ("model", "guide") for figure in ("norm", "99.9 %", "clipped")
]


def gradient_cells(by_seed: dict[int, Any]) -> list[str]:
    """Median norm, 99.9 % quantile, and clipped steps, of the model and then of the guide."""
    cells = []
    for part in ("model", "guide"):
        norms = [run["gradient_norms"][part] for run in by_seed.values()]
        of = lambda figure, norms=norms: mean([each[figure] for each in norms]).value
        cells += [number(of("median"), 1), number(of("99.9 %"), 1), f"{100 * of('clipped'):.1f} %"]
    return cells


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
standard error over seeds; the split of the data, what is made of the test points, and the keys of
the judge's draws are the same for all. What it takes to train on wild estimates is
[measured apart](../density_variants/report.md).

- *NLL by the bound* is the negative of IWELBO on test points, of as many draws of each as the
  section says; *unbiased*, that of two estimates by MultilevelSUMO, from draws of their own, *its
  error* the Monte Carlo error of a single run, which the ± does not have.
- *Beyond IWELBO's* are these less IWELBO's at the same expected draws, seed by seed: below zero is
  better, and bold is more than two standard errors, where chance alone goes in {chance(results)} of
  cells. A training *ran away* if it ended worse than it began, or without finite parameters; – is
  what was not run, or does not exist.
- *Draws* are those of each datum in expectation, and those of a baseline besides. What was trained
  on is unbiased for the *bound over* so many draws: a single one for the ELBO, which is an average
  over its draws; the tails of the others end there. *Objective − log p* is the bias of that bound
  on test points at the end.
- *k-hat* is the 90 % quantile of the Pareto shape of the weights over test points: beyond 0.7
  errors are larger than they are said to be.
- *s* is the time in training steps, compilation apart, with {_side_by_side(results)} trainings side
  by side. The ELBO's guide has the standard gradient; the others', by a bound, the doubly
  reparameterised one.

{_agreement(results)}

## In short

Unbiased estimates of the negative log-likelihood: IWELBO's, and what the others are beyond it at as
many expected draws (and those of a baseline, where there is a +).

{summary_table(results)}

{chr(10).join(sections)}"""


def _section(name: str, plan: dict[str, Any], tables: str, gradients: str) -> str:
    pictures = (
        "![Validation along the training](training.png)\n\n"
        "![Test images, their reconstructions, and draws from the prior](images.png)\n\n"
        f"Images: seed 0, {next(iter(plan['arms']))} draws.\n\n"
        if name == "digits"
        else f"![The learned density of {name}](plane_{name}.png)\n\n"
        f"Seed 0, {next(iter(plan['arms']))} draws; density by latents drawn from the prior.\n\n"
    )
    return f"""## {name.capitalize()}

{plan["network"][0]} latents, two hidden layers of {plan["network"][1]} in model and guide;
{plan["epochs"]} times {-(-plan["sizes"][0] // plan["batch_size"])} steps, each on
{plan["batch_size"]} of {plan["sizes"][0]} points drawn anew; Adam at {plan["learning_rate"]} with
cosine decay; judged by {plan["judged_draws"]} draws of each of {plan["sizes"][2]} test points, and
by MultilevelSUMO({plan["judged_particles"]}).

{pictures}{tables}

### Gradients

Median and 99.9 % quantile over steps, and how many steps were clipped, at {_limits(plan)}, or had
no finite norm: model and guide apart.

{gradients}
"""


def _limits(plan: dict[str, Any]) -> str:
    """The norms at which gradients were clipped."""
    limits = {arm["max_gradient_norm"] for arms in plan["arms"].values() for arm in arms.values()}
    return " or ".join(f"{limit:g}" for limit in sorted(limits))


def _side_by_side(results: dict[str, Any]) -> str:
    """How many trainings there were at a time."""
    return " or ".join(map(str, sorted({run["workers"] for run in results["runs"].values()})))


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
