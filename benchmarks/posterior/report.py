"""Tables of the posterior benchmark, every figure from its JSON."""

import math
from typing import Any

from benchmarks.common.tables import markdown_table, number
from benchmarks.posterior.reference import R_HAT_BAR
from numpyro_sumo.diagnostics.certificate import LARGEST_PARETO_K

Results = dict[str, Any]

#: What a sampler is asked for besides R-hat: every mean within the first of the reference's, every
#: Kolmogorov–Smirnov distance up to the second.
MEAN_BAR, KS_BAR = 0.1, 0.1


def report(results: Results) -> str:
    """The report in Markdown."""
    problems, scale = results["problems"], results["configuration"]["scale"]
    note = "**A quick run: training and references are cut short, and figures rough.**"
    quick = "" if scale["steps"] is None else f"\n{note}\n"
    sections = "\n".join(section(name, verdict, scale) for name, verdict in problems.items())
    return f"""# Posteriors that are hard for a chain: learned samplers beside NUTS

{len(problems)} models as a person would write them, seed {results["configuration"]["seed"]}; the
run took {results["seconds"] / 60:.0f} minutes.
{quick}
- *Learned* is AutoHierarchicalNormal trained by reverse KL: its draws as they are (*raw*),
  *resampled* by importance weights, and as proposals of *Metropolis*' chains, which is exact.
- *NUTS, as written* has the same model and NumPyro's defaults, {scale["warmup"]} draws of warm-up
  and {scale["nuts"]} after it in each of four chains.
- The *reference* is exact draws where there are any, which show what chance alone does; else NUTS
  in other coordinates until R-hat is up to {R_HAT_BAR} and bulk ESS at least
  {_whole(scale["ess_bar"])} in every quantity.
- Judged are all coordinates of all latents, positive ones by their logarithm; each figure is that
  of the worst of them. Errors are in sds of the reference: of the *mean*, of the *sd*, and of the
  quantiles of 0.5, 2.5, 97.5 and 99.5 %, the *tails*. *KS* is the Kolmogorov–Smirnov distance.
- *ESS* is the least bulk ESS; of raw draws their number, of resampled ones that of the weights.
  *ESS / s* is by the time that draws take, and *all told* by that of training or warm-up as well.
  Resampled draws take the time of the whole certificate. Compilation is left out everywhere.

## In short

{overview_table(results)}

*Well* is an R-hat up to {R_HAT_BAR}, every mean within {MEAN_BAR} sd of the reference, and every KS
up to {KS_BAR}, by which modes are seen that chains agree to leave out. *Pays from* is the number of
effective draws from which training has paid for itself: there Metropolis and NUTS have taken the
same time, all told. The ESS of chains that are not well says too much. † Proposals of Metropolis
take turns with steps of NUTS there. *KL* is by the exact log-evidence where that is known, else by
the certificate's, which may be too low, and KL larger, behind a >.

{goals(results)}
{sections}"""


def overview_table(results: Results) -> str:
    """A line for each model: the certificate, Metropolis beside NUTS, and whether they are well."""
    rows = []
    for verdict in results["problems"].values():
        samplers, certificate = verdict["samplers"], verdict.get("certificate")
        metropolis, nuts = samplers.get("metropolis"), samplers["nuts"]
        rows.append(
            [
                _marked_title(verdict),
                str(verdict["told"]["dimension"]),
                _kl_between(verdict),
                number(certificate and certificate["pareto_k"], 2),
                *_figures(metropolis),
                *_figures(nuts),
                _faster(verdict),
                number(verdict["training"]["seconds"], 0),
                _count(verdict["pays_from"], verdict),
            ]
        )
    header = ["model", "latents", "KL between, nats", "k-hat"]
    header += [
        "Metropolis: R-hat",
        "mean off",
        "KS",
        "well",
        "NUTS: R-hat",
        "mean off",
        "KS",
        "well",
    ]
    return markdown_table([*header, "ESS / s, × NUTS", "s to train", "pays from"], rows)


def summary_table(results: Results) -> str:
    """The overview in fewer columns; bold is what is not well, or a k-hat that is too large."""
    rows = []
    for verdict in results["problems"].values():
        told, certificate = verdict["told"], verdict.get("certificate")
        samplers = [verdict["samplers"].get(name) for name in ("metropolis", "nuts")]
        k_hat = certificate and certificate["pareto_k"]
        rows.append(
            [
                _marked_title(verdict),
                str(told["dimension"]),
                _kl_at_most(verdict),
                _bold(number(k_hat, 2), not _is_trusted(certificate)),
                *(figure for sampler in samplers for figure in _short_figures(sampler)),
                _faster(verdict),
                number(verdict["training"]["seconds"], 0),
            ]
        )
    header = ["model", "latents", "KL, nats", "k-hat", "Metropolis: R-hat", "mean off"]
    header += ["NUTS: R-hat", "mean off", "ESS / s, × NUTS", "s to train"]
    return markdown_table(header, rows)


def _marked_title(verdict: dict[str, Any]) -> str:
    """With a dagger where proposals take turns with NUTS."""
    return verdict["told"]["title"] + (" †" if "alternated" in verdict["told"] else "")


def section(name: str, verdict: dict[str, Any], scale: dict[str, Any]) -> str:
    """All there is on one model."""
    told, telling = verdict["told"], list(verdict["reference"]["quantities"])
    pictures = "\n\n".join(
        f"![{what} of {told['title']}]({file}_{name}.png)"
        for what, file in {"Marginals": "marginals", "Pairs": "pairs", "Ranks": "ranks"}.items()
    )
    tails = "\n\n".join(
        f"{quantity}:\n\n{telling_table(verdict, quantity)}" for quantity in telling
    )
    return f"""## {told["title"]}

{certificate_text(verdict)}

{training_text(verdict)} {reference_text(verdict)}

{sampler_table(verdict)}

{pictures}

### {told["title"]}: what tells most

{tails}
"""


def sampler_table(verdict: dict[str, Any]) -> str:
    """Every sampler, by the worst of its quantities."""
    header = [
        "sampler",
        "draws",
        "ESS",
        "ESS / s",
        "all told",
        "R-hat",
        "KS",
        "mean",
        "sd",
        "tails",
    ]
    header += ["divergences", "s to train or warm up", "s to draw"]
    rows = []
    for sampler in verdict["samplers"].values():
        rows.append(
            [
                sampler["title"],
                str(sampler["draws"]),
                _whole(sampler["ess"]),
                _rate(sampler["ess_per_second"]),
                _rate(sampler.get("ess_per_second_trained")),
                *(_worst(sampler[key], 3) for key in ("r_hat", "ks")),
                *(_worst(sampler[f"{key}_error"], 3) for key in ("mean", "sd", "tails")),
                str(sampler.get("divergences", "–")),
                number(sampler["seconds_to_train"], 1),
                number(sampler["seconds"], 2),
            ]
        )
    if "r_hat" in verdict["reference"]:
        rows.append(_chains_row(verdict["reference"]))
    return markdown_table(header, rows)


def telling_table(verdict: dict[str, Any], quantity: str) -> str:
    """ArviZ's summary of one quantity, and its tails."""
    law = verdict["reference"]["quantities"][quantity]
    header = ["sampler", "mean", "MCSE", "sd", "MCSE of sd"]
    header += [f"{100 * float(p):g} %" for p in law["quantiles"]]
    header += ["KS", "ESS bulk", "ESS tail", "R-hat"]
    rows = []
    for sampler in verdict["samplers"].values():
        line = sampler["telling"][quantity]
        rows.append(
            [
                sampler["title"],
                *(number(line[key]) for key in ("mean", "mcse_mean", "sd", "mcse_sd")),
                *(number(value, 2) for value in line["quantiles"].values()),
                number(line["ks"], 4),
                *(_whole(line[key]) for key in ("ess_bulk", "ess_tail")),
                number(line["r_hat"]),
            ]
        )
    exact = [number(law["mean"]), "–", number(law["sd"]), "–"]
    exact += [number(value, 2) for value in law["quantiles"].values()]
    kind = "reference" if "r_hat" in verdict["reference"] else "the law itself"
    return markdown_table(header, [[f"*{kind}*", *exact, "0", "–", "–", "–"], *rows])


def goals(results: Results) -> str:
    """What was asked of the learned samplers, and what came of it; empty of other models."""
    problems, rows = results["problems"], []

    def ask(what: str, figure: float | None, digits: int, bar: str, met: bool) -> None:
        rows.append([what, number(figure, digits), bar, "yes" if met else "**no**"])

    funnel, schools = problems.get("funnel10"), problems.get("eight_schools")
    if funnel and "metropolis" in funnel["samplers"]:
        elbo = funnel["certificate"]["elbo_lower"]
        ask("funnel: certified ELBO, lower end", elbo, 4, "at least −0.02", elbo >= -0.02)
        v, law = _corrected(funnel, "v")
        ask(
            "funnel, Metropolis: sd of v",
            v["sd"],
            3,
            f"{number(law['sd'], 0)} ± 3 × {number(v['mcse_sd'], 3)}",
            abs(v["sd"] - law["sd"]) <= 3 * v["mcse_sd"],
        )
        r_hat = funnel["samplers"]["metropolis"]["r_hat"]["value"]
        ask("funnel, Metropolis: R-hat", r_hat, 3, f"up to {R_HAT_BAR}", r_hat <= R_HAT_BAR)
        _ask_quantile(ask, "funnel", funnel, "v", "0.005", 0.3)
    if schools and "metropolis" in schools["samplers"]:
        tau, law = _corrected(schools, "log τ")
        for key in ("mean", "sd"):
            ask(
                f"eight schools, Metropolis: {key} of log τ",
                tau[key],
                3,
                f"{number(law[key])} ± 0.05",
                abs(tau[key] - law[key]) <= 0.05,
            )
        _ask_quantile(ask, "eight schools", schools, "log τ", "0.025", 0.2)
    for name, verdict in {"funnel": funnel, "eight schools": schools}.items():
        if verdict and "metropolis" in verdict["samplers"]:
            times = _times_nuts(verdict)
            ask(f"{name}: ESS / s, × NUTS", times, 1, "at least 10", times >= 10)
    if not rows:
        return ""
    if len(problems) > 1:
        well = sum(is_well(verdict["samplers"].get("metropolis")) for verdict in problems.values())
        what = f"models of {len(problems)} that are well with Metropolis"
        ask(what, well, 0, "at least 5", well >= 5)
    longest = max(verdict["training"]["seconds"] for verdict in problems.values())
    ask("longest training, s", longest, 0, "up to 300", longest <= 300)
    return "### Held to\n\n" + markdown_table(["what", "is", "bar", "met"], rows) + "\n"


def is_well(sampler: dict[str, Any] | None) -> bool:
    """Whether R-hat, the errors of all means, and all distances are within their bars."""
    if sampler is None:
        return False
    bars = {"r_hat": R_HAT_BAR, "mean_error": MEAN_BAR, "ks": KS_BAR}
    values = {name: sampler[name]["value"] for name in bars}
    return all(value is not None and abs(value) <= bars[name] for name, value in values.items())


def certificate_text(verdict: dict[str, Any]) -> str:
    """What the certificate says, in a sentence or two."""
    certificate = verdict.get("certificate")
    if certificate is None:
        if "refused" in verdict:
            return f"There is **no certificate**: {verdict['refused']}"
        return "The training **ran away**: its parameters are not finite, and there is no sampler."
    of = {name: number(value, 4) for name, value in certificate.items()}
    exact = verdict["told"]["log_evidence"]
    evidence = "" if exact is None else f" (exactly {number(exact, 0)})"
    return (
        f"Certificate: ELBO between {of['elbo_lower']} ± {of['elbo_lower_se']} and "
        f"{of['elbo_upper']} ± {of['elbo_upper_se']}, KL between {of['kl_lower']} ± "
        f"{of['kl_lower_se']} and {of['kl_upper']} ± {of['kl_upper_se']}, log-evidence "
        f"{of['log_evidence']} ± {of['log_evidence_se']}{evidence}, all in nats; k-hat "
        f"{number(certificate['pareto_k'], 2)}{_warning(certificate)}. "
        f"{_metropolis_text(verdict)}"
    )


def _metropolis_text(verdict: dict[str, Any]) -> str:
    if "acceptance" not in verdict:
        return f"There are **no chains of Metropolis**: {verdict['refused']}"
    alternated = ", alternated with NUTS," if "alternated" in verdict["told"] else ""
    return (
        f"Metropolis{alternated} accepts {100 * verdict['acceptance']:.0f} % of proposals. "
        f"{_pays(verdict)}"
    )


def training_text(verdict: dict[str, Any]) -> str:
    """How the sampler was trained."""
    training, told = verdict["training"], verdict["told"]
    num_x, num_u = told["particles"]
    options = ", ".join(f"{key} {value}" for key, value in told["guide"].items())
    power = told["inverse_temperature"]
    cooled = "" if power == 1.0 else f", of the target to a power that rises from {power:g} to 1"
    return (
        f"Trained for {training['steps']} steps of {num_x} draws of x and {num_u} of u for each, "
        f"Adam from {told['learning_rate']:g}{' with ' + options if options else ''}{cooled}: "
        f"{number(training['seconds'], 0)} s, and {number(training['seconds_to_compile'], 0)} s of "
        f"compilation."
    )


def reference_text(verdict: dict[str, Any]) -> str:
    """What the reference is."""
    reference = verdict["reference"]
    if "r_hat" not in reference:
        return f"Reference: {reference['draws']} exact draws; errors are from the exact laws."
    return (
        f"Reference: {reference['title']}, {reference['draws']} draws in "
        f"{number(reference['seconds'], 0)} s, R-hat {number(reference['r_hat'], 4)}, least bulk "
        f"ESS {_whole(reference['ess'])}, {reference['divergences']} divergent."
    )


def _chains_row(reference: dict[str, Any]) -> list[str]:
    """A line on the chains that all others are held against."""
    ess, seconds = reference["ess"], reference["seconds"]
    return [
        f"*reference: {reference['title']}*",
        str(reference["draws"]),
        _whole(ess),
        "–",
        _rate(ess / seconds),
        number(reference["r_hat"], 3),
        *["–"] * 4,
        str(reference["divergences"]),
        "–",
        number(seconds, 0),
    ]


def _corrected(verdict: dict[str, Any], quantity: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A quantity's line by Metropolis, and its law."""
    line = verdict["samplers"]["metropolis"]["telling"][quantity]
    return line, verdict["reference"]["quantities"][quantity]


def _ask_quantile(ask, name, verdict, quantity, probability, within) -> None:
    line, law = _corrected(verdict, quantity)
    value, exact = line["quantiles"][probability], law["quantiles"][probability]
    ask(
        f"{name}, Metropolis: {100 * float(probability):g} % of {quantity}",
        value,
        2,
        f"{number(exact, 2)} ± {within}",
        abs(value - exact) <= within,
    )


def _times_nuts(verdict: dict[str, Any]) -> float:
    samplers = verdict["samplers"]
    return samplers["metropolis"]["ess_per_second"] / samplers["nuts"]["ess_per_second"]


def _faster(verdict: dict[str, Any]) -> str:
    if "metropolis" not in verdict["samplers"]:
        return "–"
    return _rate(_times_nuts(verdict))


def _pays(verdict: dict[str, Any]) -> str:
    count = _count(verdict["pays_from"], verdict)
    return (
        "Training never pays for itself: NUTS makes effective draws faster."
        if count == "never"
        else f"Training has paid for itself from {count} effective draws."
    )


def _count(value: float | None, verdict: dict[str, Any]) -> str:
    """JSON has null for infinity, and for what was not compared."""
    if "metropolis" not in verdict["samplers"]:
        return "–"
    return "never" if value is None or not math.isfinite(value) else f"{value:.0f}"


def _kl_between(verdict: dict[str, Any]) -> str:
    if verdict.get("certificate") is None:
        return "**ran away**"
    lower, upper, error = _kl_ends(verdict)
    return f"{_beyond(verdict)}{number(lower, 4)} … {number(upper, 4)} ± {number(error, 4)}"


def _kl_at_most(verdict: dict[str, Any]) -> str:
    if verdict.get("certificate") is None:
        return "–"
    _, upper, _ = _kl_ends(verdict)
    return f"{_beyond(verdict)}{number(upper, 3)}"


def _kl_ends(verdict: dict[str, Any]) -> list[float | None]:
    """Both bounds on the KL divergence, and the error of the upper one.

    By the exact log-evidence where it is known, else as certified; JSON has null for infinity.
    """
    certificate, exact = verdict["certificate"], verdict["told"]["log_evidence"]
    if exact is None:
        return [certificate[f"kl_{end}"] for end in ("lower", "upper", "upper_se")]
    elbos = certificate["elbo_upper"], certificate["elbo_lower"]
    ends = [None if elbo is None else exact - elbo for elbo in elbos]
    return [*ends, certificate["elbo_lower_se"]]


def _beyond(verdict: dict[str, Any]) -> str:
    """A sign before a KL divergence that rests on a log-evidence which may be too low."""
    certificate, exact = verdict["certificate"], verdict["told"]["log_evidence"]
    unsure = exact is None and not _is_trusted(certificate)
    return "> " if unsure and certificate["kl_upper"] is not None else ""


def _warning(certificate: dict[str, Any]) -> str:
    if _is_trusted(certificate):
        return ""
    return (
        f", **beyond {LARGEST_PARETO_K}: neither log-evidence, and KL by it, nor resampled draws "
        "are to be trusted**"
    )


def _is_trusted(certificate: dict[str, Any] | None) -> bool:
    """Whether k-hat is small; JSON has null for one that is not finite."""
    k_hat = None if certificate is None else certificate["pareto_k"]
    return k_hat is not None and k_hat <= LARGEST_PARETO_K


def _figures(sampler: dict[str, Any] | None) -> list[str]:
    """R-hat, the worst mean and KS, and whether these are well."""
    if sampler is None:
        return ["–"] * 4
    values = [sampler[name]["value"] for name in ("r_hat", "mean_error", "ks")]
    figures = [number(None if value is None else abs(value), 3) for value in values]
    return [*figures, "yes" if is_well(sampler) else "**no**"]


def _short_figures(sampler: dict[str, Any] | None) -> list[str]:
    """R-hat and the worst mean, each bold where it is beyond its bar."""
    if sampler is None:
        return ["–"] * 2
    r_hat, mean = (sampler[name]["value"] for name in ("r_hat", "mean_error"))
    return [
        _bold(number(r_hat), r_hat is None or not r_hat <= R_HAT_BAR),
        _bold(number(mean and abs(mean)), mean is None or not abs(mean) <= MEAN_BAR),
    ]


def _bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def _worst(figure: dict[str, Any], digits: int) -> str:
    return f"{number(figure['value'], digits)} ({figure['of']})"


def _rate(value: float | None) -> str:
    """What may be anything above zero, to three digits or all before the point."""
    if value is None or value >= 100:
        return _whole(value)
    return number(value, 1 if value >= 10 else 2)


def _whole(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.0f}"
