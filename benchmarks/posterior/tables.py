"""Tables of the posterior benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import bold, count, markdown_table, number, with_error
from benchmarks.posterior.figures import (
    MEAN_LIMIT,
    Outcome,
    break_even,
    has_converged,
    has_small_k_hat,
    kl_bounds,
    larger_sign,
    marked_title,
    rate,
    times_nuts,
    worst_of,
)
from benchmarks.posterior.reference import R_HAT_LIMIT


def overview_table(results: dict[str, Any]) -> str:
    """One row per model: KL divergence, Metropolis, NUTS, and whether they have converged."""
    rows = []
    for outcome in results["problems"].values():
        samplers, certificate = outcome["samplers"], outcome.get("certificate")
        rows.append(
            [
                marked_title(outcome),
                str(outcome["config"]["dimension"]),
                _kl_between(outcome),
                number(certificate and certificate["pareto_k"], 2),
                *_convergence_cells(samplers.get("metropolis")),
                *_convergence_cells(samplers["nuts"]),
                rate(times_nuts(outcome)),
                number(outcome["training"]["seconds"], 0),
                break_even(outcome),
            ]
        )
    header = ["model", "latents", "KL between, nats", "k-hat"]
    for name in ("Metropolis", "NUTS"):
        header += [f"{name}: R-hat", "error of mean", "KS", "converged"]
    return markdown_table([*header, "ESS / s, × NUTS", "s to train", "break-even ESS"], rows)


def summary_table(results: dict[str, Any]) -> str:
    """The overview in fewer columns; bold is beyond a limit."""
    rows = []
    for outcome in results["problems"].values():
        certificate = outcome.get("certificate")
        samplers = [outcome["samplers"].get(name) for name in ("metropolis", "nuts")]
        k_hat = number(certificate and certificate["pareto_k"], 2)
        rows.append(
            [
                marked_title(outcome),
                str(outcome["config"]["dimension"]),
                _kl_at_most(outcome),
                bold(k_hat, not has_small_k_hat(certificate)),
                *(cell for sampler in samplers for cell in _short_cells(sampler)),
                rate(times_nuts(outcome)),
                number(outcome["training"]["seconds"], 0),
            ]
        )
    header = ["model", "latents", "KL, nats", "k-hat", "Metropolis: R-hat", "error of mean"]
    header += ["NUTS: R-hat", "error of mean", "ESS / s, × NUTS", "s to train"]
    return markdown_table(header, rows)


def sampler_table(outcome: Outcome) -> str:
    """Every sampler of one model, by the worst of its quantities."""
    header = ["sampler", "draws", "ESS", "ESS / s", "with training"]
    header += ["R-hat", "KS", "mean", "sd", "tails"]
    header += ["divergences", "s to train or warm up", "s to draw"]
    rows = [
        [
            sampler["title"],
            str(sampler["draws"]),
            count(sampler["ess"]),
            rate(sampler["ess_per_second"]),
            rate(sampler.get("ess_per_second_trained")),
            *(worst_of(sampler[key]) for key in ("r_hat", "ks")),
            *(worst_of(sampler[f"{key}_error"]) for key in ("mean", "sd", "tails")),
            str(sampler.get("divergences", "–")),
            number(sampler["seconds_to_train"], 1),
            number(sampler["seconds"], 2),
        ]
        for sampler in outcome["samplers"].values()
    ]
    if "r_hat" in outcome["reference"]:
        rows.append(_reference_row(outcome["reference"]))
    return markdown_table(header, rows)


def _reference_row(reference: Outcome) -> list[str]:
    """A row on the long chains that all samplers are compared with."""
    return [
        f"*reference: {reference['title']}*",
        str(reference["draws"]),
        count(reference["ess"]),
        "–",
        rate(reference["ess"] / reference["seconds"]),
        number(reference["r_hat"], 3),
        *["–"] * 4,
        str(reference["divergences"]),
        "–",
        number(reference["seconds"], 0),
    ]


def quantity_table(outcome: Outcome, quantity: str) -> str:
    """ArviZ's summary of one quantity, and its quantiles, by every sampler."""
    exact = outcome["reference"]["quantities"][quantity]
    header = ["sampler", "mean", "MCSE", "sd", "MCSE of sd"]
    header += [f"{100 * float(p):g} %" for p in exact["quantiles"]]
    header += ["KS", "ESS bulk", "ESS tail", "R-hat"]
    kind = "reference" if "r_hat" in outcome["reference"] else "exact distribution"
    rows = [[f"*{kind}*", number(exact["mean"]), "–", number(exact["sd"]), "–"]]
    rows[0] += [*(number(value, 2) for value in exact["quantiles"].values()), "0", "–", "–", "–"]
    for sampler in outcome["samplers"].values():
        summary = sampler["shown"][quantity]
        rows.append(
            [
                sampler["title"],
                *(number(summary[key]) for key in ("mean", "mcse_mean", "sd", "mcse_sd")),
                *(number(value, 2) for value in summary["quantiles"].values()),
                number(summary["ks"], 4),
                *(count(summary[key]) for key in ("ess_bulk", "ess_tail")),
                number(summary["r_hat"]),
            ]
        )
    return markdown_table(header, rows)


def _kl_between(outcome: Outcome) -> str:
    if outcome.get("certificate") is None:
        return bold("diverged")
    lower, upper, error = kl_bounds(outcome)
    return f"{larger_sign(outcome)}{number(lower, 4)} … {with_error(upper, error, 4)}"


def _kl_at_most(outcome: Outcome) -> str:
    if outcome.get("certificate") is None:
        return "–"
    _, upper, _ = kl_bounds(outcome)
    return f"{larger_sign(outcome)}{number(upper, 3)}"


def _convergence_cells(sampler: Outcome | None) -> list[str]:
    """R-hat, the largest error of a mean, the largest KS, and whether these are within limits."""
    if sampler is None:
        return ["–"] * 4
    values = [sampler[name]["value"] for name in ("r_hat", "mean_error", "ks")]
    cells = [number(None if value is None else abs(value), 3) for value in values]
    return [*cells, "yes" if has_converged(sampler) else bold("no")]


def _short_cells(sampler: Outcome | None) -> list[str]:
    """R-hat and the largest error of a mean, each bold where it is beyond its limit."""
    if sampler is None:
        return ["–"] * 2
    r_hat, mean = (sampler[name]["value"] for name in ("r_hat", "mean_error"))
    return [
        bold(number(r_hat), r_hat is None or not r_hat <= R_HAT_LIMIT),
        bold(number(mean and abs(mean)), mean is None or not abs(mean) <= MEAN_LIMIT),
    ]
