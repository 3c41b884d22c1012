"""Results of the posterior benchmark as they are in its JSON."""

from benchmarks.posterior.bench import DEFAULT, PROBABILITIES
from benchmarks.posterior.models import PROBLEMS


def summary(mean=0.0, sd=1.0):
    figures = {"mean": mean, "sd": sd, "mcse_mean": 0.01, "mcse_sd": 0.01, "ess_bulk": 100.0}
    quantiles = {str(p): float(p) for p in PROBABILITIES}
    return figures | {"ess_tail": 90.0, "r_hat": 1.0, "quantiles": quantiles, "ks": 0.0123}


def sampler(title, names, **changes):
    error = {"value": 0.05, "of": names[0]}
    return {
        "title": title,
        "draws": 400,
        "r_hat": {"value": 1.004, "of": names[0]},
        "ess": 200.0,
        "ess_per_second": 50.0,
        "ess_per_second_trained": 4.0,
        "ks": error,
        **{f"{kind}_error": error for kind in ("mean", "sd", "tails")},
        "seconds": 4.0,
        "seconds_to_train": 46.0,
        "shown": {name: summary() for name in names},
        **changes,
    }


def outcome(name, **changes):
    """The results of one problem as in the JSON."""
    problem = PROBLEMS[name]()
    names = problem.shown
    ends = ("elbo_lower", "elbo_upper", "log_evidence", "kl_lower", "kl_upper")
    certificate = {end: 0.0123 for end in ends} | {f"{end}_se": 0.0004 for end in ends}
    samplers = {
        "metropolis": sampler("learned, Metropolis", names),
        "nuts": sampler("NUTS", names, divergences=395, ess_per_second=2.0),
    }
    return {
        "config": problem.config(),
        "training": {"steps": 10, "seconds": 46.0, "seconds_to_compile": 9.0},
        "certificate": certificate | {"pareto_k": 0.35, "ess": 90.0},
        "acceptance": 0.91,
        "reference": {
            "title": "exact draws",
            "draws": 400,
            "seconds": 1.0,
            "quantities": {name: summary() for name in names},
        },
        "samplers": samplers,
        "break_even_ess": 104.0,
        **changes,
    }


def results_of(problems, steps=None):
    scale = DEFAULT._replace(steps=steps)._asdict()
    return {
        "configuration": {"seed": 0, "scale": scale},
        "seconds": 600.0,
        "problems": problems,
    }
