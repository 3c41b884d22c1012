"""Report of the guides benchmark: every figure comes from its JSON."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.common.tables import bold, markdown_table, number
from benchmarks.guides.models import models
from benchmarks.guides.report_chains import chains_sections
from benchmarks.guides.report_means import means_section
from benchmarks.guides.simple import simple_targets
from benchmarks.guides.spoilt import TITLES
from numpyro_sumo.certificates.error_bounds import LARGEST_FINITE_VARIANCE_K
from numpyro_sumo.certificates.verdict import (
    CORRECT,
    DISTRUST,
    GOOD,
    LARGEST_SD_ERROR,
    LARGEST_SHIFT,
)
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

#: An error of log-evidence beyond so many standard errors counts as one.
LIMIT = 4.0

#: Bands of k-hat in words, with their limits: below 0.5 the variance of the weights is finite.
K_HATS = {
    f"up to {LARGEST_FINITE_VARIANCE_K}": (-np.inf, LARGEST_FINITE_VARIANCE_K),
    f"{LARGEST_FINITE_VARIANCE_K} to {LARGEST_PARETO_K}": (
        LARGEST_FINITE_VARIANCE_K,
        LARGEST_PARETO_K,
    ),
    f"above {LARGEST_PARETO_K}": (LARGEST_PARETO_K, np.inf),
}

Cells = Iterator[tuple[str, str, dict[str, Any]]]


def cells_of(results: dict[str, Any], part: str) -> Cells:
    """Model, guide and cell, one after the other."""
    for model, cells in results[part].items():
        for name, cell in cells.items():
            yield model, name, cell


def is_off(cell: dict[str, Any]) -> bool:
    """Whether a true mean or sd is off by more than a good guide's, beyond Monte Carlo error."""
    return (
        cell["mean_off"] > LARGEST_SHIFT + LIMIT * cell["mean_off_error"]
        or cell["sd_off"] > LARGEST_SD_ERROR + LIMIT * cell["sd_off_error"]
    )


def false_good(cell: dict[str, Any]) -> int:
    """The number of certificates that call a guide good which is not."""
    return cell["verdict"].count(GOOD) if "refused" not in cell and is_off(cell) else 0


def false_correct(cell: dict[str, Any]) -> int:
    """The number of certificates whose weights are to correct a guide, and do not.

    A corrected mean or sd is then off by more than that of a good guide, and than Monte Carlo error
    of as many draws as the weights are worth.
    """
    if "refused" in cell:
        return 0
    each = zip(cell["verdict"], cell["corrected_off"], cell["ess"])
    return sum(v == CORRECT and off > LARGEST_SHIFT + LIMIT * ess**-0.5 for v, off, ess in each)


def needless_distrust(cell: dict[str, Any]) -> int:
    """The number of certificates that distrust a guide whose means and sds are right."""
    return 0 if is_off(cell) else cell["verdict"].count(DISTRUST)


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    of = results["configuration"]
    of_means = means_section(results.get("chain_means", {}))
    sections = "\n\n".join(
        f"## {_heading(models()[model].title)}\n\n{_evidence_table(cells)}\n{_refusals(cells)}"
        for model, cells in results["evidence"].items()
    )
    return f"""# Is what certify says of a guide true?

Six models have exact log-evidence and posterior moments. Guides of eight kinds start near the
posterior, are trained briefly, and are certified from {of["num_samples"]:,} draws with
{of["seeds"]["evidence"]} keys each. Guides spoilt on purpose are certified with
{of["seeds"]["comfort"]} keys. Seed {of["seed"]}; the run took {results["seconds"]:.0f} s.

{_summary(results)}

![Error of log-evidence against k-hat](evidence.png)

*z* is the error of log-evidence in its standard errors, the largest of all keys; beside it is the
share of keys within {LIMIT:g}, separately for keys whose k-hat is at most {LARGEST_PARETO_K} and
for the others, whose log-evidence the certificate does not trust. Keys whose standard error is ∞ (a
k-hat so large that the weights may have no mean) are left out of *z*. *Mean off* and *sd off* are
the largest true errors of the guide, in posterior sds and as a share of the sd, from all draws
pooled. *False good* counts the certificates that say "{GOOD}" of a guide of which a true mean is
off by more than {LARGEST_SHIFT} posterior sds, or a true sd by more than {LARGEST_SD_ERROR:.0%};
*false correct* those that say "{CORRECT}" where the means or sds by the weights are off by more
than that, and than four standard errors of as many draws as the weights are worth.
*KL* is that of the guide from the posterior, by the certificate, in nats. *Bounds held* is the
share of numbers and keys whose true errors of mean and sd lie within the certificate's bounds;
*vacuous* is the share of numbers whose bound says nothing. Seconds are those of the first
certificate, with compilation.

{sections}

## Guides spoilt on purpose

The guide is a Normal in unconstrained space with the posterior's own mean and covariance, but for
one thing that is spoilt. *Correlation off* is the largest true error of a correlation, which the
verdict sees through the KL only. Weights cannot show a lost mode: the guide never draws it.

{_comfort_table(results)}
{chains_sections(results)}{of_means}"""


def _heading(title: str) -> str:
    return title[0].upper() + title[1:]


def _summary(results: dict[str, Any]) -> str:
    """The figures that matter, over all cells."""
    parts = {part: _certified(results, part) for part in ("evidence", "comfort")}
    cells = [cell for part in parts.values() for _, cell in part]
    seeing = [cell for part in parts.values() for name, cell in part if name != "lost_mode"]
    rows = [
        [f"log-evidence within {LIMIT:g} standard errors, k-hat {words}", _within(seeing, *between)]
        for words, between in K_HATS.items()
    ]
    differences = [difference for cell in cells if (difference := _difference(cell)) is not None]
    trained, spoilt = (
        [(false_good(cell), len(cell["z"])) for name, cell in part if name != "lost_mode"]
        for part in parts.values()
    )
    lost = [cell for name, cell in parts["comfort"] if name == "lost_mode"]
    keys = sum(len(cell["z"]) for cell in lost)
    uncorrected = [(false_correct(cell), len(cell["z"])) for cell in cells]
    needless = [(needless_distrust(cell), len(cell["z"])) for cell in cells]
    unknown = [not is_finite(error) for cell in seeing for error in cell["log_evidence_se"]]
    rows += [
        ["the standard error of log-evidence is ∞", f"{sum(unknown)} of {len(unknown)}"],
        ["largest difference of k-hat from NumPyro's", number(max(differences, default=None), 4)],
        [
            "smallest share of bounds that hold for any guide, without lost modes",
            number(min((cell["bounds_held"] for cell in seeing), default=None)),
        ],
        ['false "good" of trained guides', _of(trained)],
        ['false "good" of spoilt guides, without lost modes', _of(spoilt)],
        [f'false "{CORRECT}": means or sds by the weights are off', _of(uncorrected)],
        [f'"{DISTRUST}" of guides whose means and sds are right', _of(needless)],
        [
            f'"{GOOD}" with a lost mode, which weights cannot see',
            f"{sum(map(false_good, lost))} of {keys}",
        ],
    ]
    return markdown_table(["over all certificates", ""], rows)


def _certified(results: dict[str, Any], part: str) -> list[tuple[str, dict[str, Any]]]:
    """Guide and cell where certify did not refuse."""
    return [(name, cell) for _, name, cell in cells_of(results, part) if "refused" not in cell]


def _evidence_table(cells: dict[str, dict[str, Any]]) -> str:
    header = ["guide", "z, trusted", "z, not trusted", "k-hat", "KL"]
    header += [
        "verdict",
        "mean off",
        "sd off",
        "false good",
        "false correct",
        "bounds held",
        "vacuous",
        "s",
    ]
    rows = []
    for name, cell in cells.items():
        if "refused" in cell:
            rows.append([name, *["–"] * 4, "refused", *["–"] * 7])
            continue
        trusted = _zs(cell, -np.inf, LARGEST_PARETO_K)
        held = cell["bounds_held"]
        rows.append(
            [
                name,
                bold(_largest(trusted), any(abs(z) > LIMIT for z in trusted)),
                _largest(_zs(cell, LARGEST_PARETO_K, np.inf)),
                number(_median(cell["pareto_k"]), 2),
                number(_median(cell["kl"]), 3),
                _verdicts(cell),
                *(number(cell[key], 2) for key in ("mean_off", "sd_off")),
                *(bold(str(count), count > 0) for count in (false_good(cell), false_correct(cell))),
                bold(number(held, 3), held < 1.0),
                number(_median(cell["vacuous"]), 2),
                number(cell["seconds"][0], 1),
            ]
        )
    return markdown_table(header, rows)


def _comfort_table(results: dict[str, Any]) -> str:
    titles = {name: problem.title for name, problem in (models() | simple_targets()).items()}
    header = ["model", "spoilt", "verdict", "mean off", "sd off", "correlation off", "k-hat"]
    header += ["z, trusted", "ESS, share", "KL", "false good", "false correct"]
    rows = []
    for model, name, cell in cells_of(results, "comfort"):
        if "refused" in cell:
            rows.append([titles[model], TITLES[name], "refused", *["–"] * 9])
            continue
        trusted = _zs(cell, -np.inf, LARGEST_PARETO_K)
        rows.append(
            [
                titles[model],
                TITLES[name],
                _verdicts(cell),
                *(number(cell[key], 2) for key in ("mean_off", "sd_off", "correlation_off")),
                number(_median(cell["pareto_k"]), 2),
                bold(_largest(trusted), any(abs(z) > LIMIT for z in trusted)),
                number(_median(cell["ess"]) / cell["num_samples"], 2),
                number(_median(cell["kl"]), 3),
                *(bold(str(count), count > 0) for count in (false_good(cell), false_correct(cell))),
            ]
        )
    return markdown_table(header, rows)


def _refusals(cells: dict[str, dict[str, Any]]) -> str:
    """The errors by which guides are refused."""
    refused = {name: cell["refused"] for name, cell in cells.items() if "refused" in cell}
    return "".join(f"\n{name} is refused: {message}\n" for name, message in refused.items())


def _verdicts(cell: dict[str, Any]) -> str:
    counts = Counter(cell["verdict"]).most_common()
    if len(counts) == 1:
        return counts[0][0]
    return ", ".join(f"{verdict} {count}" for verdict, count in counts)


def _difference(cell: dict[str, Any]) -> float | None:
    """The largest difference between the two k-hats of the same weights."""
    pairs = zip(cell["pareto_k"], cell["pareto_k_numpyro"])
    return max(
        (
            abs(a - b)
            for a, b in pairs
            if a is not None and b is not None and np.isfinite([a, b]).all()
        ),
        default=None,
    )


def _median(values: list[float | None]) -> float:
    return float(np.median([-np.inf if value is None else value for value in values]))


def _largest(zs: list[float]) -> str:
    """The largest |z| and the share within the limit."""
    if not zs:
        return "–"
    return f"{number(max(map(abs, zs)), 1)} ({np.mean(np.abs(zs) <= LIMIT):.0%})"


def _zs(cell: dict[str, Any], above: float, limit: float) -> list[float]:
    """Errors of log-evidence where ± is finite, and k-hat above one limit and at most another."""
    k_hats = (-np.inf if k is None else k for k in cell["pareto_k"])
    each = zip(cell["z"], k_hats, cell["log_evidence_se"])
    return [z for z, k, error in each if is_finite(error) and above < max(k, -1e9) <= limit]


def is_finite(error: float | None) -> bool:
    """Whether a standard error of log-evidence, None for ∞ in results, is finite."""
    return error is not None and bool(np.isfinite(error))


def _within(cells: list[dict[str, Any]], above: float, limit: float) -> str:
    zs = [z for cell in cells for z in _zs(cell, above, limit)]
    return f"{sum(abs(z) <= LIMIT for z in zs)} of {len(zs)}"


def _of(counts: list[tuple[int, int]]) -> str:
    """The sums of two counts."""
    return " of ".join(str(sum(each)) for each in zip(*counts)) or "0 of 0"
