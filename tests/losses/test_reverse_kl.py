"""Density matching: value and gradients of KL(q ‖ p) for a sampler whose marginal is known."""

from functools import cache

import numpy as np
import optax
import pytest

import jax
from jax import lax, random
from jax.lax import stop_gradient
import jax.numpy as jnp
from jax.scipy.special import logsumexp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI

from numpyro_sumo import IWELBO, IWHVI, SUMO, HierarchicalGuide, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import ReciprocalTail
from tests.helpers.models import (
    AUXILIARY,
    INEXACT_REVERSE,
    SAMPLER_PARAMS,
    exact_reverse,
    forward_kl_objective,
    hierarchical_guide,
    log_marginal,
    log_target,
    matching_problem,
    reverse,
    reverse_kl,
    sampler,
    target,
)
from tests.helpers.statistics import assert_mean, assert_same_mean, mean_and_se

MARGINALS = {
    "iwelbo": IWELBO(4),
    "iwhvi": IWHVI(4),
    "iwhvi_of_one": IWHVI(1),
    "sumo": SUMO(4),
    "sumo_from_above": SUMO(4, from_above=True),
    "multilevel": MultilevelSUMO(4),
    "multilevel_from_above": MultilevelSUMO(4, from_above=True),
}


def value_and_gradient(loss, model=target):
    """Maps a key and parameters to the loss and its gradient."""
    return lambda key, params: jax.value_and_grad(
        lambda params: loss.loss(key, params, model, hierarchical_guide)
    )(params)


def test_gradient_in_an_argument_does_not_depend_on_how_draws_are_cut_up():
    """Each argument counts once, in whatever views the log-weights have."""

    def shifted_sampler(shift):
        u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
        numpyro.sample("x", dist.Normal(u * numpyro.param("slope", 0.5) + shift, 0.7))

    def reverse(latents, shift):
        numpyro.sample("u", dist.Normal(latents["x"] * numpyro.param("back", 0.4) - shift, 0.9))

    def target(shift):
        numpyro.sample("x", dist.Normal(0.3, 1.0))

    guide = HierarchicalGuide(shifted_sampler, reverse)
    params = {"slope": jnp.array(0.5), "back": jnp.array(0.4)}

    def gradient(chunk_size):
        marginal = IWELBO(3, guide_objective="iwelbo", chunk_size=chunk_size)
        loss = ReverseKL(marginal, num_particles=4)
        of_shift = lambda shift: loss.loss(random.key(0), params, target, guide, shift)
        return float(jax.jit(jax.grad(of_shift))(0.2))

    assert gradient(4) == pytest.approx(gradient(None), rel=1e-4)


@pytest.mark.parametrize("name", [name for name in MARGINALS if name != "iwhvi_of_one"])
def test_exact_reverse_model_gives_the_mean_log_ratio_over_the_draws(name):
    seen = []

    def watched_target():
        with numpyro.handlers.trace() as sites:
            target()
        jax.debug.callback(lambda x: seen.append(float(x)), sites["x"]["value"])

    with jax.enable_x64(True):
        sampler_params = {name: jnp.asarray(value) for name, value in SAMPLER_PARAMS.items()}
        params = {**sampler_params, **exact_reverse(sampler_params)}
        loss = ReverseKL(MARGINALS[name], num_particles=12, gradient="standard")
        value = jax.jit(lambda key: loss.loss(key, params, watched_target, hierarchical_guide))(
            random.key(0)
        )
        jax.effects_barrier()
        x = jnp.array(seen)
        expected = jnp.mean(log_marginal(sampler_params, x) - log_target(x))
    assert len(set(seen)) == 12
    assert float(value) == pytest.approx(float(expected), abs=1e-6)


@cache
def compiled(name, gradient):
    """Maps (keys, params) to losses of 500 draws of x and, but for None, their gradients."""
    loss = ReverseKL(MARGINALS[name], num_particles=500, gradient=gradient or "standard")
    if gradient is None:
        at_key = lambda key, params: (loss.loss(key, params, target, hierarchical_guide), None)
    else:
        at_key = value_and_gradient(loss)
    return jax.jit(lambda keys, params: lax.map(lambda key: at_key(key, params), keys))


@cache
def replicates(name, gradient=None, at_optimum=False):
    """Losses and gradients at 60 keys, where the reverse model is not exact."""
    problem = matching_problem()
    params = problem.params
    if at_optimum:
        fitted = {name: problem.exact_params[name] for name in SAMPLER_PARAMS}
        params = {**fitted, **off_by_a_little(exact_reverse(fitted))}
    return compiled(name, gradient)(random.split(random.key(1), 60), params)


def off_by_a_little(reverse_params):
    return {
        "centre": reverse_params["centre"] + 0.1,
        "weight": 0.9 * reverse_params["weight"],
        "log_width": reverse_params["log_width"] + 0.1,
    }


def test_bounds_enclose_the_exact_kl():
    exact = reverse_kl(SAMPLER_PARAMS)
    below, below_se = mean_and_se(replicates("iwelbo")[0])
    above, above_se = mean_and_se(replicates("iwhvi")[0])
    assert below + 4 * below_se < exact < above - 4 * above_se


STARTS = ["sumo", "sumo_from_above", "multilevel", "multilevel_from_above"]
GRADIENTS = ["path", "standard"]
#: The standard gradient is that of the value, from below and from above.
WITH_BOTH_GRADIENTS = ["sumo", "multilevel_from_above"]


@pytest.mark.parametrize(
    "name, gradient",
    [*((name, "path") for name in STARTS), *((name, "standard") for name in WITH_BOTH_GRADIENTS)],
)
def test_unbiased_marginal_is_unbiased_for_the_kl_and_its_gradient(name, gradient):
    values, gradients = replicates(name, gradient)
    assert_mean(values, reverse_kl(SAMPLER_PARAMS))
    assert mean_and_se(values)[1] < 0.02
    params = {name: jnp.asarray(value) for name, value in SAMPLER_PARAMS.items()}
    for site, expected in jax.grad(reverse_kl)(params).items():
        assert_mean(gradients[site], expected)
        assert mean_and_se(gradients[site])[1] < 0.05


@pytest.mark.parametrize("name", STARTS)
def test_reverse_model_gets_the_gradient_of_the_forward_kl(name):
    _, gradients = replicates(name, "path")
    params = {name: jnp.asarray(value) for name, value in INEXACT_REVERSE.items()}
    for site, expected in jax.grad(forward_kl_objective)(params).items():
        assert_mean(gradients[site], expected)
        assert abs(expected) > 10 * mean_and_se(gradients[site])[1]


@pytest.mark.parametrize("name", WITH_BOTH_GRADIENTS)
def test_path_gradient_has_the_lower_variance_near_the_optimum(name):
    path, standard = (replicates(name, gradient, at_optimum=True)[1] for gradient in GRADIENTS)
    for site in SAMPLER_PARAMS:
        assert np.var(path[site]) < 0.5 * np.var(standard[site])


@pytest.mark.parametrize("name", ["iwelbo", "sumo", "multilevel"])
def test_path_gradient_vanishes_for_every_key_where_sampler_and_reverse_model_are_exact(name):
    with jax.enable_x64(True):
        loss = ReverseKL(MARGINALS[name], num_particles=6, gradient="path")
        _, gradient = jax.jit(value_and_gradient(loss))(
            random.key(2), matching_problem().exact_params
        )
    for site in SAMPLER_PARAMS:
        assert abs(float(gradient[site])) < 1e-6


@pytest.mark.parametrize("name", ["iwelbo", "iwhvi", "iwhvi_of_one"])
def test_standard_gradient_of_the_sampler_is_that_of_the_value_at_a_fixed_key(name):
    step = 1e-5
    with jax.enable_x64(True):
        params = matching_problem().params
        loss = ReverseKL(MARGINALS[name], num_particles=3, gradient="standard")
        evaluate = jax.jit(value_and_gradient(loss))
        _, gradient = evaluate(random.key(3), params)
        for site in SAMPLER_PARAMS:
            up, down = (
                float(evaluate(random.key(3), {**params, site: params[site] + sign})[0])
                for sign in (step, -step)
            )
            assert float(gradient[site]) == pytest.approx((up - down) / (2 * step), rel=1e-4)


@pytest.mark.parametrize("gradient", GRADIENTS)
def test_sampler_gets_no_gradient_from_the_objective_of_the_reverse_model(gradient):
    """The draws are those of the key, so that only the reverse model's gradient changes."""
    problem = matching_problem()
    results = []
    for objective in ("forward_kl", "variance"):
        marginal = SUMO(3, from_above=True, guide_objective=objective)
        loss = ReverseKL(marginal, num_particles=4, gradient=gradient)
        results.append(jax.jit(value_and_gradient(loss))(random.key(4), problem.params))
    (one_value, one), (other_value, other) = results
    assert float(one_value) == pytest.approx(float(other_value), rel=1e-5)
    for site in SAMPLER_PARAMS:
        assert float(one[site]) == pytest.approx(float(other[site]), rel=1e-4, abs=1e-5)
    for site in INEXACT_REVERSE:
        assert abs(float(one[site] - other[site])) > 1e-3


SHORT = ReciprocalTail(knee=3, decay=0.0)


def naive_bound(rows):
    return logsumexp(rows) - jnp.log(float(len(rows)))


def naive_square(rows, first, baseline):
    """E[(SUMO − b)²] over K, begun from the bound over the first rows."""
    bounds = [naive_bound(rows[:k]) for k in range(first, first + 4)]
    estimate, total = bounds[0], 0.0
    for k in (1, 2, 3):
        estimate += k * (bounds[k] - bounds[k - 1])
        total += SHORT.probabilities[k - 1] * (estimate - baseline) ** 2
    return total


# Each objective as a function of the log-weights of the generating draw, of fresh draws, and of
# a baseline; and the marginal that should give the reverse model its gradient.
NAIVE_OBJECTIVES = {
    "iwelbo": (
        SUMO(3, from_above=True, guide_objective="iwelbo", stopping_time=SHORT),
        lambda given, fresh, baseline: -naive_bound(fresh[:2]),
    ),
    "variance": (
        SUMO(2, guide_objective="variance", stopping_time=SHORT),
        lambda given, fresh, baseline: naive_square(fresh, 2, baseline),
    ),
}


@pytest.mark.parametrize(
    "marginal, objective", NAIVE_OBJECTIVES.values(), ids=NAIVE_OBJECTIVES.keys()
)
def test_reverse_model_gets_the_gradient_of_its_objective(marginal, objective):
    params = matching_problem().params
    reverse_params = {site: params[site] for site in INEXACT_REVERSE}

    def naive(reverse_params, key):
        keys = random.split(key, 4)
        scale = jnp.exp(params["log_scale"])
        u_0 = random.normal(keys[0])
        x = params["offset"] + params["slope"] * u_0 + scale * random.normal(keys[1])
        loc = reverse_params["weight"] * (x - reverse_params["centre"])
        proposal = dist.Normal(loc, jnp.exp(reverse_params["log_width"]))

        def weigh(u):
            log_joint = dist.Normal().log_prob(u)
            log_joint += dist.Normal(params["offset"] + params["slope"] * u, scale).log_prob(x)
            return log_joint - proposal.log_prob(u)

        fresh, independent = (weigh(proposal.sample(k, (n,))) for k, n in zip(keys[2:], (6, 32)))
        return objective(weigh(u_0), fresh, stop_gradient(naive_bound(independent)))

    keys = random.split(random.key(5), 100_000)
    expected = jax.jit(
        lambda keys: jax.vmap(lambda key: jax.grad(naive)(reverse_params, key))(keys)
    )(keys)
    loss = ReverseKL(marginal, num_particles=500, gradient="standard")
    at_key = lambda key: value_and_gradient(loss)(key, params)[1]
    gradients = jax.jit(lambda keys: lax.map(at_key, keys))(random.split(random.key(6), 80))
    for site in INEXACT_REVERSE:
        assert_same_mean(gradients[site], expected[site])
    mean, se = mean_and_se(expected["log_width"])
    assert abs(mean) > 20 * se


def test_every_draw_of_x_has_a_stopping_time_of_its_own(monkeypatch):
    shapes, sample = [], ReciprocalTail.sample
    monkeypatch.setattr(
        ReciprocalTail,
        "sample",
        lambda self, key, shape: shapes.append(shape) or sample(self, key, shape),
    )
    loss = ReverseKL(SUMO(2), num_particles=7)
    jax.eval_shape(
        lambda key: loss.loss(key, matching_problem().params, target, hierarchical_guide),
        random.key(0),
    )
    assert shapes == [(7,)]


def sampler_without_x():
    numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("y", dist.Normal())


def sampler_with_a_site_too_many():
    sampler()
    numpyro.sample("y", dist.Normal())


def target_of_two():
    target()
    numpyro.sample("y", dist.Normal())


def target_with_u():
    target()
    numpyro.sample("u", dist.Normal())


def subsampled(program, *args):
    with numpyro.plate("data", 3, subsample_size=2):
        program(*args)


def sampler_not_reparameterised():
    u = numpyro.sample("u", dist.VonMises(0.0, 1.0), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(u, 1.0))


def reverse_not_reparameterised(latents):
    numpyro.sample("u", dist.VonMises(latents["x"], 1.0))


BAD_PROGRAMS = {
    "sampler_without_its_reverse_model": (
        target,
        sampler,
        r"density is known; it has auxiliary sites \['u'\] .*Use ReverseKL with a Hier",
    ),
    "sampler_lacks_a_latent": (
        target_of_two,
        hierarchical_guide,
        r"every latent site of the model; it lacks \['y'\]. Add",
    ),
    "auxiliary_site_has_a_latent_s_name": (
        target_with_u,
        hierarchical_guide,
        r"every latent site of the model; it lacks \['u'\]. Add",
    ),
    "target_lacks_a_sampler_site": (
        target,
        HierarchicalGuide(sampler_with_a_site_too_many, reverse),
        r"latent sites of the model; it also has \['y'\]. Remove",
    ),
    "subsampled_sampler": (
        lambda: subsampled(target),
        HierarchicalGuide(
            lambda: subsampled(sampler), lambda latents: subsampled(reverse, latents)
        ),
        "no subsampled plate in sampler and reverse model; 'data' is subsampled. Subsample",
    ),
    "scaled_sampler": (
        target,
        HierarchicalGuide(numpyro.handlers.scale(sampler, scale=2.0), reverse),
        r"no scaled site in sampler and reverse model; 'u' has scale 2.0. Scale the target",
    ),
    "sampler_not_reparameterised": (
        target,
        HierarchicalGuide(sampler_not_reparameterised, reverse_not_reparameterised),
        "reparameterised guide sites; 'u' is VonMises",
    ),
    "reverse_not_reparameterised": (
        target,
        HierarchicalGuide(sampler, reverse_not_reparameterised),
        "reparameterised guide sites; 'u' is VonMises",
    ),
}


@pytest.mark.parametrize("model, guide, message", BAD_PROGRAMS.values(), ids=BAD_PROGRAMS.keys())
def test_programs_that_do_not_fit_are_refused_in_one_line(model, guide, message):
    svi = SVI(model, guide, optax.sgd(0.1), loss=ReverseKL(IWHVI(3), num_particles=2))
    with pytest.raises(ValueError, match=message) as error:
        svi.run(random.key(0), 2, progress_bar=False)
    assert str(error.value).startswith("Expected ")
    assert "\n" not in str(error.value)


def test_bound_without_fresh_particles_is_refused_in_one_line():
    """From above, one particle is the generating draw: there is no bound for r to maximise."""
    with pytest.raises(ValueError, match="Expected .*particles") as error:
        marginal = SUMO(1, from_above=True, guide_objective="iwelbo")
        loss = ReverseKL(marginal, num_particles=2, gradient="standard")
        params = matching_problem().params
        jax.eval_shape(
            lambda key: loss.loss(key, params, target, hierarchical_guide), random.key(0)
        )
    assert "\n" not in str(error.value)
