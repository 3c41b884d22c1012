"""Comparisons with NUTS in the report: leave-one-out cross-validation, and warm starts."""

import math
from typing import Any

import numpy as np

from benchmarks.common.tables import bold, markdown_table, number, with_error
from benchmarks.guides.cross_validation import BLOCKS_OF_A_CHAIN, LOO_PARTS
from benchmarks.guides.studies import NUM_CHAINS, loo_studies, start_studies
from benchmarks.guides.warm_starts import PLAIN, STAGES
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

#: Two estimates agree if they differ by at most so many combined Monte Carlo standard errors.
MOST_ERRORS = 2.0

#: A warm start pays if it takes at most this share of plain NUTS's seconds.
LARGEST_SHARE = 0.5

#: The effective sample size that both kinds of chains are timed to, and the R-hat they must reach.
ENOUGH_ESS, LARGEST_R_HAT = 400, 1.01

Cell = dict[str, Any]


def chains_sections(results: dict[str, Any]) -> str:
    """Both sections in Markdown; empty for results without these parts."""
    parts = _loo_section(results), _start_section(results.get("warm_start", {}))
    return "".join(f"\n{part}" for part in parts if part)


def errors_apart(cell: Cell) -> list[float]:
    """For each certificate: elpd minus that of NUTS, in combined Monte Carlo standard errors."""
    nuts = cell["nuts"]
    return [
        (elpd - nuts["elpd"]) / math.hypot(error, nuts["monte_carlo_se"])
        for elpd, error in zip(cell["elpd"], cell["monte_carlo_se"])
    ]


def seconds_to_ess(variant: Cell, compiled: bool) -> float | None:
    """Seconds until the smallest ESS is large enough; None for chains that have not converged.

    :param compiled: whether the seconds of compilation count.
    """
    if variant["r_hat"] is None or not variant["r_hat"] <= LARGEST_R_HAT:
        return None
    *before, drawing = (variant["seconds"].get(stage, 0.0) for stage in STAGES)
    of_compilation = sum(variant["compile_seconds"].values()) if compiled else 0.0
    return sum(before) + of_compilation + drawing * ENOUGH_ESS / variant["ess"]


def share_of_plain(cells: dict[str, Cell], kind: str, compiled: bool) -> float | None:
    """Seconds from a guide's start as a share of plain NUTS's, the median of all repeats.

    None where plain NUTS never converges. Infinity counts for repeats where the other never does.
    """
    shares = []
    for cell in cells.values():
        plain = seconds_to_ess(cell["variants"][PLAIN], compiled)
        warm = seconds_to_ess(cell["variants"][kind], compiled)
        if plain is not None:
            shares.append(math.inf if warm is None else warm / plain)
    return float(np.median(shares)) if shares else None


def _loo_section(results: dict[str, Any]) -> str:
    parts = {part: found for part in LOO_PARTS if (found := _loo_cells(results, part))}
    if not parts:
        return ""
    cells = next(iter(parts.values()))
    size = cells[0][2]["size"]
    return f"""## Is leave-one-out cross-validation of a guide that of NUTS?

PSIS-LOO, leave-one-out cross-validation by Pareto-smoothed importance sampling, estimates elpd:
the expected log predictive density of new data, in nats. Here `loo` of a certificate with
{size["num_samples"]:,} draws is compared with ArviZ's `loo` of NUTS: {NUM_CHAINS} chains of
{size["num_draws"]:,} draws after {size["num_warmup"]:,} of warm-up. Each row is one certificate of
the same trained guide with its own key. Behind ± is the Monte Carlo standard error: how much elpd
would differ with other draws. That of NUTS comes from the spread of
{NUM_CHAINS * BLOCKS_OF_A_CHAIN} blocks of its draws.

*Apart* is elpd by the guide minus that by NUTS, first in the Monte Carlo standard errors of both
combined, bold beyond {MOST_ERRORS:g}, then in the standard error of elpd over data: how much elpd
would differ with other data. Right estimates are more than {MOST_ERRORS:g} Monte Carlo errors apart
about once in twenty. *Largest of one datum* is the largest difference of a single datum, in nats.
`loo` warns of data whose k-hat is above {LARGEST_PARETO_K}.

{"".join(_loo_by_arviz(each) for each in parts.values()).strip()}
"""


def _loo_cells(results: dict[str, Any], part: str) -> list[tuple[str, str, Cell]]:
    """Model, kind of guide, and cell."""
    models = results.get(part, {}).items()
    return [(model, kind, cell) for model, kinds in models for kind, cell in kinds.items()]


def _loo_by_arviz(cells: list[tuple[str, str, Cell]]) -> str:
    """What one version of ArviZ found; results that do not name theirs are of 0.23."""
    versions = sorted({cell.get("arviz", "0.23") for *_, cell in cells})
    header = ["model", "guide", "elpd by the guide", "elpd by NUTS", "apart, Monte Carlo SE"]
    header += ["apart, SE of elpd", "largest of one datum", "largest k-hat", "that of NUTS"]
    header += [f"data with k-hat > {LARGEST_PARETO_K}"]
    table = markdown_table(header, [row for each in cells for row in _loo_rows(*each)])
    verdict = _loo_verdict([cell for *_, cell in cells])
    return f"By ArviZ {', '.join(versions)}: {verdict}\n\n{table}\n\n"


def _loo_rows(model: str, kind: str, cell: Cell) -> list[list[str]]:
    nuts, title = cell["nuts"], loo_studies()[model].title
    return [
        [
            title,
            kind,
            with_error(elpd, cell["monte_carlo_se"][i], 2),
            with_error(nuts["elpd"], nuts["monte_carlo_se"], 2),
            bold(number(apart, 1), abs(apart) > MOST_ERRORS),
            number((elpd - nuts["elpd"]) / nuts["elpd_se"], 3),
            number(cell["largest_pointwise"][i], 3),
            number(cell["largest_k"][i], 2),
            number(nuts["largest_k"], 2),
            f"{cell['large_k'][i]} of {cell['num_data']}",
        ]
        for i, (elpd, apart) in enumerate(zip(cell["elpd"], errors_apart(cell)))
    ]


def _loo_verdict(cells: list[Cell]) -> str:
    """How many certificates agree with NUTS, with and without a warning by ``loo``."""
    found = [
        (large > 0, abs(apart) <= MOST_ERRORS, abs(elpd / cell["nuts"]["elpd_se"]))
        for cell in cells
        for large, apart, elpd in zip(
            cell["large_k"], errors_apart(cell), np.array(cell["elpd"]) - cell["nuts"]["elpd"]
        )
    ]
    agreeing = {
        is_warned: [agrees for warned, agrees, _ in found if warned == is_warned]
        for is_warned in (False, True)
    }
    text = (
        f"**{sum(agreeing[False])} of {len(agreeing[False])} certificates without a warning lie "
        f"within {MOST_ERRORS:g} combined Monte Carlo standard errors of NUTS"
    )
    if agreeing[True]:
        text += f", and {sum(agreeing[True])} of {len(agreeing[True])} with one"
    largest = max(share for _, _, share in found)
    return f"{text}; the largest difference of all is {largest:.1%} of the SE of elpd.**"


def _start_section(models: dict[str, dict[str, Cell]]) -> str:
    if not models:
        return ""
    size = next(iter(next(iter(models.values())).values()))["size"]
    rows = [row for model, cells in models.items() for row in _start_rows(model, cells)]
    header = ["model", "start", "k-hat", *(f"{stage}, s" for stage in STAGES), "compile, s"]
    header += ["steps of a draw", "ESS", "R-hat", f"s to ESS {ENOUGH_ESS}", "with compiling"]
    header += ["share of NUTS", "with compiling"]
    verdicts = "\n".join(_start_verdict(model, cells) for model, cells in models.items())
    return f"""## Does a warm start of NUTS pay?

Plain NUTS has {NUM_CHAINS} chains with {size["num_warmup"]:,} draws of warm-up. `warm_start` gives
it starting points and a mass matrix from a trained guide's certificate of {size["num_samples"]:,}
draws; {size["num_short_warmup"]:,} draws of warm-up follow. Both then take {size["num_draws"]:,}
draws per chain of the same non-centred model. Compared are the seconds to a bulk ESS of
{ENOUGH_ESS} in every number: all seconds before the draws, *training of the guide included*, plus
{ENOUGH_ESS} / ESS of those of the draws. Chains with an R-hat above {LARGEST_R_HAT} never get
there. A warm start pays if it takes at most {LARGEST_SHARE:.0%} of the seconds of plain NUTS.

{verdicts}

Figures are medians of all repeats, which take the variants in turn; R-hat is the largest and ESS
the smallest of all numbers. *Compile* is what JAX spends before the first run of each program; one
program for warm-up and draws is counted. *Steps of a draw* are leapfrog steps, each a gradient.

{markdown_table(header, rows)}
"""


def _start_rows(model: str, cells: dict[str, Cell]) -> list[list[str]]:
    rows = []
    for variant in next(iter(cells.values()))["variants"]:
        each = [cell["variants"][variant] for cell in cells.values()]
        seconds = [[one["seconds"].get(stage) for one in each] for stage in STAGES]
        is_plain = variant == PLAIN
        shares = [None if is_plain else share_of_plain(cells, variant, c) for c in (False, True)]
        rows.append(
            [
                start_studies()[model].title,
                "plain NUTS" if is_plain else variant,
                number(_median([one.get("pareto_k") for one in each]), 2),
                *(number(_median(of_stage), 1) for of_stage in seconds),
                number(_median([sum(one["compile_seconds"].values()) for one in each]), 0),
                number(_median([one["steps_of_a_draw"] for one in each]), 0),
                number(_median([one["ess"] for one in each]), 0),
                number(max(one["r_hat"] or math.inf for one in each), 3),
                *(number(_median([seconds_to_ess(o, c) for o in each]), 1) for c in (False, True)),
                *(bold(number(s, 2), s is not None and s <= LARGEST_SHARE) for s in shares),
            ]
        )
    return rows


def _start_verdict(model: str, cells: dict[str, Cell]) -> str:
    """Which guide is the better start, and whether it pays."""
    kinds = [name for name in next(iter(cells.values()))["variants"] if name != PLAIN]
    shares = {kind: share_of_plain(cells, kind, False) for kind in kinds}
    title = start_studies()[model].title
    known = {kind: share for kind, share in shares.items() if share is not None}
    if not known:
        return f"- {title}: plain NUTS has an R-hat above {LARGEST_R_HAT}; there is no comparison."
    best = min(known, key=lambda kind: known[kind])
    with_compiling = share_of_plain(cells, best, True)
    return (
        f"- {title}: the better guide is {best}, whose start {_in_words(known[best])} without "
        f"compilation, and {_in_words(with_compiling)} with it."
    )


def _in_words(share: float | None) -> str:
    if share is None or share == math.inf:
        return f"**does not pay** (R-hat above {LARGEST_R_HAT})"
    of_plain = f"{share:.2f} of the seconds of plain NUTS"
    if share <= LARGEST_SHARE:
        return f"**pays** ({of_plain})"
    if share < 1.0:
        return f"**saves less than the bar asks** ({of_plain})"
    return f"**does not pay** ({of_plain})"


def _median(values: list[float | None]) -> float | None:
    """The median; None, which is infinite in results, counts as infinity."""
    return float(np.median([math.inf if value is None else value for value in values]))
