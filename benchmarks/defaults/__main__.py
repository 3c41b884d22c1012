"""Which guide objective, gradient and number of particles should a loss have if nobody says?

Six models whose evidence is known, each with an AutoGuide trained from the same starts by every
loss, one option changed at a time, at the same expected number of draws in all. What counts is how
far the guide's 8-particle bound is below log p(x) at the end.
"""

import math
from pathlib import Path
import sys
import time
from typing import Any

import numpy as np
import optax
from tqdm import tqdm

import jax
from jax import random

from numpyro.infer import SVI

from benchmarks.common.cli import benchmark_parser, positive_integer, refused
from benchmarks.common.html_report import write_report
from benchmarks.common.results import resumed, write_json, written_whole
from benchmarks.common.tables import markdown_table, number
from benchmarks.models.by_quadrature import MODELS, Everyday
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.estimators import importance_weighted_bound
from numpyro_sumo.losses.base import ImportanceLoss

#: By loss: what it is called with. Training lengths are those that cost what the first does.
VARIANTS: dict[type[ImportanceLoss], dict[str, dict[str, Any]]] = {
    IWELBO: {
        "dreg, 8": dict(num_particles=8, gradient="dreg"),
        "standard, 8": dict(num_particles=8, gradient="standard"),
        "dreg, 2": dict(num_particles=2, gradient="dreg"),
        "dreg, 4": dict(num_particles=4, gradient="dreg"),
        "dreg, 32": dict(num_particles=32, gradient="dreg"),
    }
}
for loss_class in (SUMO, MultilevelSUMO):
    VARIANTS[loss_class] = {
        **VARIANTS[IWELBO],
        "variance, 8": dict(num_particles=8, guide_objective="variance"),
    }
LEARNING_RATE = 1e-2
MAX_GRADIENT_NORM = 10.0
BOUND = 8
NUM_BOUNDS = 2_000
DEFAULT_OUT = Path(__file__).parents[1] / "results" / "defaults"


def main(arguments: list[str] | None = None) -> int:
    """Runs the benchmark from the command line; returns the exit status."""
    parser = benchmark_parser("defaults", __doc__, DEFAULT_OUT)
    parser.add_argument(
        "--steps",
        type=positive_integer,
        default=3_000,
        help="training steps with 8 particles; with others what costs as many draws (%(default)s)",
    )
    parser.add_argument(
        "--seeds", type=positive_integer, default=4, help="number of seeds (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if refused("defaults", options.out):
        return 2
    fresh = {"settings": {"steps": options.steps, "seeds": options.seeds}, "models": {}}
    results = resumed(options.out / "defaults.json", fresh, "settings")
    try:
        for model, name, variant in missing(results):
            cells = results["models"].setdefault(model, {}).setdefault(name, {})
            cells[variant] = trained(model, name, variant, options.steps, options.seeds)
            write_results(options.out, results)
    except KeyboardInterrupt:
        print("defaults: interrupted; the next call goes on from here", file=sys.stderr)
    write_results(options.out, results)
    print(f"Wrote {options.out / 'report.md'}.")
    return 0


def missing(results: dict[str, Any]) -> Any:
    """What is left to run, under a progress bar."""
    every = [
        (model, loss_class.__name__, variant)
        for model in MODELS
        for loss_class, variants in VARIANTS.items()
        for variant in variants
    ]
    done = results["models"]
    known = lambda m, n, v: done.get(m, {}).get(n, {}).get(v, {}).get("loss")
    left = [(m, n, v) for m, n, v in every if known(m, n, v) != repr(make_loss(n, v))]
    bar = tqdm(left, unit="run", initial=len(every) - len(left), total=len(every))
    for case in bar:
        bar.set_postfix_str(", ".join(case))
        yield case


def make_loss(name: str, variant: str) -> ImportanceLoss:
    """A loss by the names of its class and variant."""
    (loss_class,) = (each for each in VARIANTS if each.__name__ == name)
    options: dict[str, Any] = VARIANTS[loss_class][variant]
    return loss_class(**options)


def trained(model: str, name: str, variant: str, steps: int, num_seeds: int) -> dict[str, Any]:
    """Trains from every seed together, and says how good the guides are."""
    problem = MODELS[model]
    loss = make_loss(name, variant)
    first = make_loss(name, next(iter(VARIANTS[type(loss)])))
    num_steps = max(1, round(steps * first.draws_per_step / loss.draws_per_step))
    started = time.perf_counter()
    params = fit(problem, loss, num_steps, num_seeds)
    seconds = time.perf_counter() - started
    return {
        "num_steps": num_steps,
        "loss": repr(loss),
        "draws_per_step": loss.draws_per_step,
        "seconds": seconds,
        "seeds": judged(problem, params, num_seeds),
    }


def fit(problem: Everyday, loss: ImportanceLoss, num_steps: int, num_seeds: int) -> dict[str, Any]:
    """Parameters at the end, with a leading axis of seeds."""
    guide = problem.make_guide(problem.model)
    optimiser = optax.chain(
        optax.clip_by_global_norm(MAX_GRADIENT_NORM),
        optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, num_steps)),
    )
    svi = SVI(problem.model, guide, optimiser, loss)
    run = lambda seed: svi.run(random.key(seed), num_steps, progress_bar=False).params
    return jax.block_until_ready(jax.jit(jax.vmap(run))(np.arange(num_seeds)))


def judged(problem: Everyday, params: dict[str, Any], num_seeds: int) -> list[dict[str, float]]:
    """For every seed the gaps to log p(x), with their standard errors, in nats."""
    guide = problem.make_guide(problem.model)
    SVI(problem.model, guide, optax.sgd(0.0), IWELBO(1)).init(random.key(0))

    @jax.jit
    def weigh(seed, params):
        estimates, _ = IWELBO(1).estimates(
            random.key(seed), params, problem.model, guide, (), {}, BOUND * NUM_BOUNDS
        )
        groups = estimates.reshape(BOUND, NUM_BOUNDS, -1)
        return importance_weighted_bound(groups).sum(axis=-1), estimates.sum()

    verdicts = []
    for seed in range(num_seeds):
        values = jax.tree.map(lambda leaf: leaf[seed], params)  # noqa: B023 - used at once
        bounds, total = weigh(1_000 + seed, values)
        bounds = np.asarray(bounds, np.float64)
        exact = problem.log_evidence(values)
        verdicts.append(
            {
                "log_evidence": exact,
                "gap": exact - float(bounds.mean()),
                "gap_se": float(bounds.std(ddof=1)) / NUM_BOUNDS**0.5,
                "kl": exact - float(total) / (BOUND * NUM_BOUNDS),
            }
        )
    return verdicts


def write_results(folder: Path, results: dict[str, Any]) -> None:
    """The JSON and the report, whole or not at all."""
    with written_whole(folder) as partial:
        write_json(partial / "defaults.json", results)
        write_report(partial, report(results))


def report(results: dict[str, Any]) -> str:
    """The report in Markdown, every figure from ``results``."""
    sections = "\n".join(
        f"## {loss_class.__name__}\n\n{_table(results, loss_class, 'gap', 4)}\n\n"
        f"KL from the guide to the posterior, likewise:\n\n{_table(results, loss_class, 'kl', 3)}\n"
        for loss_class in VARIANTS
    )
    settings = results["settings"]
    return f"""# What a loss should do by default

How far the guide's {BOUND}-particle bound is below log p(x) after training, in nats: mean over
{settings["seeds"]} seeds ± its standard error. Columns are the guide's gradient or objective, and
the number of particles; all in a table made the same expected number of draws, those of a baseline
included: that of {settings["steps"]} steps with the first column's loss. Adam with steps of
{LEARNING_RATE} falling to zero, gradients clipped at {MAX_GRADIENT_NORM:.0f}. A dash stands where a
run ended with parameters that are not finite. Draws are not time: one costs somewhat more with
"dreg" than with "standard", and a step costs something besides its draws.

{sections}
The counts' model learns two parameters besides. What they lose of the highest evidence found, in
nats:

{_model_table(results)}
"""


def _table(results, loss_class, key, digits):
    variants = VARIANTS[loss_class]
    rows = []
    for model, problem in MODELS.items():
        cells = results["models"].get(model, {}).get(loss_class.__name__, {})
        rows.append([problem.title, *(_mean(cells.get(v), key, digits) for v in variants)])
    return markdown_table(["model", *variants], rows)


def _model_table(results):
    losses = results["models"].get("counts", {})
    every = [
        s["log_evidence"] for cells in losses.values() for c in cells.values() for s in c["seeds"]
    ]
    highest = max((value for value in every if value is not None), default=math.nan)
    variants = VARIANTS[SUMO]
    rows = []
    for name, cells in losses.items():
        lost = {
            variant: {"seeds": [{"lost": _less(highest, s["log_evidence"])} for s in cell["seeds"]]}
            for variant, cell in cells.items()
        }
        rows.append([name, *(_mean(lost.get(v), "lost", 4) for v in variants)])
    return markdown_table(["loss", *variants], rows)


def _less(highest, value):
    return math.nan if value is None else highest - value


def _mean(cell, key, digits):
    """Mean over seeds ± its standard error."""
    if cell is None:
        return "–"
    values = [math.nan if s[key] is None else s[key] for s in cell["seeds"]]
    if len(values) < 2:
        return number(values[0], digits)
    error = np.std(values, ddof=1) / len(values) ** 0.5
    return f"{number(float(np.mean(values)), digits)} ± {number(float(error), digits)}"


if __name__ == "__main__":
    sys.exit(main())
