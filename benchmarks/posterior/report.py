"""Report of the posterior benchmark: every figure comes from its JSON."""

from typing import Any

from benchmarks.common.tables import bold, count, number, with_error
from benchmarks.posterior.figures import (
    KS_LIMIT,
    MEAN_LIMIT,
    Outcome,
    break_even,
    has_small_k_hat,
)
from benchmarks.posterior.reference import R_HAT_LIMIT
from benchmarks.posterior.tables import overview_table, quantity_table, sampler_table
from benchmarks.posterior.targets import targets_text
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K


def report(results: dict[str, Any]) -> str:
    """The report in Markdown."""
    problems, scale = results["problems"], results["configuration"]["scale"]
    note = bold("A quick run: training and references are short, and figures rough.")
    quick = "" if scale["steps"] is None else f"\n{note}\n"
    sections = "\n".join(_section(name, outcome) for name, outcome in problems.items())
    return f"""# Posteriors that are hard for MCMC: learned samplers beside NUTS

{len(problems)} models in their usual form, seed {results["configuration"]["seed"]}; the run took
{results["seconds"] / 60:.0f} minutes.
{quick}
- *Learned* is AutoHierarchicalNormal trained by reverse KL: its *raw* draws; these *resampled* by
  importance weights; and *Metropolis* chains that use them as proposals, and are exact.
- *NUTS* has the same model and NumPyro's defaults, with {scale["warmup"]} warm-up draws and
  {scale["nuts"]} more in each of four chains.
- The *reference* is exact draws where they exist, which also show the effect of chance; else NUTS
  on a reparameterised model until R-hat is up to {R_HAT_LIMIT} and bulk ESS at least
  {count(scale["min_ess"])} in every quantity.
- All coordinates of all latents are judged, positive ones on the log scale; each figure is that of
  the worst coordinate. Errors are in sds of the reference: of the *mean*, of the *sd*, and of the
  0.5, 2.5, 97.5 and 99.5 % quantiles, the *tails*. *KS* is the Kolmogorov–Smirnov distance.
- *ESS* is the least bulk ESS; for raw draws their number, for resampled draws that of the weights.
  *ESS / s* divides by the time of drawing, and *with training* adds training or warm-up to it.
  The time of resampled draws is that of the whole certificate. Compilation is excluded.

## Summary

{overview_table(results)}

*Converged* means an R-hat up to {R_HAT_LIMIT}, every mean within {MEAN_LIMIT} sd of the reference,
and every KS up to {KS_LIMIT}, which also detects modes that all chains miss. The *break-even ESS*
is the effective sample size from which training has paid for itself: Metropolis and NUTS have then
taken the same total time. The ESS of chains that have not converged is too large. † Metropolis
proposals alternate with steps of NUTS. *KL* is by the exact log-evidence where it is known, else by
the certificate's; a > marks a k-hat so large that the log-evidence may be too low, and KL larger.

{targets_text(results)}
{sections}"""


def _section(name: str, outcome: Outcome) -> str:
    """Everything on one model."""
    title, quantities = outcome["config"]["title"], outcome["reference"]["quantities"]
    pictures = "\n\n".join(
        f"![{kind.capitalize()} of {title}]({kind}_{name}.png)"
        for kind in ("marginals", "pairs", "ranks")
    )
    tables = "\n\n".join(f"{each}:\n\n{quantity_table(outcome, each)}" for each in quantities)
    return f"""## {title}

{_certificate_text(outcome)}

{_training_text(outcome)} {_reference_text(outcome["reference"])}

{sampler_table(outcome)}

{pictures}

### {title}: some quantities

{tables}
"""


def _certificate_text(outcome: Outcome) -> str:
    """Sentences on the certificate and on Metropolis."""
    certificate = outcome.get("certificate")
    if certificate is None:
        if "refused" in outcome:
            return f"There is {bold('no certificate')}: {outcome['refused']}"
        return f"The training {bold('diverged')}: its parameters are not finite."
    of = lambda key: with_error(certificate[key], certificate[f"{key}_se"], 4)
    exact = outcome["config"]["log_evidence"]
    evidence = "" if exact is None else f" (exactly {number(exact, 0)})"
    return (
        f"Certificate: ELBO between {of('elbo_lower')} and {of('elbo_upper')}, KL between "
        f"{of('kl_lower')} and {of('kl_upper')}, log-evidence {of('log_evidence')}{evidence}, all "
        f"in nats; k-hat {number(certificate['pareto_k'], 2)}{_warning(certificate)}. "
        f"{_metropolis_text(outcome)}"
    )


def _warning(certificate: Outcome) -> str:
    if has_small_k_hat(certificate):
        return ""
    warning = (
        f"beyond {LARGEST_PARETO_K}: log-evidence, the KL computed from it, and resampled draws "
        "cannot be trusted"
    )
    return f", {bold(warning)}"


def _metropolis_text(outcome: Outcome) -> str:
    if "acceptance" not in outcome:
        return f"There are {bold('no Metropolis chains')}: {outcome['refused']}"
    alternated = ", alternated with NUTS," if "alternated" in outcome["config"] else ""
    ess = break_even(outcome)
    pays = (
        "Training never pays for itself: NUTS makes more effective draws per second."
        if ess == "never"
        else f"Training has paid for itself from {ess} effective draws."
    )
    acceptance = f"{100 * outcome['acceptance']:.0f} %"
    return f"Metropolis{alternated} accepts {acceptance} of proposals. {pays}"


def _training_text(outcome: Outcome) -> str:
    """A sentence on how the sampler was trained."""
    training, config = outcome["training"], outcome["config"]
    num_x, num_u = config["particles"]
    options = ", ".join(f"{key} {value}" for key, value in config["guide"].items())
    power = config["inverse_temperature"]
    tempered = "" if power == 1.0 else f", on the target to a power that rises from {power:g} to 1"
    return (
        f"Trained for {training['steps']} steps of {num_x} draws of x and {num_u} of u for each, "
        f"Adam from {config['learning_rate']:g}{' with ' + options if options else ''}{tempered}: "
        f"{number(training['seconds'], 0)} s, and {number(training['seconds_to_compile'], 0)} s of "
        f"compilation."
    )


def _reference_text(reference: Outcome) -> str:
    """A sentence on the reference."""
    if "r_hat" not in reference:
        return (
            f"Reference: {reference['draws']} exact draws; errors are from the exact distributions."
        )
    return (
        f"Reference: {reference['title']}, {reference['draws']} draws in "
        f"{number(reference['seconds'], 0)} s, R-hat {number(reference['r_hat'], 4)}, least bulk "
        f"ESS {count(reference['ess'])}, {reference['divergences']} divergent."
    )
