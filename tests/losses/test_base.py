"""What holds for every loss of importance weights that stands on its own, not in ReverseKL."""

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import scale, seed
from numpyro.infer import SVI, autoguide

from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO
from tests.helpers.models import (
    AUXILIARY,
    linear_gaussian_problem,
    log_evidence,
    plated_problem,
    posterior,
)

PLAIN_LOSSES = {"iwelbo": IWELBO(3), "sumo": SUMO(3), "multilevel": MultilevelSUMO(2)}
#: Whole plates share a stopping time, which would be warned of.
SHARED_TIMES = {
    "iwelbo": IWELBO(3),
    "sumo": SUMO(3, share_stopping_times=True),
    "multilevel": MultilevelSUMO(2, share_stopping_times=True),
}
AUTOGUIDES = {
    "auto_normal": (autoguide.AutoNormal, ("z_auto_loc", "z_auto_scale"), lambda sd: sd),
    "auto_multivariate_normal": (
        autoguide.AutoMultivariateNormal,
        ("auto_loc", "auto_scale_tril"),
        jnp.diag,
    ),
}


@pytest.mark.parametrize(
    "autoguide_class, names, shape_scale", AUTOGUIDES.values(), ids=AUTOGUIDES.keys()
)
def test_autoguide_at_the_posterior_gives_minus_log_evidence_for_every_key(
    autoguide_class, names, shape_scale
):
    """A guide that does not factorise over the plate has one weight for all of the data."""
    problem = plated_problem(4)
    guide = autoguide_class(problem.model)
    mean, sd = posterior(problem.args[0])
    guide_params = dict(zip(names, (mean, shape_scale(jnp.full(4, sd)))))
    params = {"loc": problem.params["loc"], "log_noise": problem.params["log_noise"]}
    jax.eval_shape(lambda key: seed(guide, key)(*problem.args), random.key(0))
    evaluate = lambda key: SHARED_TIMES["sumo"].loss(
        key, {**params, **guide_params}, problem.model, guide, *problem.args
    )
    values = jax.jit(jax.vmap(evaluate))(random.split(random.key(7), 30))
    np.testing.assert_allclose(values, problem.exact_loss, rtol=1e-5, atol=2e-3)


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
def test_subsampling_scale_multiplies_finished_estimates(loss):
    """With the posterior as guide each estimate is the evidence of the data in one subsample."""
    problem = plated_problem(4)
    evaluate = lambda key: loss.loss(
        key, problem.exact_params, problem.model, problem.guide, *problem.args, 2
    )
    values = jax.jit(jax.vmap(evaluate))(random.split(random.key(8), 60))
    evidences = np.asarray(log_evidence(problem.args[0]))
    possible = [-2.0 * (evidences[i] + evidences[j]) for i in range(4) for j in range(i)]
    distances = np.abs(np.asarray(values)[:, None] - possible)
    assert np.all(distances.min(axis=1) < 5e-3)
    assert len(set(distances.argmin(axis=1))) == len(possible)


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
def test_model_without_observations_has_the_log_normaliser_of_its_factors(loss):
    def model():
        z = numpyro.sample("z", dist.Normal())
        numpyro.factor("tilt", 0.7 * z + 1.2)

    def exact_guide():
        numpyro.sample("z", dist.Normal(0.7, 1.0))

    evaluate = lambda key: loss.loss(key, {}, model, exact_guide)
    values = jax.jit(jax.vmap(evaluate))(random.split(random.key(9), 20))
    np.testing.assert_allclose(values, -(1.2 + 0.5 * 0.7**2), atol=1e-3)


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
def test_scale_of_model_and_guide_multiplies_the_finished_estimate(loss):
    problem = linear_gaussian_problem(2)
    tripled = [scale(program, scale=3.0) for program in (problem.model, problem.guide)]
    evaluate = lambda programs: jax.jit(
        lambda key: loss.loss(key, problem.params, *programs, *problem.args)
    )(random.key(3))
    expected = 3.0 * float(evaluate([problem.model, problem.guide]))
    assert float(evaluate(tripled)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
def test_derivative_in_a_scale_is_the_estimate_it_multiplies(loss):
    problem = linear_gaussian_problem(2)

    def value(beta):
        model, guide = (scaled_by_argument(p) for p in (problem.model, problem.guide))
        return loss.loss(random.key(3), problem.params, model, guide, *problem.args, beta)

    at_three, slope = jax.jit(jax.value_and_grad(value))(3.0)
    assert float(slope) == pytest.approx(float(at_three) / 3.0, rel=1e-4)


def scaled_by_argument(program):
    return lambda x, beta: scale(program, scale=beta)(x)


@pytest.mark.parametrize("loss", SHARED_TIMES.values(), ids=SHARED_TIMES.keys())
def test_scale_of_each_datum_multiplies_its_estimate(loss):
    """With the posterior as guide the estimate is the evidence, each datum's times its weight."""
    problem = plated_problem(4)
    weights = jnp.array([1.0, 0.5, 2.0, 0.0])

    def evaluate(params, key, weights):
        weighted = [scale(program, scale=weights) for program in (problem.model, problem.guide)]
        return loss.loss(key, params, *weighted, *problem.args)

    value, gradient = jax.jit(jax.value_and_grad(evaluate))(
        problem.exact_params, random.key(4), weights
    )
    expected = -jnp.sum(weights * log_evidence(problem.args[0]))
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert all(np.isfinite(leaf) for leaf in gradient.values())


def normal_model():
    z = numpyro.sample("z", dist.Normal())
    numpyro.sample("x", dist.Normal(z, 1.0), obs=1.0)


def normal_guide():
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))


def guide_with_a_site_too_many():
    normal_guide()
    numpyro.sample("surplus", dist.Normal())


def guide_with_an_auxiliary_site():
    """Its density is an integral over u, which log q(z, u) alone does not give."""
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("z", dist.Normal(u, 1.0))


def model_with_another_site():
    numpyro.sample("w", dist.Normal())
    normal_model()


def discrete_model():
    numpyro.sample("z", dist.Normal(numpyro.sample("c", dist.Bernoulli(0.5)), 1.0))


def discrete_guide():
    numpyro.sample("c", dist.Bernoulli(0.5))
    normal_guide()


def circular_model():
    numpyro.sample("z", dist.VonMises(0.0, 1.0))


def guide_not_reparameterised():
    numpyro.sample("z", dist.VonMises(numpyro.param("loc", 0.0), 1.0))


def model_with_a_subsampled_likelihood():
    z = numpyro.sample("z", dist.Normal())
    with numpyro.plate("data", 10, subsample_size=4):
        numpyro.sample("x", dist.Normal(z, 1.0), obs=jnp.ones(4))


BAD_PROGRAMS = {
    "guide_lacks_a_latent": (
        model_with_another_site,
        normal_guide,
        r"every latent site of the model; it lacks \['w'\]. Add",
    ),
    "model_lacks_a_guide_site": (
        normal_model,
        guide_with_a_site_too_many,
        r"guide sites to be latent sites of the model; it also has \['surplus'\]. Remove",
    ),
    "discrete_latent": (
        discrete_model,
        discrete_guide,
        "continuous latent sites; model site 'c' is discrete. Sum it out",
    ),
    "guide_with_an_auxiliary_site": (
        normal_model,
        guide_with_an_auxiliary_site,
        r"guide whose density is known; it has auxiliary sites \['u'\] .*Use ReverseKL",
    ),
    "guide_not_reparameterised": (
        circular_model,
        guide_not_reparameterised,
        "reparameterised guide sites; 'z' is VonMises, .* Choose",
    ),
    "subsampled_plate_within": (
        model_with_a_subsampled_likelihood,
        normal_guide,
        "subsampled plate 'data' to enclose every sample site .* it does not. Move",
    ),
}


@pytest.mark.filterwarnings("ignore:Currently, SVI with .* discrete latent variables")
@pytest.mark.parametrize("loss", PLAIN_LOSSES.values(), ids=PLAIN_LOSSES.keys())
@pytest.mark.parametrize("model, guide, message", BAD_PROGRAMS.values(), ids=BAD_PROGRAMS.keys())
def test_programs_that_cannot_be_weighted_are_refused_in_one_line(model, guide, message, loss):
    svi = SVI(model, guide, optax.sgd(0.1), loss=loss)
    with pytest.raises(ValueError, match=message) as error:
        svi.run(random.key(0), 2, progress_bar=False)
    assert str(error.value).startswith("Expected ")
    assert "\n" not in str(error.value)


MATCHING_ONLY = {
    "iwhvi": IWHVI(4),
    "sumo_from_above": SUMO(4, from_above=True),
    "multilevel_from_above": MultilevelSUMO(4, from_above=True),
    "iwelbo_forward_kl": IWELBO(4, guide_objective="forward_kl"),
    "sumo_forward_kl": SUMO(4, guide_objective="forward_kl"),
}


@pytest.mark.parametrize("loss", MATCHING_ONLY.values(), ids=MATCHING_ONLY.keys())
def test_what_needs_the_generating_draw_is_refused_outside_reverse_kl(loss):
    svi = SVI(normal_model, normal_guide, optax.sgd(0.1), loss=loss)
    with pytest.raises(ValueError, match="inside ReverseKL.* Write ReverseKL") as error:
        svi.run(random.key(0), 2, progress_bar=False)
    assert repr(loss) in str(error.value)
    assert "\n" not in str(error.value)
