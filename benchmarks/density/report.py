"""Report of the density benchmark: every figure comes from its JSON."""

from typing import Any

import numpy as np

from benchmarks.common.tables import markdown_table, number
from benchmarks.density.tables import (
    REFERENCE,
    bias_cell,
    chance,
    difference_cell,
    diverged_cell,
    draws_cell,
    figures,
    gradient_cells,
    gradient_header,
    groups,
    has_diverged,
    mean,
    paired_difference,
)

Results = dict[str, Any]


def report(results: Results) -> str:
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
    return f"""# Latent-variable models trained on log p(x) and on bounds

Training and judging {len(results["runs"])} models took {results["seconds"] / 60:.0f} minutes. All
figures are in nats per point, for parameters averaged over the last half of the training steps,
± the standard error over seeds. The split of the data, the binarised test images, and the keys of
the test estimates are the same for all runs. What training on noisy estimates needs with a clipped
Adam is [measured separately](../density_variants/report.md).

- *NLL by the bound* is the negative of IWELBO on test points, with as many draws of each as the
  section says; *NLL, unbiased* is that of two estimates by MultilevelSUMO from independent draws.
  *Its error* is the Monte Carlo error of a single run, which the ± does not include.
- *Beyond IWELBO's* are differences from IWELBO at the same expected draws, seed by seed: below zero
  is better, and bold is more than two standard errors, which chance alone exceeds in
  {chance(results)} of cells. A training *diverged* if its model ended worse than it started, or
  with parameters that are not finite; – is what was not run, or does not exist.
- *Draws* are the expected draws of each datum. The training objective is unbiased for the *bound
  over* so many draws: one for the ELBO, which averages single draws, and the end of the tail where
  it is cut; where it is not, for log p(x). *Objective − log p* is the bias of that bound on test
  points after training.
- *k-hat* is the 90 % quantile over test points of the Pareto shape of the weights: beyond 0.7,
  standard errors are too small.
- *s* is the time in training steps without compilation, beside other work. Trainings in parallel:
  {_in_parallel(results)}. The ELBO's guide has the standard gradient; guides trained on other
  bounds have the doubly reparameterised one.

{_agreement(results)}

## Summary

Unbiased estimates of the negative log-likelihood: IWELBO's, and the differences of the others from
it, at about the same expected draws.

{summary_table(results)}

{chr(10).join(sections)}"""


def likelihood_table(results: Results, name: str, draws: int) -> str:
    """Test negative log-likelihood by arm."""
    runs = next(group[2] for group in groups(results) if group[:2] == (name, draws))
    rows = []
    for arm, by_seed in runs.items():
        of = lambda figure, by_seed=by_seed: mean(figures(by_seed, figure))
        config = results["configuration"]["plans"][name]["arms"][str(draws)][arm]
        rows.append(
            [
                config["title"],
                draws_cell(config),
                "log p" if config["longest"] is None else str(config["longest"]),
                str(len(by_seed)),
                diverged_cell(by_seed) or str(of("nll_bound")),
                diverged_cell(by_seed) or str(of("nll")),
                number(of("nll_se").value),
                difference_cell(paired_difference(runs, arm, "nll_bound")),
                difference_cell(paired_difference(runs, arm, "nll")),
                bias_cell(by_seed),
                number(of("pareto_k").value, 2),
                number(of("seconds").value, 1),
            ]
        )
    header = ["loss", "draws", "bound over", "seeds", "NLL by the bound", "NLL, unbiased"]
    header += ["its error", "beyond IWELBO's, bound", "beyond IWELBO's, unbiased"]
    return markdown_table([*header, "objective − log p", "k-hat", "s"], rows)


def summary_table(results: Results) -> str:
    """IWELBO's unbiased negative log-likelihood, and the differences of the other losses."""
    titles = {
        arm: config["title"]
        for plan in results["configuration"]["plans"].values()
        for by_name in plan["arms"].values()
        for arm, config in by_name.items()
    }
    others = {arm: title for arm, title in titles.items() if arm != REFERENCE}
    rows = []
    for name, draws, runs in groups(results):
        reference = str(mean(figures(runs[REFERENCE], "nll"))) if REFERENCE in runs else "–"
        cells = [
            diverged_cell(runs.get(arm, {})) or difference_cell(paired_difference(runs, arm, "nll"))
            for arm in others
        ]
        rows.append([name, str(draws), reference, *cells])
    return markdown_table(["data", "draws", titles[REFERENCE], *others.values()], rows)


def gradient_table(results: Results, name: str) -> str:
    """Norms of the gradients of model and guide."""
    rows = []
    for _, draws, runs in (group for group in groups(results) if group[0] == name):
        arms = results["configuration"]["plans"][name]["arms"][str(draws)]
        for arm, by_seed in runs.items():
            rows.append([arms[arm]["title"], str(draws), *gradient_cells(by_seed, False)])
    return markdown_table(["loss", "draws", *gradient_header(False)], rows)


def _section(name: str, plan: Results, tables: str, gradients: str) -> str:
    first = next(iter(plan["arms"]))
    pictures = (
        "![Validation during training](training.png)\n\n"
        "![Test images, their reconstructions, and draws from the prior](images.png)\n\n"
        f"Images: seed 0, {first} draws.\n\n"
        if name == "digits"
        else f"![The learned density of {name}](plane_{name}.png)\n\n"
        f"Seed 0, {first} draws; density by latents drawn from the prior.\n\n"
    )
    return f"""## {name.capitalize()}

{plan["network"][0]} latents, two hidden layers of {plan["network"][1]} units in model and guide;
{plan["epochs"]} epochs of {-(-plan["sizes"][0] // plan["batch_size"])} steps, each on
{plan["batch_size"]} of {plan["sizes"][0]} points at random; `averaged_adam` from a learning rate
of {plan["learning_rate"]} down to a tenth; judged by {plan["judged_draws"]} draws of each of
{plan["sizes"][2]} test points, and by MultilevelSUMO({plan["judged_particles"]}).

{pictures}{tables}

### Gradients

Median and 99.9 % quantile of the norm over steps, model and guide separately. Nothing is clipped.

{gradients}
"""


def _in_parallel(results: Results) -> str:
    """The number of trainings in parallel."""
    return " or ".join(map(str, sorted({run["workers"] for run in results["runs"].values()})))


def _agreement(results: Results) -> str:
    """A sentence on the difference between the unbiased estimates and the bound."""
    runs = [run for run in results["runs"].values() if not has_diverged(run)]
    if not runs:
        return ""
    differences = [
        (run["nll_bound"] - run["nll"]) / np.hypot(run["nll_se"], run["nll_bound_se"])
        for run in runs
    ]
    mean_difference, least, most = (
        number(float(of(differences)), 2) for of in (np.mean, np.min, np.max)
    )
    return (
        f"The unbiased estimate of log p(x) lies {mean_difference} standard errors of the "
        f"difference above the bound, on average over runs, and between {least} and {most}."
    )
