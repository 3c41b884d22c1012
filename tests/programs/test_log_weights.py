"""Log-weights: their value, the plates that keep them apart, and what cannot be weighted."""

import numpy as np
import pytest
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, scale, seed, trace
from numpyro.infer import autoguide

from numpyro_sumo.programs.programs import Programs, with_fixed_subsample
from numpyro_sumo.programs.sites import JOINT
from numpyro_sumo.programs.traced_guide import propose
from numpyro_sumo.programs.traced_model import log_weight
from numpyro_sumo.programs.validation import inspect_programs
from tests.helpers.models import (
    LOC,
    NOISE,
    linear_gaussian_problem,
    log_evidence,
    plated,
    plated_posterior,
    plated_problem,
    posterior,
)

X = jnp.linspace(-1.0, 2.0, 8)


def nested(outer_size=3, inner_size=2, inner_latent=True):
    """A latent for every row of a table and, if asked, one for every cell."""
    rows = numpyro.plate("rows", outer_size, dim=-2)
    columns = numpyro.plate("columns", inner_size, dim=-1)
    with rows:
        if inner_latent:
            with columns:
                loc = numpyro.sample("cell", dist.Normal())
        else:
            loc = numpyro.sample("row", dist.Normal())
        with columns:
            numpyro.sample("x", dist.Normal(loc, 1.0), obs=jnp.zeros((outer_size, inner_size)))


def nested_guide(outer_size=3, inner_size=2, inner_latent=True):
    with numpyro.plate("rows", outer_size, dim=-2):
        if inner_latent:
            with numpyro.plate("columns", inner_size, dim=-1):
                numpyro.sample("cell", dist.Normal())
        else:
            numpyro.sample("row", dist.Normal())


def global_latent(x, subsample_size=None):
    loc = numpyro.sample("loc", dist.Normal())
    with numpyro.plate("data", len(x), subsample_size=subsample_size):
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=numpyro.subsample(x, event_dim=0))


def global_guide(x, subsample_size=None):
    numpyro.sample("loc", dist.Normal())


def factor_alone():
    numpyro.factor("log_normaliser", jnp.array(1.5))


def unplated_guide(x):
    """One site for all of the data: it cannot be told apart by datum."""
    numpyro.sample("z", dist.Normal(0.0, 1.0).expand(x.shape))


STRUCTURES = {
    "no_plate": (linear_gaussian_problem(3).model, linear_gaussian_problem(3).guide, (X,), (), 1.0),
    "plate": (plated, plated_posterior, (X,), {-1}, 1.0),
    "subsampled_plate": (plated, plated_posterior, (X, 3), {-1}, 8 / 3),
    "two_plates": (nested, nested_guide, (), {-2, -1}, 1.0),
    "outer_of_two_plates": (nested, nested_guide, (3, 2, False), {-2}, 1.0),
    "global_latent": (global_latent, global_guide, (X,), (), 1.0),
    "guide_outside_the_plate": (plated, unplated_guide, (X,), (), 1.0),
    "auto_normal": (plated, autoguide.AutoNormal(plated), (X,), {-1}, 1.0),
    "auto_multivariate_normal": (plated, autoguide.AutoMultivariateNormal(plated), (X,), (), 1.0),
    "no_latent": (factor_alone, lambda: None, (), (), 1.0),
    "nothing": (lambda: None, lambda: None, (), (), 1.0),
}


@pytest.mark.parametrize(
    "model, guide, args, expected, expected_scale", STRUCTURES.values(), ids=STRUCTURES.keys()
)
def test_weights_are_kept_apart_over_plates_that_enclose_all_sites(
    model, guide, args, expected, expected_scale
):
    with seed(rng_seed=0):
        params = {
            name: site["value"]
            for name, site in trace(guide).get_trace(*args).items()
            if site["type"] == "param"
        }
    programs = Programs(seed(model, 1), seed(guide, 1), params, args)
    data_dims = data_dims_of(programs)
    assert data_dims == frozenset(expected)

    plate_size = args[1] if expected_scale > 1 else 8
    shapes = {-2: 3, -1: 2} if model is nested else {-1: plate_size}
    expected_shape = tuple(shapes[dim] for dim in sorted(expected))
    proposal = propose(random.key(0), programs, data_dims)
    weight = log_weight(random.key(0), programs, proposal, data_dims)
    assert weight.shape == expected_shape
    np.testing.assert_allclose(proposal.scale, expected_scale, rtol=1e-6)


def data_dims_of(programs):
    return inspect_programs(lambda datum, split: programs).data_dims


def programs_of(problem, params=None):
    params = problem.params if params is None else params
    return Programs(problem.model, problem.guide, params, problem.args)


def weight_of(programs, key, data_dims=JOINT):
    return log_weight(key, programs, propose(key, programs, data_dims), data_dims)


def test_exact_posterior_weighs_every_draw_by_the_evidence():
    problem = linear_gaussian_problem(5)
    keys = random.split(random.key(0), 50)
    programs = programs_of(problem, problem.exact_params)
    weights = jax.jit(jax.vmap(lambda key: weight_of(programs, key)))(keys)
    np.testing.assert_allclose(weights, -problem.exact_loss, atol=1e-5)


def test_log_weight_is_log_joint_less_log_guide_at_the_draw():
    problem = linear_gaussian_problem(3)
    programs = programs_of(problem)
    proposal = propose(random.key(4), programs)
    weight, z = log_weight(random.key(4), programs, proposal), proposal.values["z"]
    x = np.asarray(problem.args[0])
    mean, sd = posterior(x)
    expected = (
        norm.logpdf(z, LOC, 1.0)
        + norm.logpdf(x, z, NOISE)
        - norm.logpdf(z, mean + 0.2 * sd, sd * np.exp(0.05))
    )
    assert float(weight) == pytest.approx(expected.sum(), abs=1e-4)


def test_subsampling_scale_is_taken_out_of_the_weights():
    """With the posterior as guide each weight is the evidence of one datum."""
    problem = plated_problem(8)
    key = random.key(5)
    programs = Programs(
        with_fixed_subsample(key, lambda x: problem.model(x, 3)),
        with_fixed_subsample(key, lambda x: problem.guide(x, 3)),
        problem.exact_params,
        problem.args,
    )
    weights = weight_of(programs, key, data_dims_of(programs))
    evidences = np.asarray(log_evidence(problem.args[0]))
    distances = np.abs(np.asarray(weights)[:, None] - evidences)
    assert weights.shape == (3,)
    np.testing.assert_allclose(distances.min(axis=1), 0.0, atol=1e-5)
    assert len(set(distances.argmin(axis=1))) == 3


def test_subsample_is_shared_by_model_and_guide_and_by_all_particles():
    def indices(program, particle):
        with seed(rng_seed=particle), trace() as sites:
            with_fixed_subsample(random.key(7), program)(X, 3)
        return sites["data"]["value"]

    first = indices(plated, 0)
    assert len(set(np.asarray(first).tolist())) == 3
    for program, particle in ((plated, 1), (plated_posterior, 2)):
        np.testing.assert_array_equal(indices(program, particle), first)


def annealed_model(beta):
    """Scaled as the divergence from the prior is in a β-ELBO, and so is its guide."""
    with scale(scale=beta):
        z = numpyro.sample("z", dist.Normal(LOC, 1.0).expand([8]).to_event(1))
    numpyro.sample("x", dist.Normal(z, NOISE).to_event(1), obs=X)


def annealed_guide(beta):
    with scale(scale=beta):
        numpyro.sample("z", dist.Normal(X, 0.7).to_event(1))


@pytest.mark.parametrize("traced", [False, True])
def test_weight_is_relative_to_the_scale_of_the_guide(traced):
    """β log E[p(z) p(x|z)^{1/β} / q(z)], which is the β-ELBO where there is one draw."""

    def weigh(beta):
        programs = Programs(annealed_model, annealed_guide, args=(beta,))
        proposal = propose(random.key(3), programs)
        weight = log_weight(random.key(4), programs, proposal)
        return proposal.values["z"], weight, proposal.scale

    z, weight, common = (jax.jit(weigh) if traced else weigh)(0.25)
    expected = (
        dist.Normal(LOC, 1.0).log_prob(z)
        + dist.Normal(z, NOISE).log_prob(X) / 0.25
        - dist.Normal(X, 0.7).log_prob(z)
    ).sum()
    assert float(weight) == pytest.approx(float(expected), rel=1e-5)
    assert float(common) == 0.25


def guide_scaled_apart(first, second):
    with scale(scale=first):
        numpyro.sample("z", dist.Normal())
    with scale(scale=second):
        numpyro.sample("w", dist.Normal())


@pytest.mark.parametrize("second, expected", [(2.0, 2.0), (3.0, np.nan)])
def test_scales_that_are_traced_give_nan_where_they_differ(second, expected):
    def common(first, second):
        programs = Programs(lambda: None, lambda: guide_scaled_apart(first, second))
        return propose(random.key(0), programs).scale

    np.testing.assert_equal(float(jax.jit(common)(2.0, second)), expected)


def test_masked_sites_do_not_count():
    problem = plated_problem(4)
    observed = jnp.array([True, False, True, True])
    model, guide = (mask(p, mask=observed) for p in (problem.model, problem.guide))
    programs = Programs(model, guide, problem.exact_params, problem.args)
    weights = weight_of(programs, random.key(0), data_dims_of(programs))
    expected = np.where(observed, log_evidence(problem.args[0]), 0.0)
    np.testing.assert_allclose(weights, expected, atol=1e-5)


def test_shared_parameter_is_differentiated_apart_in_model_and_guide():
    def model():
        z = numpyro.sample("z", dist.Normal(numpyro.param("shared", 0.3), 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=1.5)

    def guide():
        numpyro.sample("z", dist.Normal(numpyro.param("shared", 0.3), 2.0))

    def weigh(model_params, guide_params):
        proposal = propose(random.key(1), Programs(model, guide, guide_params))
        return log_weight(random.key(1), Programs(model, guide, model_params), proposal)

    params = {"shared": jnp.array(0.3)}
    by_model, by_guide = jax.grad(weigh, argnums=(0, 1))(params, params)
    # In the model it moves log N(z; shared, 1) alone, whose derivative is z - shared ...
    z = 0.3 + float(by_model["shared"])
    # ... and in the guide it moves z, at the same density of the guide.
    assert float(by_guide["shared"]) == pytest.approx((0.3 - z) + (1.5 - z), abs=1e-5)
    assert abs(z - 0.3) > 0.1


def test_a_detached_proposal_has_the_same_weight_and_no_gradient_in_the_guide():
    def model():
        numpyro.sample("z", dist.Normal(1.0, 1.0))

    def guide():
        numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.3), 2.0))

    def weigh(params, detached):
        proposal = propose(random.key(1), Programs(model, guide, params))
        proposal = jax.lax.stop_gradient(proposal) if detached else proposal
        return log_weight(random.key(1), Programs(model, guide), proposal)

    params = {"loc": jnp.array(0.3)}
    (live, live_gradient), (detached, detached_gradient) = (
        jax.value_and_grad(weigh)(params, flag) for flag in (False, True)
    )
    assert live == detached
    assert live_gradient["loc"] != 0.0
    assert detached_gradient["loc"] == 0.0


def test_a_scale_that_varies_within_a_weight_is_refused():
    def program():
        with scale(scale=jnp.array([1.0, 2.0])):
            numpyro.sample("z", dist.Normal().expand([2]))

    with pytest.raises(ValueError, match=r"one scale for each weight; .* shape \(2,\)"):
        data_dims_of(Programs(program, program))
