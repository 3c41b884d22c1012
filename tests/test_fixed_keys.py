"""Values and gradients at fixed keys stay what they were when they were recorded.

``python -m tests.test_fixed_keys`` records them anew. They are computed in double precision, so
that only a change of the draws or of the mathematics can move them, and not the order of sums.
"""

from collections.abc import Callable
from functools import partial
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, autoguide

from numpyro_sumo import (
    IWELBO,
    IWHVI,
    SUMO,
    IndependenceMetropolis,
    MultilevelSUMO,
    ReverseKL,
    certify,
    kl_divergence,
    kl_sandwich,
    log_evidence,
    log_marginal,
)
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail
from tests.helpers.models import (
    hierarchical_guide,
    linear_gaussian_problem,
    matching_problem,
    plated_problem,
    target,
)

RECORD = Path(__file__).parent / "data" / "fixed_keys.json"

#: Elements of each array that are recorded.
MOST_ELEMENTS = 4


def scalar_model(x):
    """One positive and one real latent, and an observation of each."""
    scale = numpyro.sample("scale", dist.Gamma(3.0, 2.0))
    loc = numpyro.sample("loc", dist.Normal(0.0, numpyro.param("prior_scale", 1.5)))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(loc, scale), obs=x)


SCALAR_DATA = jnp.array([0.3, -1.2, 0.8, 2.0])


def gradients(loss, model, guide, params, *args, key=7, **kwargs):
    """Value and gradient of a loss, in parameters and in the first argument."""
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), params)
    args = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), args)
    at = lambda params, args: loss.loss(random.key(key), params, model, guide, *args, **kwargs)
    value, (of_params, of_args) = jax.jit(jax.value_and_grad(at, argnums=(0, 1)))(params, args)
    return {"value": value, "params": of_params, "args": of_args}


def of_problem(loss, problem, **kwargs):
    return gradients(loss, problem.model, problem.guide, problem.params, *problem.args, **kwargs)


def of_autoguide(loss, make_guide):
    guide = make_guide(scalar_model)
    svi = numpyro.infer.SVI(scalar_model, guide, numpyro.optim.Adam(1e-3), loss)
    data = jnp.asarray(SCALAR_DATA, float)
    params = svi.get_params(svi.init(random.key(3), data))
    return gradients(loss, scalar_model, guide, params, data)


def judged(function, *arguments, fields, **options):
    params = {n: jnp.asarray(v, float) for n, v in matching_problem().params.items()}
    result = function(random.key(5), *arguments[:2], params, **options)
    return {field: getattr(result, field) for field in fields}


def chain(**options):
    params = {n: jnp.asarray(v, float) for n, v in matching_problem().params.items()}
    kernel = IndependenceMetropolis(target, hierarchical_guide, params, **options)
    mcmc = MCMC(
        kernel,
        num_warmup=5,
        num_samples=20,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(2))
    draws = mcmc.get_samples()["x"]
    return {"mean": draws.mean(), "last": draws[-1]}


def marginal_at_points():
    params = {n: jnp.asarray(v, float) for n, v in matching_problem().params.items()}
    points = {"x": jnp.linspace(-2.0, 2.0, 3)}
    return log_marginal(random.key(1), hierarchical_guide, params, points, num_particles=20)


def divergence(q, p):
    return list(kl_divergence(random.key(0), q, p, 500))


def evidence(estimator):
    problem = plated_problem(3)
    params = {n: jnp.asarray(v, float) for n, v in problem.params.items()}
    result = log_evidence(
        random.key(4),
        problem.model,
        problem.guide,
        params,
        *problem.args,
        estimator=estimator,
        num_estimates=50,
        progress_bar=False,
    )
    return [result.mean, result.standard_error, result.pareto_k, result.per_datum.mean]


SHORT = ReciprocalTail(knee=6, decay=0.5)
SHARED = {"share_stopping_times": True}

CASES: dict[str, Callable[[], Any]] = {
    "iwelbo": lambda: of_problem(IWELBO(4), linear_gaussian_problem(2)),
    "iwelbo_standard": lambda: of_problem(IWELBO(3, gradient="standard"), plated_problem(3)),
    "iwelbo_data_axes": lambda: of_problem(IWELBO(3, data_axes=0), plated_problem(3)),
    "iwelbo_chunks": lambda: of_problem(IWELBO(7, chunk_size=3), plated_problem(3)),
    "sumo": lambda: of_problem(SUMO(4), linear_gaussian_problem(2)),
    "sumo_one_stopping_time": lambda: of_problem(SUMO(4, **SHARED), plated_problem(3)),
    "sumo_data_axes": lambda: of_problem(SUMO(3, data_axes=0), plated_problem(5)),
    "sumo_standard": lambda: of_problem(
        SUMO(2, data_axes=0, gradient="standard"), plated_problem(4)
    ),
    "sumo_subsampled": lambda: of_problem(SUMO(2), plated_problem(6), subsample_size=3),
    "sumo_subsampled_shared": lambda: of_problem(
        SUMO(2, **SHARED), plated_problem(6), subsample_size=3
    ),
    "sumo_rotations": lambda: of_problem(
        SUMO(2, rotations=3, stopping_time=SHORT, data_axes=0), plated_problem(4)
    ),
    "sumo_variance": lambda: of_problem(
        SUMO(2, guide_objective="variance", data_axes=0), plated_problem(3)
    ),
    "sumo_chunks": lambda: of_problem(SUMO(3, data_axes=0, chunk_size=4), plated_problem(5)),
    "multilevel": lambda: of_problem(MultilevelSUMO(2), linear_gaussian_problem(2)),
    "multilevel_data_axes": lambda: of_problem(MultilevelSUMO(2, data_axes=0), plated_problem(4)),
    "multilevel_variance": lambda: of_problem(
        MultilevelSUMO(2, guide_objective="variance", data_axes=0), plated_problem(3)
    ),
    "multilevel_subsampled": lambda: of_problem(
        MultilevelSUMO(1, stopping_time=GeometricTail(0.6, max_level=4)),
        plated_problem(6),
        subsample_size=3,
    ),
    "auto_normal": lambda: of_autoguide(SUMO(3, **SHARED), autoguide.AutoNormal),
    "auto_multivariate_normal": lambda: of_autoguide(
        MultilevelSUMO(2), autoguide.AutoMultivariateNormal
    ),
    "auto_iaf": lambda: of_autoguide(
        IWELBO(3), partial(autoguide.AutoIAFNormal, num_flows=1, hidden_dims=[4])
    ),
    "reverse_kl_iwelbo": lambda: of_problem(
        ReverseKL(IWELBO(3), num_particles=4), matching_problem()
    ),
    "reverse_kl_iwelbo_dreg": lambda: of_problem(
        ReverseKL(IWELBO(3, guide_objective="iwelbo"), num_particles=4), matching_problem()
    ),
    "reverse_kl_iwhvi": lambda: of_problem(
        ReverseKL(IWHVI(3), num_particles=4), matching_problem()
    ),
    "reverse_kl_iwhvi_standard": lambda: of_problem(
        ReverseKL(IWHVI(3), num_particles=4, gradient="standard"), matching_problem()
    ),
    "reverse_kl_sumo": lambda: of_problem(ReverseKL(SUMO(3), num_particles=4), matching_problem()),
    "reverse_kl_sumo_standard": lambda: of_problem(
        ReverseKL(SUMO(2), num_particles=3, gradient="standard"), matching_problem()
    ),
    "reverse_kl_sumo_from_above": lambda: of_problem(
        ReverseKL(SUMO(3, from_above=True), num_particles=4), matching_problem()
    ),
    "reverse_kl_sumo_variance": lambda: of_problem(
        ReverseKL(SUMO(2, guide_objective="variance"), num_particles=3), matching_problem()
    ),
    "reverse_kl_multilevel_from_above": lambda: of_problem(
        ReverseKL(MultilevelSUMO(3, from_above=True), num_particles=4), matching_problem()
    ),
    "reverse_kl_multilevel_iwelbo": lambda: of_problem(
        ReverseKL(MultilevelSUMO(2, guide_objective="iwelbo"), num_particles=3), matching_problem()
    ),
    "certificate": lambda: judged(
        certify,
        target,
        hierarchical_guide,
        fields=["elbo_lower", "elbo_upper", "log_evidence", "kl_upper", "pareto_k", "ess"],
        num_samples=200,
        num_particles=8,
    ),
    "kl_sandwich": lambda: judged(
        kl_sandwich,
        target,
        hierarchical_guide,
        fields=["lower", "lower_se", "upper", "upper_se"],
        num_samples=100,
        num_particles=8,
    ),
    "log_marginal": marginal_at_points,
    "kl_divergence": lambda: divergence(dist.Normal(0.3, 0.8), dist.StudentT(5.0)),
    "log_evidence_multilevel": lambda: evidence(MultilevelSUMO(2, data_axes=0)),
    "log_evidence_sumo": lambda: evidence(SUMO(2, data_axes=0)),
    "metropolis": lambda: chain(num_particles=4),
    "metropolis_and_nuts": lambda: chain(num_particles=4, alternate=NUTS(target)),
}


def numbers(name: str) -> dict[str, float]:
    """The numbers of a case by where they stand in its result."""
    with jax.enable_x64(True):
        leaves, _ = jax.tree_util.tree_flatten_with_path(CASES[name]())
        found = {}
        for path, leaf in leaves:
            values = np.ravel(np.asarray(leaf, np.float64))[:MOST_ELEMENTS]
            found |= {f"{jax.tree_util.keystr(path)}#{i}": float(v) for i, v in enumerate(values)}
    return found


@pytest.mark.parametrize("name", CASES)
def test_numbers_at_a_fixed_key_are_those_recorded(name):
    recorded = json.loads(RECORD.read_text())[name]
    found = numbers(name)
    assert found.keys() == recorded.keys()
    for place, value in recorded.items():
        np.testing.assert_allclose(found[place], value, rtol=1e-5, atol=1e-9, err_msg=place)


def test_at_least_two_hundred_numbers_are_recorded():
    recorded = json.loads(RECORD.read_text())
    assert recorded.keys() == CASES.keys()
    assert sum(map(len, recorded.values())) >= 200


if __name__ == "__main__":
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps({name: numbers(name) for name in CASES}, indent=1) + "\n")
