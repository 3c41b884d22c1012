"""Fill in the tables of README.md and docs/benchmarks.md from the benchmarks' results.

A block of a document stands between ``<!-- begin NAME -->`` and ``<!-- end NAME -->``. Run
``python -m benchmarks.common.documents`` after a benchmark; a test compares every block with the
committed JSON.
"""

from collections.abc import Callable
import json
from os.path import relpath
from pathlib import Path
import re
from typing import Any

from benchmarks.common.results import RESULTS
from benchmarks.density import report as density
from benchmarks.density.tables import chance
from benchmarks.funnel import report as funnel
from benchmarks.posterior.figures import MEAN_LIMIT
from benchmarks.posterior.reference import R_HAT_LIMIT
from benchmarks.posterior.tables import summary_table as posterior_table
from benchmarks.speed.report import price_table
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K

ROOT = RESULTS.parents[1]
_FUNNEL_PICTURE = (
    "Density of the guide during training, beside the funnel",
    "funnel/contours_sumo.png",
)
_BLOCK = re.compile(r"<!-- begin (?P<name>[\w-]+) -->\n.*?<!-- end (?P=name) -->", re.DOTALL)


def funnel_in_short(folder: Path) -> str:
    """One picture and a table of four columns on the funnel benchmark."""
    return f"{_picture(*_FUNNEL_PICTURE, folder)}\n\n{funnel.short_table(_results('funnel'))}"


def funnel_in_full(folder: Path) -> str:
    """Picture, table and notes on the funnel benchmark."""
    results = _results("funnel")
    draws = {name: sampler["draws"] for name, sampler in results["samplers"].items()}
    return (
        f"{_picture(*_FUNNEL_PICTURE, folder)}\n\n{funnel.distance_table(results)}\n\n"
        f"Reverse KL from one start, {results['steps']} steps, seed {results['seed']}; "
        f"{draws['sumo']} draws of each learned sampler, {draws['nuts_centred']} of NUTS.\n"
        "The KL divergence lies between the two figures; KS is the Kolmogorov–Smirnov distance to\n"
        "the exact distribution; the parameters of a sampler that diverged are not finite."
    )


def posterior_in_full(folder: Path) -> str:
    """Picture, table and notes on the posterior benchmark."""
    results = _results("posterior")
    scale = results["configuration"]["scale"]
    return (
        f"{_picture('Eight schools, centred', 'posterior/pairs_eight_schools.png', folder)}\n\n"
        f"{posterior_table(results)}\n\n"
        f"Models in their usual form, seed {results['configuration']['seed']}: four chains of\n"
        f"{scale['metropolis']} Metropolis draws, and of {scale['nuts']} NUTS draws after\n"
        f"{scale['warmup']} of warm-up. KL is an upper bound, by the exact log-evidence where it\n"
        "is known, else by the certificate's; a > marks a k-hat so large that the log-evidence\n"
        "may be too low, and KL larger. R-hat and the error of the mean are those of the worst\n"
        "coordinate; errors are in sds of a reference, exact draws or long chains of NUTS on a\n"
        "reparameterised model. † Metropolis alternates with NUTS. ESS per second excludes\n"
        f"training and warm-up. Bold is beyond {R_HAT_LIMIT}, {MEAN_LIMIT} sd, or a k-hat of "
        f"{LARGEST_PARETO_K}."
    )


def density_in_full(folder: Path) -> str:
    """Picture, table and notes on the density benchmark."""
    results = _results("density")
    seeds = {run["seed"] for run in results["runs"].values()}
    return (
        f"{_picture('Densities learned from 5 draws', 'density/plane_pinwheel.png', folder)}\n\n"
        f"{density.summary_table(results)}\n\n"
        f"Test negative log-likelihood in nats per point over {len(seeds)} seeds, by an unbiased\n"
        "estimate ± the standard error: IWELBO's, and the differences of the others from it at\n"
        "about the same expected draws, seed by seed. Below zero is better; bold is more than two\n"
        f"standard errors, which chance alone exceeds in {chance(results)} of cells."
    )


def price(folder: Path) -> str:
    """The cost of a training step and of its compilation."""
    return price_table(_results("speed"))


#: The blocks that each document may have.
DOCUMENTS: dict[str, dict[str, Callable[[Path], str]]] = {
    "README.md": {"funnel": funnel_in_short, "price": price},
    "docs/benchmarks.md": {
        "funnel": funnel_in_full,
        "posterior": posterior_in_full,
        "density": density_in_full,
        "price": price,
    },
}


def filled_in(document: str) -> str:
    """The text of a document with all its blocks filled in.

    :raises ValueError: if it has a block that is not among :data:`DOCUMENTS`.
    """
    blocks, file = DOCUMENTS[document], ROOT / document

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in blocks:
            raise ValueError(
                f"Expected blocks {', '.join(blocks)} in {document}; got '{name}'. "
                "Rename it, or add it to DOCUMENTS."
            )
        return f"<!-- begin {name} -->\n{blocks[name](file.parent)}\n<!-- end {name} -->"

    return _BLOCK.sub(block, file.read_text())


def existing() -> list[str]:
    """The documents of :data:`DOCUMENTS` that exist."""
    return [document for document in DOCUMENTS if (ROOT / document).exists()]


def _results(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name / f"{name}.json").read_text())


def _picture(title: str, file: str, folder: Path) -> str:
    """A Markdown picture of the results, for a document in ``folder``."""
    return f"![{title}]({relpath(RESULTS / file, folder)})"


def main() -> None:
    """Rewrite the documents in place."""
    for document in existing():
        (ROOT / document).write_text(filled_in(document))


if __name__ == "__main__":
    main()
