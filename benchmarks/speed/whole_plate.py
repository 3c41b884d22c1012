"""AutoNormal on a whole plate: a stopping time for each datum, beside one for all."""

from typing import Any

import numpy as np

import jax
from jax import random

import numpyro
import numpyro.distributions as dist
from numpyro.infer import ELBO, autoguide, init_to_value

from benchmarks.speed.models import Program
from benchmarks.speed.timing import losses_at_keys, timed
from numpyro_sumo import SUMO, MultilevelSUMO

SIZE = 200
_NOISE = 0.5


def model(x: jax.Array) -> None:
    """A normal latent and a normal observation for each datum."""
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))
        numpyro.sample("x", dist.Normal(z, _NOISE), obs=x)


def plate_of(size: int) -> tuple[Program, float]:
    """The model with AutoNormal, 1.3 times as wide as the posterior, and its exact log p(x)."""
    x = random.normal(random.key(0), (size,))
    precision = 1.0 + _NOISE**-2
    start = init_to_value(values={"z": x * _NOISE**-2 / precision})
    guide = autoguide.AutoNormal(model, init_loc_fn=start, init_scale=1.3 / precision**0.5)
    exact = dist.Normal(0.0, (1.0 + _NOISE**2) ** 0.5).log_prob(x).sum()
    return Program(f"AutoNormal on a whole plate of {size}", model, guide, (x,), 100), float(exact)


def value_of_whole_plates(repeats: int, quick: bool) -> list[dict[str, Any]]:
    """Variance times time, and the distance of the mean value from log p(x), for each loss."""
    program, exact = plate_of(20 if quick else SIZE)
    losses: dict[str, dict[str, ELBO]] = {
        kind.__name__: {"one for all": kind(share_stopping_times=True), "own": kind()}
        for kind in (SUMO, MultilevelSUMO)
    }
    rows = []
    for name, ways in losses.items():
        times = timed({way: (program, loss) for way, loss in ways.items()}, repeats)
        for way, loss in ways.items():
            values = losses_at_keys(program, loss, 200 if quick else 10_000)
            variance = float(np.var(values, ddof=1))
            seconds = times[way]["seconds"]
            error = (variance / len(values)) ** 0.5
            rows.append(
                {
                    "program": program.title,
                    "loss": name,
                    "way": way,
                    "milliseconds": 1e3 * seconds,
                    "variance": variance,
                    "variance_times_seconds": variance * seconds,
                    "mean_less_exact": float(-np.mean(values) - exact),
                    "standard_error": error,
                    "z": float((-np.mean(values) - exact) / error),
                }
            )
    return rows
