"""What the funnel benchmark writes: report, JSON, netCDF files and pictures."""

import math
from pathlib import Path
from typing import Any

from scipy.stats import norm

from benchmarks.common.results import write_json
from benchmarks.common.tables import markdown_table, number

Results = dict[str, Any]


def write_results(folder: Path, results: Results, data: dict[str, Any]) -> None:
    """Writes ``funnel.json`` and one netCDF file per sampler."""
    for name, draws in data.items():
        draws.to_netcdf(folder / f"{name}.nc")
    write_json(folder / "funnel.json", results)


def report(results: Results) -> str:
    """The report in Markdown, every figure from ``results``."""
    samplers = results["samplers"]
    arms = {name: verdict for name, verdict in samplers.items() if "kl" in verdict}
    interrupted = [verdict["title"] for verdict in arms.values() if verdict["interrupted"]]
    note = f"Interrupted while training: {', '.join(interrupted)}.\n" if interrupted else ""
    contours = "\n".join(
        f"### {verdict['title']}\n\n![Contours of {verdict['title']}](contours_{name}.png)\n"
        for name, verdict in arms.items()
    )
    return f"""# The funnel: a learned sampler beside NUTS

Target: v ~ N(0, {results["scale_of_v"]}), x ~ N(0, exp(v)), the second argument a standard
deviation. Each learned sampler was trained by reverse KL for {results["steps"]} steps of
{results["draws_per_step"]} draws of x, seed {results["seed"]}, all from the same start. The run
took {results["seconds"]:.0f} s.
{note}
## Distance to the truth

{distance_table(results)}

KL(q ‖ target) lies between the two figures (importance-weighted bounds from below and above, with
the standard error of the upper one); of a sampler that ran away, the parameters are no longer
finite. KS is the Kolmogorov–Smirnov distance to the exact law; the
last line shows what chance alone does to exact draws.

![Quantiles of v against the exact ones](quantiles.png)

![Centred NUTS beside a learned sampler](pairs.png)

## Training

{_training_table(arms)}

![Objective and KL along the training](training.png)

An objective below the KL divergence is bias being optimised: the sampler has found where the
bound is loose.

## ArviZ

{_summary_table(samplers)}

ESS and R-hat of independent draws are perfect by construction; they say how well the sampler's own
distribution is known, not whether it is the target.

## Contours along the training

Grey: the target. Coloured: the learned density, from an importance-weighted bound. Dots: draws.

{contours}"""


def distance_table(results: Results) -> str:
    """Distances of every sampler to the target, and what it took."""
    header = ["sampler", "KL between, nats", "KS of v", "KS of x·exp(−v)"]
    header += [
        "0.1 % of v",
        "1 % of v",
        "99 % of v",
        "divergences",
        "s to train or warm up",
        "s / 10⁴ draws",
    ]
    rows = [_exact_row(results["scale_of_v"])]
    for verdict in results["samplers"].values():
        ks, of_v = verdict["ks"], verdict["quantiles"]["v"]
        rows.append(
            [
                verdict["title"],
                _kl(verdict.get("kl")),
                *(number(ks[marginal], 4) for marginal in ("v", "x·exp(−v)")),
                *(number(of_v[p], 2) for p in ("0.001", "0.01", "0.99")),
                str(verdict.get("divergences", "–")),
                number(verdict.get("seconds_to_train"), 0),
                number(verdict.get("seconds_per_10000_draws"), 3),
            ]
        )
    return markdown_table(header, rows)


def _exact_row(scale_of_v: float) -> list[str]:
    law = norm(scale=scale_of_v)
    exact = [number(float(law.ppf(p)), 2) for p in (0.001, 0.01, 0.99)]
    return ["*the target itself*", "0", "0", "0", *exact, "–", "–", "–"]


def _kl(kl: dict[str, float] | None) -> str:
    if kl is None:
        return "–"
    if kl["upper"] is None or not math.isfinite(kl["upper"]):
        return "**ran away**"
    return f"{number(kl['lower'], 4)} … {number(kl['upper'], 4)} ± {number(kl['upper_se'], 4)}"


def _training_table(arms: Results) -> str:
    header = ["arm", "draws of u per x", "steps", "steps / s", "compile, s", "last objective"]
    rows = [
        [
            verdict["title"],
            number(verdict["mean_draws"], 1),
            str(verdict["steps"]),
            number(verdict["steps_per_second"], 0),
            number(verdict["seconds_to_compile"], 1),
            _mean_of_last(verdict["curve"]),
        ]
        for verdict in arms.values()
    ]
    losses = "\n".join(f"- {verdict['title']}: `{verdict['loss']}`" for verdict in arms.values())
    return markdown_table(header, rows) + "\n\n" + losses


def _mean_of_last(curve: dict[str, list[float]]) -> str:
    """The objective over the last block of steps, or where it ceased to be a number."""
    for step, objective in zip(curve["objective_steps"], curve["objective"]):
        if objective is None or not math.isfinite(objective):
            return f"not finite by step {step}"
    return f"{number(curve['objective'][-1], 4)} ± {number(curve['objective_se'][-1], 4)}"


def _summary_table(samplers: Results) -> str:
    header = ["sampler", "site", "mean", "MCSE", "sd", "MCSE of sd", "5 %", "50 %", "95 %"]
    header += ["ESS bulk", "ESS tail", "R-hat"]
    rows = []
    for verdict in samplers.values():
        for site, line in verdict["summary"].items():
            of_site = verdict["quantiles"][site]
            rows.append(
                [
                    verdict["title"],
                    site,
                    *(number(line[c]) for c in ("mean", "mcse_mean", "sd", "mcse_sd")),
                    *(number(of_site[p], 2) for p in ("0.05", "0.5", "0.95")),
                    *(_count(line[c]) for c in ("ess_bulk", "ess_tail")),
                    number(line["r_hat"], 2),
                ]
            )
    return markdown_table(header, rows)


def _count(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.0f}"
