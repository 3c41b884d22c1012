"""Report of the funnel benchmark: every figure comes from its JSON."""

import math
from typing import Any

from scipy.stats import norm

from benchmarks.common.tables import bold, count, markdown_table, number, with_error

Results = dict[str, Any]

#: The samplers of :func:`short_table`.
MAIN_SAMPLERS = ("sumo", "multilevel", "iwhvi", "iwelbo", "nuts_centred", "nuts_noncentred")


def report(results: Results) -> str:
    """The report in Markdown."""
    samplers = results["samplers"]
    arms = {name: sampler for name, sampler in samplers.items() if "kl" in sampler}
    interrupted = [sampler["title"] for sampler in arms.values() if sampler["interrupted"]]
    note = f"Interrupted while training: {', '.join(interrupted)}.\n" if interrupted else ""
    contours = "\n".join(
        f"### {sampler['title']}\n\n![Contours of {sampler['title']}](contours_{name}.png)\n"
        for name, sampler in arms.items()
    )
    return f"""# The funnel: a learned sampler beside NUTS

Target: v ~ N(0, {results["scale_of_v"]}²), x ~ N(0, exp(2v)). Each learned sampler was trained by
reverse KL for {results["steps"]} steps of {results["draws_per_step"]} draws of x, seed
{results["seed"]}, all from the same start. The run took {results["seconds"]:.0f} s.
{note}
## Distance to the target

{distance_table(results)}

KL(q ‖ target) lies between the two figures: importance-weighted bounds from below and above, with
the standard error of the upper one. The parameters of a sampler that diverged are not finite. KS is
the Kolmogorov–Smirnov distance to the exact distribution; the last row shows how far chance alone
moves exact draws.

![Quantiles of v against the exact ones](quantiles.png)

![Centred NUTS beside a learned sampler](pairs.png)

## Training

{_training_table(arms)}

![Objective and KL divergence during training](training.png)

An objective below the KL divergence means that the loss is optimising its own bias: the sampler
moves to where the bound on log q(x) is loose.

## ArviZ

{_summary_table(samplers)}

ESS and R-hat of independent draws are perfect by construction: they measure how well the sampler's
own distribution is known, not whether it is the target.

## Contours during training

Grey: the target. Coloured: the learned density, by an importance-weighted bound. Dots: draws.

{contours}"""


def distance_table(results: Results) -> str:
    """Distance of every sampler to the target, and its cost."""
    header = ["sampler", "KL between, nats", "KS of v", "KS of x·exp(−v)"]
    header += ["0.1 % of v", "1 % of v", "99 % of v", "divergences"]
    header += ["s to train or warm up", "s / 10⁴ draws"]
    exact = [exact_quantile(results, p) for p in (0.001, 0.01, 0.99)]
    rows = [["*the target itself*", "0", "0", "0", *exact, "–", "–", "–"]]
    for sampler in results["samplers"].values():
        ks, of_v = sampler["ks"], sampler["quantiles"]["v"]
        rows.append(
            [
                sampler["title"],
                kl_between(sampler),
                *(number(ks[marginal], 4) for marginal in ("v", "x·exp(−v)")),
                *(number(of_v[p], 2) for p in ("0.001", "0.01", "0.99")),
                str(sampler.get("divergences", "–")),
                number(sampler.get("seconds_to_train"), 0),
                number(sampler.get("seconds_per_10000_draws"), 3),
            ]
        )
    return markdown_table(header, rows)


def short_table(results: Results) -> str:
    """KL divergence, one quantile, and training time of the main samplers."""
    header = [
        "sampler",
        "KL between, nats",
        f"1 % quantile of v (exact {exact_quantile(results, 0.01)})",
        "seconds to train",
    ]
    rows = [
        [
            sampler["title"],
            kl_between(sampler),
            number(sampler["quantiles"]["v"]["0.01"], 2),
            number(sampler.get("seconds_to_train"), 0),
        ]
        for name, sampler in results["samplers"].items()
        if name in MAIN_SAMPLERS
    ]
    return markdown_table(header, rows)


def exact_quantile(results: Results, probability: float) -> str:
    """The quantile of v under the target."""
    return number(float(norm(scale=results["scale_of_v"]).ppf(probability)), 2)


def kl_between(sampler: Results) -> str:
    """Bounds on the KL divergence of a learned sampler from the target."""
    kl = sampler.get("kl")
    if kl is None:
        return "–"
    if kl["upper"] is None or not math.isfinite(kl["upper"]):
        return bold("diverged")
    return f"{number(kl['lower'], 4)} … {with_error(kl['upper'], kl['upper_se'], 4)}"


def _training_table(arms: Results) -> str:
    header = ["loss", "draws of u per x", "steps", "steps / s", "compile, s", "last objective"]
    rows = [
        [
            sampler["title"],
            number(sampler["mean_draws"], 1),
            str(sampler["steps"]),
            number(sampler["steps_per_second"], 0),
            number(sampler["seconds_to_compile"], 1),
            _mean_of_last(sampler["curve"]),
        ]
        for sampler in arms.values()
    ]
    losses = "\n".join(f"- {sampler['title']}: `{sampler['loss']}`" for sampler in arms.values())
    return markdown_table(header, rows) + "\n\n" + losses


def _mean_of_last(curve: dict[str, list[float]]) -> str:
    """The mean objective over the last block of steps, or the first step where it is not finite."""
    for step, objective in zip(curve["objective_steps"], curve["objective"]):
        if objective is None or not math.isfinite(objective):
            return f"not finite by step {step}"
    return with_error(curve["objective"][-1], curve["objective_se"][-1], 4)


def _summary_table(samplers: Results) -> str:
    header = ["sampler", "site", "mean", "MCSE", "sd", "MCSE of sd", "5 %", "50 %", "95 %"]
    header += ["ESS bulk", "ESS tail", "R-hat"]
    rows = []
    for sampler in samplers.values():
        for site, line in sampler["summary"].items():
            of_site = sampler["quantiles"][site]
            rows.append(
                [
                    sampler["title"],
                    site,
                    *(number(line[c]) for c in ("mean", "mcse_mean", "sd", "mcse_sd")),
                    *(number(of_site[p], 2) for p in ("0.05", "0.5", "0.95")),
                    *(count(line[c]) for c in ("ess_bulk", "ess_tail")),
                    number(line["r_hat"], 2),
                ]
            )
    return markdown_table(header, rows)
