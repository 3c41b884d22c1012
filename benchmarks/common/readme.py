"""Puts the tables of the benchmarks' latest results into the README, between its markers.

Run ``python -m benchmarks.readme`` after a benchmark; a test holds the README against its JSON.
"""

import json
from pathlib import Path

from benchmarks.density.report import chance, summary_table
from benchmarks.funnel.report import distance_table
from benchmarks.posterior.reference import R_HAT_BAR
from benchmarks.posterior.report import MEAN_BAR
from benchmarks.posterior.report import summary_table as posterior_table
from numpyro_sumo.diagnostics.certificate import LARGEST_PARETO_K

ROOT = Path(__file__).parents[2]
FUNNEL = Path("benchmarks/results/funnel")
DENSITY = Path("benchmarks/results/density")
POSTERIOR = Path("benchmarks/results/posterior")


def funnel_section() -> str:
    """Picture and table of the funnel benchmark."""
    results = json.loads((ROOT / FUNNEL / "funnel.json").read_text())
    draws = {name: verdict["draws"] for name, verdict in results["samplers"].items()}
    return (
        f"![A learned sampler along its training]({FUNNEL}/contours_sumo.png)\n\n"
        f"{distance_table(results)}\n\n"
        f"Reverse KL from one start, {results['steps']} steps, seed {results['seed']}; "
        f"{draws['sumo']} draws of each learned sampler, {draws['nuts_centred']} of NUTS.\n"
        "The KL divergence lies between the two figures; KS is the Kolmogorov–Smirnov distance to\n"
        "the exact law; a sampler that ran away has parameters that are no longer finite."
    )


def density_section() -> str:
    """Picture and table of the density benchmark."""
    results = json.loads((ROOT / DENSITY / "density.json").read_text())
    seeds = {run["seed"] for run in results["runs"].values()}
    return (
        f"![Densities learned from five draws a point]({DENSITY}/plane_pinwheel.png)\n\n"
        f"{summary_table(results)}\n\n"
        f"Test negative log-likelihood in nats per point over {len(seeds)} seeds, by an unbiased\n"
        "estimate ± the standard error: IWELBO's, and what the others are beyond it at the same\n"
        "expected draws (and a baseline of 32 where it says so), seed by seed. Below zero is\n"
        "better; bold is more than two standard errors, where chance alone goes in\n"
        f"{chance(results)} of cells."
    )


def posterior_section() -> str:
    """Picture and table of the posterior benchmark."""
    results = json.loads((ROOT / POSTERIOR / "posterior.json").read_text())
    scale = results["configuration"]["scale"]
    return (
        f"![Eight schools, centred]({POSTERIOR}/pairs_eight_schools.png)\n\n"
        f"{posterior_table(results)}\n\n"
        f"Models as a person would write them, seed {results['configuration']['seed']}: four\n"
        f"chains of {scale['metropolis']} draws of Metropolis, and of {scale['nuts']} of NUTS\n"
        f"after {scale['warmup']} of warm-up. KL is the upper end, by the exact log-evidence\n"
        "where that is known, else by the certificate's, which may be too low, and KL larger,\n"
        "behind a >. R-hat is that of the worst coordinate, as is the error of the mean, in sds\n"
        "of a reference: exact draws, or long chains in other coordinates. † Metropolis takes\n"
        "turns with NUTS there. ESS per second leaves training and warm-up\n"
        f"out. Bold is beyond {R_HAT_BAR}, {MEAN_BAR} sd, and a k-hat of {LARGEST_PARETO_K}."
    )


SECTIONS = {
    "funnel": funnel_section,
    "posterior": posterior_section,
    "density": density_section,
}


def spliced(readme: str, name: str, section: str) -> str:
    """The README with what stands between the markers of ``name`` replaced."""
    begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
    before, rest = readme.split(begin)
    return f"{before}{begin}\n{section}\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Rewrites the README in place."""
    file = ROOT / "README.md"
    readme = file.read_text()
    for name, section in SECTIONS.items():
        readme = spliced(readme, name, section())
    file.write_text(readme)


if __name__ == "__main__":
    main()
