"""Posterior means of chains that propose from a guide, in the report."""

from typing import Any

import numpy as np

from benchmarks.common.tables import bold, markdown_table, number
from benchmarks.guides.models import models
from benchmarks.guides.report_chains import LARGEST_R_HAT
from benchmarks.guides.studies import NUM_CHAINS

#: A mean is right if it is off by at most so many of its Monte Carlo standard errors.
MOST_MCSE = 4.0

Cell = dict[str, Any]


def means_section(cells_by_model: dict[str, dict[str, Cell]]) -> str:
    """The section in Markdown; empty for results without this part."""
    cells = [(model, *each) for model, of in cells_by_model.items() for each in of.items()]
    if not cells:
        return ""
    size = cells[0][2]["size"]
    refused = [f"{kind} on {model}" for model, kind, cell in cells if "refused" in cell]
    cells = [each for each in cells if "refused" not in each[2]]
    rows = [_row(*each) for each in cells]
    header = ["model", "guide", "accepted", "R-hat", "ESS", f"means within {MOST_MCSE:g} MCSE"]
    header += ["largest error, MCSE"]
    return f"""
## Are means of chains that propose from a guide the exact ones?

`IndependenceMetropolis` proposes from each trained guide: {NUM_CHAINS} chains of
{size["num_draws"]:,} draws after {size["num_warmup"]:,} of warm-up, with one key. Posterior means
are compared with the exact ones in Monte Carlo standard errors (MCSE) of ArviZ. *Accepted* is the
share of proposals. R-hat is the largest and ESS, of the bulk, the smallest of all numbers. The
chains are exact for any guide, but those of a poor one stand still for long, and then ESS and MCSE
are not to be trusted: R-hat, bold above {LARGEST_R_HAT}, says so.

{_verdict([cell for *_, cell in cells])}

{markdown_table(header, rows)}
{_refusals(refused)}"""


def _refusals(guides: list[str]) -> str:
    if not guides:
        return ""
    return f"\nRefused, as a Laplace approximation that is at no mode: {', '.join(guides)}.\n"


def within(cells: list[Cell]) -> tuple[int, int]:
    """The number of means that are right, and that of all; one without an MCSE is not."""
    zs = [z for cell in cells for z in cell["z"]]
    return sum(z is not None and abs(z) <= MOST_MCSE for z in zs), len(zs)


def has_converged(cell: Cell) -> bool:
    """Whether R-hat trusts the chains."""
    return cell["r_hat"] is not None and cell["r_hat"] <= LARGEST_R_HAT


def _verdict(cells: list[Cell]) -> str:
    converged = [cell for cell in cells if has_converged(cell)]
    (right, count), (of_converged, others) = within(cells), within(converged)
    return (
        f"**{right} of {count} means of all {len(cells)} guides lie within {MOST_MCSE:g} MCSE of "
        f"the exact ones; of the {len(converged)} guides whose chains have an R-hat of at most "
        f"{LARGEST_R_HAT}, {of_converged} of {others}.**"
    )


def _row(model: str, kind: str, cell: Cell) -> list[str]:
    right, count = within([cell])
    zs = [np.inf if z is None else abs(z) for z in cell["z"]]
    return [
        models()[model].title,
        kind,
        f"{cell['accept_prob']:.0%}",
        bold(number(cell["r_hat"], 3), not has_converged(cell)),
        number(cell["ess"], 0),
        bold(f"{right} of {count}", right < count),
        number(max(zs), 1),
    ]
