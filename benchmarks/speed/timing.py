"""Times of training steps, measured alternately, and losses at many keys."""

import statistics
import time
from typing import Any

import numpy as np
import optax

import jax
from jax import lax, random

from numpyro.infer import ELBO, SVI

from benchmarks.speed.models import Program, compile_steps


def timed(cases: dict[str, tuple[Program, ELBO]], repeats: int) -> dict[str, dict[str, Any]]:
    """Seconds of a step of each case, measured alternately, and seconds of its compilation."""
    ready = {name: compile_steps(program, loss) for name, (program, loss) in cases.items()}
    states = {name: case.state for name, case in ready.items()}
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for repeat in range(repeats + 1):
        for name, case in ready.items():
            started = time.perf_counter()
            states[name], _ = jax.block_until_ready(case.run(states[name]))
            # The first repetition is a warm-up.
            if repeat:
                seconds[name].append((time.perf_counter() - started) / cases[name][0].steps)
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            "all_seconds": seconds[name],
            "compile_seconds": case.seconds,
            "temporary_bytes": case.temporary_bytes,
        }
        for name, case in ready.items()
    }


def losses_at_keys(program: Program, loss: ELBO, num_keys: int) -> np.ndarray:
    """The loss at independent keys, shape ``(num_keys,)``."""
    svi = SVI(program.model, program.guide, optax.sgd(0.0), loss)
    params = svi.get_params(svi.init(random.key(0), *program.args))
    at_key = lambda key: loss.loss(key, params, program.model, program.guide, *program.args)
    evaluate = jax.jit(lambda keys: lax.map(at_key, keys))
    return np.asarray(evaluate(random.split(random.key(1), num_keys)), np.float64)


def paired_ratio(case: dict[str, Any], baseline: dict[str, Any]) -> float:
    """Median ratio of the times of one repetition."""
    ratios = np.divide(case["all_seconds"], baseline["all_seconds"])
    return float(np.median(ratios))
