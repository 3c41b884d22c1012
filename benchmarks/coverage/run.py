"""Fit simulated data sets by maximum likelihood, and compute their standard errors."""

from dataclasses import replace
from typing import Any

import numpy as np
from tqdm import tqdm

import jax
from jax import lax, random
import jax.numpy as jnp

from benchmarks.common.interrupts import raise_if_interrupted
from benchmarks.coverage.models import MODELS, MixedModel
from numpyro_sumo import MultilevelSUMO
from numpyro_sumo.diagnostics.derivatives import derivatives_of, estimate_derivatives
from numpyro_sumo.diagnostics.standard_errors import summarize
from numpyro_sumo.programs.model_params import ModelParams
from numpyro_sumo.programs.programs import Programs

ESTIMATOR = MultilevelSUMO(4, data_axes=0)
NUM_ESTIMATES = 40
LEVEL = 0.95
NUM_NEWTON_STEPS = 15


def cover(name: str, rng_key: jax.Array, num_sets: int) -> dict[str, Any]:
    """Coverage of the intervals over ``num_sets`` data sets of one model."""
    problem = MODELS[name]
    fit, derivatives, template = compiled(problem)
    groups = np.arange(problem.shape[0])
    found: dict[str, list] = {key: [] for key in ("exact_se", "newton_step", "errors")}
    for index in tqdm(range(num_sets), desc=problem.title, unit="data set"):
        data_key, draws_key = random.split(random.fold_in(rng_key, index))
        data = problem.simulate(data_key)
        free, exact_se, newton_step = fit(data)
        params = replace(template, unconstrained=free, values=problem.params(free))
        estimates = derivatives_of(*jax.device_get(derivatives(draws_key, free, data)))
        errors = [
            summarize(estimates, params, level=LEVEL, robust=robust, clusters=groups)
            for robust in (False, True)
        ]
        found["exact_se"].append(exact_se)
        found["newton_step"].append(newton_step)
        found["errors"].append(errors)
        raise_if_interrupted()
    return _cell(name, problem, template.names, found)


def compiled(problem: MixedModel) -> tuple[Any, Any, ModelParams]:
    """The fit and the derivatives of one data set, compiled once; and the params' names."""
    example = problem.simulate(random.key(0))
    truth = {name: jnp.asarray(value) for name, value in problem.truth.items()}
    moments = problem.posterior_moments(truth, example)
    programs = Programs(problem.model, problem.guide, truth, (*example, *moments))
    template = ModelParams.of(programs)

    @jax.jit
    def fit(data):
        log_likelihood = lambda free: problem.log_likelihood(problem.params(free), data).sum()
        free = maximize(log_likelihood, template.unconstrained)
        covariance = jnp.linalg.inv(-jax.hessian(log_likelihood)(free))
        jacobian = jax.jacfwd(template.vector)(free)
        se = jnp.sqrt(jnp.diag(jacobian @ covariance @ jacobian.T))
        return free, se, covariance @ jax.grad(log_likelihood)(free)

    @jax.jit
    def derivatives(rng_key, free, data):
        params = replace(template, unconstrained=free)
        values = params.at(jnp.zeros_like(free))
        args = *data, *problem.posterior_moments(values, data)
        programs = Programs(problem.model, problem.guide, values, args)
        return estimate_derivatives(
            rng_key, NUM_ESTIMATES, estimator=ESTIMATOR, programs=programs, params=params
        )

    return fit, derivatives, template


def maximize(function: Any, start: jax.Array) -> jax.Array:
    """The maximum, by Newton's method with steps of length one half at most."""

    def step(_, free):
        newton = -jnp.linalg.solve(jax.hessian(function)(free), jax.grad(function)(free))
        length = jnp.linalg.norm(newton)
        return free + newton * jnp.minimum(1.0, 0.5 / jnp.maximum(length, 1e-6))

    return lax.fori_loop(0, NUM_NEWTON_STEPS, step, start)


def _cell(name: str, problem: MixedModel, names: Any, found: dict[str, list]) -> dict[str, Any]:
    """The figures of one model, a list over the parameters each."""
    truth = np.concatenate([np.ravel(problem.truth[site]) for site in sorted(problem.truth)])
    plain, robust = ([pair[k] for pair in found["errors"]] for k in (0, 1))
    of = lambda errors, field: np.array([getattr(each, field) for each in errors])
    covered = lambda errors: (of(errors, "lower") <= truth) & (truth <= of(errors, "upper"))
    estimates, exact_se = of(plain, "estimate"), np.array(found["exact_se"], np.float64)
    ratio = of(plain, "se") / exact_se
    distances = np.abs(np.array(found["newton_step"]) / exact_se)
    return {
        "model": name,
        "names": list(names),
        "truth": truth.tolist(),
        "num_sets": len(plain),
        "coverage": covered(plain).mean(axis=0).tolist(),
        "coverage_sandwich": covered(robust).mean(axis=0).tolist(),
        "mean_estimate": estimates.mean(axis=0).tolist(),
        "sd_estimate": estimates.std(axis=0, ddof=1).tolist(),
        "mean_se": of(plain, "se").mean(axis=0).tolist(),
        "mean_se_sandwich": of(robust, "se_sandwich").mean(axis=0).tolist(),
        "se_ratio": ratio.mean(axis=0).tolist(),
        "se_ratio_sd": ratio.std(axis=0, ddof=1).tolist(),
        "mc_error": (of(plain, "mc_se") / exact_se).mean(axis=0).tolist(),
        "longest_newton_step": float(distances.max()),
    }
