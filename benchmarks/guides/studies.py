"""Models for comparisons with NUTS, each with the guide that is trained for it."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
import zlib

import arviz as az
import numpy as np
import optax
from sklearn.datasets import load_breast_cancer
import xarray

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO

from benchmarks.guides.guides import KINDS, Fit
from benchmarks.models.by_quadrature import EFFECTS, ERRORS
from benchmarks.posterior.models import PROBLEMS, volatility
from numpyro_sumo import IWHVI, AutoHierarchicalNormal, ReverseKL

NUM_CHAINS = 4

#: Days of the time series: few enough for several runs of NUTS, and for a dense mass matrix.
DAYS = 90


class Effort(NamedTuple):
    """How long a guide is trained.

    :param learning_rate: the first one; it decays to zero.
    """

    steps: int
    learning_rate: float


class Study(NamedTuple):
    """A model, which guides are trained for it and how, and how NUTS draws from it.

    :param title: its name in reports.
    :param guides: by their kind in :data:`.KINDS`.
    :param args: of the model.
    :param target_accept: of NUTS.
    """

    title: str
    model: Callable
    guides: dict[str, Effort]
    args: tuple = ()
    target_accept: float = 0.8

    def train(self, rng_key: jax.Array, kind: str, share: float) -> Fit:
        """Train a guide by Adam.

        :param share: of the training steps.
        """
        guide, effort = KINDS[kind].make(self.model), self.guides[kind]
        steps = max(10, round(share * effort.steps))
        optimiser = optax.adam(optax.cosine_decay_schedule(effort.learning_rate, steps))
        is_hierarchical = isinstance(guide, AutoHierarchicalNormal)
        loss = ReverseKL(IWHVI(8), num_particles=16) if is_hierarchical else Trace_ELBO(8)
        svi = SVI(self.model, guide, optimiser, loss)
        found = svi.run(rng_key, steps, *self.args, progress_bar=False)
        return Fit(guide, jax.block_until_ready(found.params))

    def chains(self, num_warmup: int, num_samples: int, **kernel: Any) -> MCMC:
        """Four chains of NUTS in one compiled program, that have not run.

        :param kernel: options of NUTS.
        """
        return MCMC(
            NUTS(self.model, target_accept_prob=self.target_accept, **kernel),
            num_warmup=num_warmup,
            num_samples=num_samples,
            num_chains=NUM_CHAINS,
            chain_method="vectorized",
            progress_bar=False,
        )


def schools_model() -> None:
    """Eight schools in the non-centred parameterisation."""
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
    with numpyro.plate("schools", len(EFFECTS)):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("y", dist.Normal(mu + tau * z, ERRORS), obs=jnp.asarray(EFFECTS))


@cache
def houses() -> dict[str, np.ndarray]:
    """County, floor and log-radon of simulated houses: 40 counties of 2 to 20 houses each."""
    rng = np.random.default_rng(11)
    county = np.repeat(np.arange(40), rng.integers(2, 21, 40))
    floor = rng.binomial(1, 0.2, len(county))
    intercepts = rng.normal(1.5, 0.35, 40)
    radon = rng.normal(intercepts[county] - 0.65 * floor, 0.75)
    return {"county": county, "floor": floor, "radon": radon.round(2)}


def radon_model() -> None:
    """Intercepts that vary by county, and one slope on the floor (Gelman and Hill 2007)."""
    data = {name: jnp.asarray(values) for name, values in houses().items()}
    mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 2.0))
    sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
    with numpyro.plate("counties", 40):
        z = numpyro.sample("z", dist.Normal())
    fitted = (mu + tau * z)[data["county"]] + slope * data["floor"]
    with numpyro.plate("houses", len(fitted)):
        numpyro.sample("y", dist.Normal(fitted, sigma), obs=data["radon"])


@cache
def tumours() -> tuple[np.ndarray, np.ndarray]:
    """Five standardised measurements of each tumour, and whether it is malignant."""
    measured, benign = load_breast_cancer(return_X_y=True)
    chosen = measured[:, [0, 1, 4, 8, 9]]  # radius, texture, smoothness, symmetry, dimension
    return (chosen - chosen.mean(axis=0)) / chosen.std(axis=0), 1 - benign


def tumours_model() -> None:
    """Logistic regression of malignancy on five measurements."""
    measured, malignant = (jnp.asarray(values) for values in tumours())
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.5))
    slopes = numpyro.sample("slopes", dist.Normal(0.0, 2.5).expand([5]).to_event(1))
    with numpyro.plate("tumours", len(malignant)):
        numpyro.sample("y", dist.Bernoulli(logits=intercept + measured @ slopes), obs=malignant)


def convergence(mcmc: MCMC) -> tuple[float, float]:
    """The largest R-hat and the smallest bulk ESS of all numbers in the chains, by ArviZ."""
    draws = {name: np.asarray(v) for name, v in mcmc.get_samples(group_by_chain=True).items()}
    axes = {name: [f"{name}_{axis}" for axis in range(v.ndim - 2)] for name, v in draws.items()}
    data = xarray.Dataset({n: (["chain", "draw", *axes[n]], v) for n, v in draws.items()})
    r_hats, sizes = az.rhat(data), az.ess(data)
    return max(float(r_hats[n].max()) for n in draws), min(float(sizes[n].min()) for n in draws)


def key_of(seed: int, *names: str) -> jax.Array:
    """A key for each seed and combination of names."""
    return random.key(seed + zlib.crc32("/".join(names).encode()))


@cache
def loo_studies() -> dict[str, Study]:
    """The models on which PSIS-LOO is compared, by name."""
    hierarchical = {"AutoHierarchicalNormal": Effort(2_000, 0.003)}
    quickly, slowly = (
        {"AutoMultivariateNormal": Effort(*effort)} for effort in ((4_000, 0.03), (5_000, 0.01))
    )
    return {
        "schools": Study("eight schools, non-centred", schools_model, quickly | hierarchical),
        "radon": Study("radon in 40 counties, simulated", radon_model, slowly | hierarchical),
        "tumours": Study("logistic regression of tumours", tumours_model, quickly),
    }


@cache
def start_studies() -> dict[str, Study]:
    """The models on which warm starts of NUTS are timed, by name, all non-centred."""
    guides = {
        "AutoNormal": Effort(1_000, 0.03),
        "AutoMultivariateNormal": Effort(1_500, 0.02),
    }
    # The first is for quick runs, whose time is that of compilation.
    found = {"schools": Study("eight schools", schools_model, {"AutoNormal": guides["AutoNormal"]})}
    for problem in (PROBLEMS["logistic"](), volatility(DAYS)):
        assert problem.chains is not None
        found[problem.name] = Study(problem.title, problem.chains.model, guides, problem.args)
    return found
