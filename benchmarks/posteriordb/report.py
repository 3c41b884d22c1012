"""Report of the posteriordb benchmark: every figure comes from its JSON."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.common.tables import bold, count, markdown_table, number
from benchmarks.posteriordb.errors import LIMITS, is_right, largest_share
from numpyro_sumo.certificates.error_bounds import LARGEST_FINITE_VARIANCE_K

#: Rows by their name in results: the sampler that makes them, and their title.
ROWS = {
    "fit": ("fit", "fit"),
    "fit_guide": ("fit", "guide of fit, raw"),
    "nuts": ("nuts", "NUTS"),
    "multivariate_normal": ("multivariate_normal", "AutoMultivariateNormal"),
    "bnaf": ("bnaf", "AutoBNAFNormal"),
    "pathfinder": ("pathfinder", "Pathfinder"),
}

Row = dict[str, Any]
Rows = Iterator[tuple[str, Row | None, dict[str, Any]]]


def rows_of(results: dict[str, Any], name: str) -> Rows:
    """Posterior, row and cell, one after the other; the row is None where the sampler failed."""
    sampler = ROWS[name][0]
    for posterior, cells in results["cells"].items():
        if sampler in cells:
            yield posterior, cells[sampler].get("rows", {}).get(name), cells[sampler]


def titles_of(results: dict[str, Any]) -> dict[str, str]:
    """Titles by row, of the samplers that were run."""
    return {name: title for name, (_, title) in ROWS.items() if any(rows_of(results, name))}


def log_evidence_of(cells: dict[str, Any]) -> float | None:
    """The best log-evidence of a posterior: the first, fit's if known, whose k-hat is small."""
    for name, (sampler, _) in ROWS.items():
        row = cells.get(sampler, {}).get("rows", {}).get(name, {})
        if row.get("is_known", False):
            return row["log_evidence"]
    return None


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    of = results["configuration"]
    titles = titles_of(results)
    sections = "\n".join(
        f"## {_heading(title)}\n\n{_table(results, name)}\n{_notes(results, name)}"
        for name, title in titles.items()
    )
    limits = LIMITS["mean"], LIMITS["sd"], LIMITS["ks"]
    return f"""# Do samplers get posteriors right that nobody tuned them for?

{len(results["cells"])} posteriors of posteriordb (github.com/stan-dev/posteriordb) were
translated from Stan to NumPyro, and are compared with its reference draws. Nothing is tuned; seed
{of["seed"]}; the run took {results["seconds"] / 60.0:.0f} minutes.

{_summary(results, titles)}

{_verdicts(results)}

Draws are *right* if, over all parameters, no mean is off by more than {limits[0]:g} reference sds,
no sd by more than {100.0 * limits[1]:g} %, and no Kolmogorov–Smirnov distance is above {limits[2]}.
Monte Carlo errors of the draws and of the reference count as errors. The figures of a sampler are
medians over posteriors where it did not fail; *s* is wall clock with compilation.

![The largest error of each sampler as a share of its limit](errors.png)

{_descriptions(of, titles)}

## Largest error as a share of its limit

Bold is above 1: not right.

{_overview(results, titles)}

*Mean* and *tails* (quantiles at 0.025 and 0.975) are errors in reference sds, *sd* is the relative
error, *KS* the Kolmogorov–Smirnov distance: each the worst over all parameters. *Of* is the
parameter whose mean is worst. *KL* is log Z minus the ELBO, in nats; log Z is that of fit's guide
if its k-hat is at most {LARGEST_FINITE_VARIANCE_K}, else of the first guide with such a k-hat.
Bold is beyond its limit.

{sections}"""


def _descriptions(of: dict[str, Any], titles: dict[str, str]) -> str:
    """What each of the samplers in the results does."""
    size = of["size"]
    trained = (
        f"{size['num_steps']:,} steps of Adam on the ELBO of 16 particles, with a cosine decay "
        "from 0.01, raw draws"
    )
    texts = {
        "fit": f"`numpyro_sumo.fit` with its default options and {of['minutes']} minutes",
        "fit_guide": "the draws of its guide as they are",
        "nuts": f"{size['num_draws']:,} draws of each of four chains after "
        f"{size['num_warmup']:,} of warm-up, with NumPyro's defaults",
        "multivariate_normal": trained,
        "bnaf": trained,
        "pathfinder": f"of BlackJAX, {size['num_paths']} paths, with Pareto-smoothed importance "
        "resampling",
    }
    return "\n".join(f"- *{title}*: {texts[name]}." for name, title in titles.items())


def _heading(title: str) -> str:
    return title[0].upper() + title[1:]


def _median(values: list[float | None]) -> float | None:
    known = [np.inf if value is None else abs(value) for value in values]
    return float(np.median(known)) if known else None


def _summary(results: dict[str, Any], titles: dict[str, str]) -> str:
    """How often each sampler is right, and what it takes."""
    rows = []
    for name, title in titles.items():
        found = list(rows_of(results, name))
        done = [row for _, row, _ in found if row is not None]
        seconds = [cell["seconds"] for _, row, cell in found if row is not None]
        median = lambda kind, done=done: _median([row[kind]["value"] for row in done])
        rows.append(
            [
                title,
                f"{sum(map(is_right, done))} of {len(found)}",
                str(len(found) - len(done)),
                *(number(median(kind)) for kind in LIMITS),
                number(_median(seconds), 1),
            ]
        )
    return markdown_table(["sampler", "right", "failed", "mean", "sd", "KS", "s"], rows)


def _verdicts(results: dict[str, Any]) -> str:
    """How often the verdict of fit is true."""
    done = [row for _, row, _ in rows_of(results, "fit") if row is not None]
    if not done:
        return ""
    each = [(row["verdict"] == "good", is_right(row)) for row in done]
    words = {True: '"good"', False: '"bad"'}
    rows = [
        [words[good], *(str(each.count((good, right))) for right in (True, False))]
        for good in (True, False)
    ]
    return markdown_table(["verdict of fit", "right", "not right"], rows)


def _share(row: Row | None) -> str:
    if row is None:
        return "failed"
    share = largest_share(row)
    return bold(number(share, 2) if np.isfinite(share) else "∞", share > 1.0)


def _overview(results: dict[str, Any], titles: dict[str, str]) -> str:
    """A row for each posterior, a column for each sampler."""
    columns = {name: {p: _share(row) for p, row, _ in rows_of(results, name)} for name in titles}
    rows = [
        [posterior, *(columns[name].get(posterior, "–") for name in titles)]
        for posterior in results["cells"]
    ]
    return markdown_table(["posterior", *titles.values()], rows)


def _table(results: dict[str, Any], name: str) -> str:
    """All figures of one sampler."""
    extra = {"fit": ["verdict", "made by"], "nuts": ["divergences"]}.get(name, ["KL", "k-hat"])
    chains = ["R-hat", "ESS"] if name in ("fit", "nuts") else []
    header = ["posterior", "mean", "of", "sd", "KS", "tails", *chains, *extra, "s"]
    return markdown_table(
        header,
        [
            [posterior, *_figures(row, name, log_evidence_of(results["cells"][posterior]))]
            + [number(cell["seconds"], 1)]
            if row is not None
            else [posterior, "failed", *["–"] * (len(header) - 2)]
            for posterior, row, cell in rows_of(results, name)
        ],
    )


def _figures(row: Row, name: str, log_evidence: float | None) -> list[str]:
    """The cells of a table but for posterior and seconds."""
    off = lambda kind: row[kind]["value"] is None or abs(row[kind]["value"]) > LIMITS[kind]
    errors = {kind: bold(number(row[kind]["value"]), off(kind)) for kind in LIMITS}
    found = [errors["mean"], row["mean"]["of"], errors["sd"], errors["ks"]]
    found.append(number(row["tails"]["value"]))
    if name in ("fit", "nuts"):
        found += [number(row["r_hat"]), count(row["ess"])]
    if name == "fit":
        return [*found, row["verdict"].rstrip(":"), row["kernel"]]
    if name == "nuts":
        return [*found, str(row["divergences"])]
    elbo = row.get("elbo")
    kl = None if log_evidence is None or elbo is None else log_evidence - elbo
    return [*found, number(kl), number(row.get("pareto_k"), 2)]


def _notes(results: dict[str, Any], name: str) -> str:
    """Errors that were raised, and problems that fit names."""
    lines = []
    for posterior, row, cell in rows_of(results, name):
        if row is None:
            lines.append(f"{posterior} failed: {cell['failed']}")
        elif "not_certified" in row:
            lines.append(f"{posterior} has no KL: {row['not_certified']}")
        lines += [f"{posterior}: {line}" for line in (row or {}).get("problems", [])]
    return "".join(f"\n- {line}" for line in lines) + ("\n" if lines else "")
