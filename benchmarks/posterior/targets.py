"""Accuracy and speed that the learned samplers should reach, and whether they do."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.common.tables import bold, markdown_table, number
from benchmarks.posterior.figures import Outcome, has_converged, times_nuts
from benchmarks.posterior.reference import R_HAT_LIMIT


class Target(NamedTuple):
    """A figure, and the condition that it should meet."""

    title: str
    value: float
    digits: int
    condition: str
    is_met: bool


def targets_text(results: dict[str, Any]) -> str:
    """A section with all targets; empty for problems without any."""
    problems = results["problems"]
    targets = [target for name in _BY_PROBLEM if name in problems for target in _of(problems, name)]
    if not targets:
        return ""
    if len(problems) > 1:
        good = sum(has_converged(each["samplers"].get("metropolis")) for each in problems.values())
        title = f"models of {len(problems)} on which Metropolis has converged"
        targets.append(Target(title, good, 0, "at least 5", good >= 5))
    longest = max(outcome["training"]["seconds"] for outcome in problems.values())
    targets.append(Target("longest training, s", longest, 0, "up to 300", longest <= 300))
    rows = [
        [t.title, number(t.value, t.digits), t.condition, "yes" if t.is_met else bold("no")]
        for t in targets
    ]
    return f"### Targets\n\n{markdown_table(['figure', 'value', 'target', 'met'], rows)}\n"


def _of(problems: dict[str, Outcome], name: str) -> Iterator[Target]:
    """The targets of one problem; none if it has no draws by Metropolis."""
    outcome = problems[name]
    if "metropolis" in outcome["samplers"]:
        yield from _BY_PROBLEM[name](outcome)
        times = times_nuts(outcome)
        assert times is not None
        label = name.replace("_", " ").removesuffix("10")
        yield Target(f"{label}: ESS / s, × NUTS", times, 1, "at least 10", times >= 10)


def _funnel(outcome: Outcome) -> Iterator[Target]:
    elbo = outcome["certificate"]["elbo_lower"]
    yield Target("funnel: certified ELBO, lower end", elbo, 4, "at least −0.02", elbo >= -0.02)
    summary, exact = _summary(outcome, "v")
    condition = f"{number(exact['sd'], 0)} ± 3 × {number(summary['mcse_sd'], 3)}"
    is_met = abs(summary["sd"] - exact["sd"]) <= 3 * summary["mcse_sd"]
    yield Target("funnel, Metropolis: sd of v", summary["sd"], 3, condition, is_met)
    r_hat = outcome["samplers"]["metropolis"]["r_hat"]["value"]
    condition = f"up to {R_HAT_LIMIT}"
    yield Target("funnel, Metropolis: R-hat", r_hat, 3, condition, r_hat <= R_HAT_LIMIT)
    quantile = summary["quantiles"]["0.005"], exact["quantiles"]["0.005"]
    yield _within("funnel, Metropolis: 0.5 % of v", *quantile, 0.3, 2)


def _eight_schools(outcome: Outcome) -> Iterator[Target]:
    title = "eight schools, Metropolis"
    summary, exact = _summary(outcome, "log τ")
    for key in ("mean", "sd"):
        yield _within(f"{title}: {key} of log τ", summary[key], exact[key], 0.05, 3)
    quantile = summary["quantiles"]["0.025"], exact["quantiles"]["0.025"]
    yield _within(f"{title}: 2.5 % of log τ", *quantile, 0.2, 2)


_BY_PROBLEM = {"funnel10": _funnel, "eight_schools": _eight_schools}


def _within(title: str, value: float, exact: float, tolerance: float, digits: int) -> Target:
    """The target that a figure is within a tolerance of the reference."""
    is_met = abs(value - exact) <= tolerance
    return Target(title, value, digits, f"{number(exact, digits)} ± {tolerance}", is_met)


def _summary(outcome: Outcome, quantity: str) -> tuple[Outcome, Outcome]:
    """A quantity's summary by Metropolis, and under the reference."""
    summary = outcome["samplers"]["metropolis"]["shown"][quantity]
    return summary, outcome["reference"]["quantities"][quantity]
