"""Train, warm up, draw from and time the samplers of the posterior benchmark."""

from collections.abc import Callable
from typing import Any, NamedTuple
import warnings

import numpy as np
import optax

import jax
import jax.numpy as jnp

from numpyro.handlers import scale
from numpyro.infer import MCMC, NUTS, SVI

from benchmarks.common.stopwatch import Stopwatch
from benchmarks.common.training import TrainingRun, train
from benchmarks.posterior.problems import Draws, Problem
from benchmarks.posterior.reference import NUM_CHAINS, in_chains
from numpyro_sumo import IWHVI, IndependenceMetropolis, ReverseKL, certify
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal

TITLES = {
    "reference": "reference",
    "raw": "learned, raw",
    "resampled": "learned, resampled",
    "metropolis": "learned, Metropolis",
    "nuts": "NUTS",
}

#: The share of steps after which a tempered target reaches its own density.
_TEMPERED = 0.7


class Samples(NamedTuple):
    """Draws of one sampler, and their cost.

    :param draws: arrays of shape ``(chain, draw)`` by quantity.
    :param seconds: time of the draws.
    :param seconds_to_train: time of training or warm-up; None without either.
    :param ess: the effective sample size, where it does not come from autocorrelations.
    """

    draws: Draws
    seconds: float
    seconds_to_train: float | None = None
    ess: float | None = None
    diverging: np.ndarray | None = None


def new_guide(problem: Problem) -> AutoHierarchicalNormal:
    """An untrained guide of the problem; its model takes the keyword argument ``power``."""
    return AutoHierarchicalNormal(tempered(problem.model), **problem.effort.guide)


def tempered(model: Callable) -> Callable:
    """The model with its density raised to the power given by the keyword ``power``."""

    def program(*args, power=1.0):
        with scale(scale=power):
            return model(*args)

    return program


def train_learned(
    problem: Problem, guide: AutoHierarchicalNormal, rng_key: jax.Array, most_steps: int | None
) -> tuple[TrainingRun, Stopwatch]:
    """Train the guide of a problem; also measure its time without compilation."""
    effort = problem.effort
    steps = effort.steps if most_steps is None else min(most_steps, effort.steps)
    adam = optax.adam(
        optax.cosine_decay_schedule(effort.learning_rate, steps), b2=effort.second_moment_decay
    )
    clipped = optax.chain(optax.clip_by_global_norm(effort.max_gradient_norm), adam)
    optimiser = optax.apply_if_finite(clipped, max_consecutive_errors=10)
    num_x, num_u = effort.particles
    svi = SVI(guide.model, guide, optimiser, ReverseKL(IWHVI(num_u), num_particles=num_x))

    def schedule(step):
        return {"power": power_at(step, effort.inverse_temperature, steps)}

    with Stopwatch() as watch:
        run = train(
            svi,
            rng_key,
            steps,
            *problem.args,
            name=problem.title,
            snapshot_steps=[],
            schedule=schedule,
        )
    return run, watch


def power_at(step: jax.Array | int, first: float, num_steps: int) -> jax.Array:
    """The power of the target's density at a step: rises geometrically from ``first`` to one.

    >>> from benchmarks.posterior.samplers import power_at
    >>> [round(float(power_at(step, 0.01, 1_000)), 3) for step in (0, 350, 700, 1_000)]
    [0.01, 0.1, 1.0, 1.0]
    """
    return first ** jnp.maximum(0.0, 1.0 - step / (_TEMPERED * num_steps))


class Learned(NamedTuple):
    """A trained guide of a problem."""

    problem: Problem
    guide: AutoHierarchicalNormal
    params: dict[str, Any]
    seconds_to_train: float

    def raw(self, rng_key: jax.Array, num_draws: int) -> Samples:
        """Draws from the guide."""

        @jax.jit
        def draw(key):
            return self.guide.sample_posterior(
                key, self.params, *self.problem.args, sample_shape=(num_draws,)
            )

        with Stopwatch() as watch:
            sites = jax.block_until_ready(draw(rng_key))
        draws = in_chains(self.problem, sites)
        return Samples(draws, watch.seconds, self.seconds_to_train, ess=float(num_draws))

    def resampled(
        self, rng_key: jax.Array, num_samples: int, num_particles: int
    ) -> tuple[dict[str, float], Samples]:
        """The certificate as plain values, and its draws resampled by importance weights."""
        with warnings.catch_warnings(), Stopwatch() as watch:
            warnings.simplefilter("ignore", UserWarning)  # the report shows k-hat
            certificate = certify(
                rng_key,
                self.problem.model,
                self.guide,
                self.params,
                *self.problem.args,
                num_samples=num_samples,
                num_particles=num_particles,
            )
        draws = in_chains(self.problem, certificate.resampled)
        seconds = watch.seconds, self.seconds_to_train
        return certificate.figures, Samples(draws, *seconds, ess=certificate.ess)

    def metropolis(
        self, rng_key: jax.Array, num_warmup: int, num_draws: int, by_step: bool = False
    ) -> tuple[float, Samples]:
        """The mean acceptance probability, and chains that propose from the guide.

        :param num_warmup: of NUTS, where it alternates; its time counts as time of the draws.
        """
        model = self.problem.model
        alternate = NUTS(model) if self.problem.effort.alternated else None
        kernel = IndependenceMetropolis(model, self.guide, self.params, alternate=alternate)
        mcmc = _chains(kernel, 0 if alternate is None else num_warmup, num_draws, by_step)
        with warnings.catch_warnings(), Stopwatch() as watch:
            warnings.simplefilter("ignore", UserWarning)  # the report shows the acceptance
            mcmc.run(rng_key, *self.problem.args, extra_fields=("accept_prob", "diverging"))
            jax.block_until_ready(mcmc.last_state)
        acceptance = float(mcmc.get_extra_fields()["accept_prob"].mean())
        return acceptance, _samples(self.problem, mcmc, watch.seconds, self.seconds_to_train)


def draw_nuts(
    problem: Problem, rng_key: jax.Array, num_warmup: int, num_draws: int, by_step: bool = False
) -> Samples:
    """NUTS on the model in its usual form, with NumPyro's defaults."""
    mcmc = _chains(NUTS(problem.model), num_warmup, num_draws, by_step)
    with Stopwatch() as warmup:
        mcmc.warmup(rng_key, *problem.args, extra_fields=("diverging",))
        jax.block_until_ready(mcmc.last_state)
    with Stopwatch() as watch:
        key = mcmc.post_warmup_state.rng_key
        mcmc.run(key, *problem.args, extra_fields=("diverging",))
        jax.block_until_ready(mcmc.last_state)
    return _samples(problem, mcmc, watch.seconds, warmup.seconds)


def _chains(kernel: Any, num_warmup: int, num_draws: int, by_step: bool) -> MCMC:
    """Four chains; with ``by_step`` slower, but compiled once for warm-up and draws."""
    return MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_draws,
        num_chains=NUM_CHAINS,
        chain_method="vectorized",
        progress_bar=by_step,
    )


def _samples(problem: Problem, mcmc: MCMC, seconds: float, seconds_to_train: float) -> Samples:
    draws = problem.quantities(mcmc.get_samples(group_by_chain=True))
    diverging = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["diverging"])
    return Samples(draws, seconds, seconds_to_train, diverging=diverging)
