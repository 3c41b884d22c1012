"""The sampler with its reverse model: what it shows, what it weighs, and what it refuses."""

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, trace
from numpyro.infer import SVI, Predictive

from numpyro_sumo import IWHVI, HierarchicalGuide, ReverseKL, certify
from numpyro_sumo import log_marginal as log_marginal_of
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import (
    AUXILIARY,
    INEXACT_REVERSE,
    SAMPLER_PARAMS,
    exact_reverse,
    hierarchical_guide,
    log_marginal,
    marginal_variance,
    matching_problem,
    reverse,
    sampler,
    target,
)
from tests.helpers.statistics import assert_mean

PARAMS = matching_problem().params


def test_guide_shows_the_sampler_s_sites_and_the_params_of_both_programs():
    sites = trace(seed(hierarchical_guide, 0)).get_trace()
    kinds = {name: site["type"] for name, site in sites.items() if name in ("u", "x")}
    assert kinds == {"u": "sample", "x": "sample"}
    params = {name for name, site in sites.items() if site["type"] == "param"}
    assert params == SAMPLER_PARAMS.keys() | INEXACT_REVERSE.keys()
    assert sites["u"]["infer"]["is_auxiliary"]


def test_guide_returns_the_latent_sites_without_the_auxiliary_ones():
    program = seed(hierarchical_guide, 0)
    sites = trace(program).get_trace()
    latents = program()
    assert latents.keys() == {"x"}
    assert float(latents["x"]) == float(sites["x"]["value"])


def test_a_param_of_both_programs_is_made_once():
    at_random = lambda: numpyro.param("shared", random.normal)

    def sampler():
        u = numpyro.sample("u", dist.Normal(at_random()), infer=AUXILIARY)
        numpyro.sample("x", dist.Normal(u))

    seen = []

    def reverse(latents):
        seen.append(at_random())
        numpyro.sample("u", dist.Normal(seen[0]))

    trace(seed(HierarchicalGuide(sampler, reverse), 0)).get_trace()
    assert seen[0] == trace(seed(sampler, 0)).get_trace()["shared"]["value"]


def test_auxiliary_site_is_the_sampler_s_and_not_the_reverse_model_s():
    """Given u the sampler's x has mean offset + slope·u: the reverse model must not redraw u."""
    draws = Predictive(hierarchical_guide, params=PARAMS, num_samples=20_000)(random.key(1))
    residual = draws["x"] - PARAMS["offset"] - PARAMS["slope"] * draws["u"]
    assert_mean(residual * draws["u"], 0.0)
    assert_mean(residual**2, jnp.exp(2.0 * PARAMS["log_scale"]))


@pytest.mark.parametrize("make_key", [random.key, random.PRNGKey], ids=["new_style", "old_style"])
def test_predictive_draws_have_the_moments_of_the_marginal(make_key):
    draws = Predictive(hierarchical_guide, params=PARAMS, num_samples=20_000)(make_key(2))["x"]
    assert draws.shape == (20_000,)
    assert_mean(draws, PARAMS["offset"])
    assert_mean((draws - PARAMS["offset"]) ** 2, marginal_variance(PARAMS))


def test_svi_init_knows_the_params_of_the_reverse_model():
    svi = SVI(target, hierarchical_guide, optax.adam(1e-2), loss=ReverseKL(IWHVI(2)))
    params = svi.get_params(svi.init(random.key(0)))
    assert params.keys() == SAMPLER_PARAMS.keys() | INEXACT_REVERSE.keys()


def programs_with(params):
    return Programs(target, hierarchical_guide, params)


def test_draw_is_reparameterised_by_the_sampler_s_params():
    draw = lambda params: hierarchical_guide.draw(random.key(3), programs_with(params))
    x, u = draw(PARAMS)
    assert (x.keys(), u.keys()) == ({"x"}, {"u"})
    gradient = jax.grad(lambda params: draw(params)[0]["x"])(PARAMS)
    assert float(gradient["offset"]) == pytest.approx(1.0)
    assert float(gradient["slope"]) == pytest.approx(float(u["u"]))


def weight(key, x, params, u=None):
    latents = {"x": x}
    auxiliary = None if u is None else {"u": u}
    programs = programs_with(params)
    proposal = hierarchical_guide.propose(key, programs, latents, auxiliary)
    return hierarchical_guide.log_weight(key, programs, latents, proposal)


def test_exact_reverse_model_weighs_every_draw_by_the_marginal():
    params = {**PARAMS, **exact_reverse(PARAMS)}
    x = jnp.linspace(-3.0, 3.0, 20)
    weights = jax.jit(jax.vmap(lambda key, x: weight(key, x, params)))(
        random.split(random.key(4), 20), x
    )
    np.testing.assert_allclose(weights, log_marginal(params, x), atol=1e-5)


def test_given_auxiliary_draw_is_weighed_as_it_is():
    """log q(x, u) − log r(u | x) by hand."""
    x, u = 0.7, -1.2
    scale, width = jnp.exp(PARAMS["log_scale"]), jnp.exp(PARAMS["log_width"])
    expected = (
        dist.Normal().log_prob(u)
        + dist.Normal(PARAMS["offset"] + PARAMS["slope"] * u, scale).log_prob(x)
        - dist.Normal(PARAMS["weight"] * (x - PARAMS["centre"]), width).log_prob(u)
    )
    for key in random.split(random.key(5), 2):
        got = weight(key, jnp.array(x), PARAMS, jnp.array(u))
        assert float(got) == pytest.approx(float(expected), abs=1e-5)


def test_arguments_reach_both_programs():
    calls = []

    def scaled_sampler(scale, *, loc):
        calls.append(("sampler", scale, loc))
        numpyro.sample("x", dist.Normal(numpyro.sample("u", dist.Normal(), infer=AUXILIARY), scale))

    def scaled_reverse(latents, scale, *, loc):
        calls.append(("reverse", scale, loc))
        assert latents.keys() == {"x"}
        numpyro.sample("u", dist.Normal(loc, scale))

    seed(HierarchicalGuide(scaled_sampler, scaled_reverse), 0)(2.0, loc=3.0)
    assert calls == [("sampler", 2.0, 3.0), ("reverse", 2.0, 3.0)]


def sampler_without_auxiliary_site():
    numpyro.sample("x", dist.Normal(numpyro.param("loc", 0.0), 1.0))


def sampler_with_two():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    v = numpyro.sample("v", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(u + v, 1.0))


def reverse_with_a_site_too_many(latents):
    reverse(latents)
    numpyro.sample("w", dist.Normal())


BAD_PROGRAMS = {
    "no_auxiliary_site": (
        sampler_without_auxiliary_site,
        lambda latents: None,
        "sampler to have at least one auxiliary site; it has none. Mark",
    ),
    "reverse_lacks_a_site": (
        sampler_with_two,
        reverse,
        r"to sample the auxiliary sites, \['u', 'v'\]; it samples \['u'\]. Give",
    ),
    "reverse_has_a_site_too_many": (
        sampler,
        reverse_with_a_site_too_many,
        r"to sample the auxiliary sites, \['u'\]; it samples \['u', 'w'\]. Give",
    ),
}


@pytest.mark.parametrize(
    "sampler, reverse, message", BAD_PROGRAMS.values(), ids=BAD_PROGRAMS.keys()
)
def test_programs_that_do_not_fit_are_refused_in_one_line_at_init(sampler, reverse, message):
    guide = HierarchicalGuide(sampler, reverse)
    svi = SVI(target, guide, optax.sgd(0.1), loss=ReverseKL(IWHVI(2)))
    with pytest.raises(ValueError, match="Expected the .*" + message) as error:
        svi.init(random.key(0))
    assert "\n" not in str(error.value)


def sampler_of_three():
    u = numpyro.sample("u", dist.Normal(), sample_shape=(3,), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(u.sum(), 1.0))


def reverse_of_one(latents):
    numpyro.sample("u", dist.Normal(latents["x"], 1.0))


def reverse_of_three(latents):
    numpyro.sample("u", dist.Normal(latents["x"] / 4.0, 1.0), sample_shape=(3,))


def sampler_with_a_factor():
    sampler()
    numpyro.factor("more", 1.0)


def reverse_with_data(latents):
    reverse(latents)
    numpyro.sample("y", dist.Normal(), obs=0.3)


WITHOUT_DENSITY = {
    "reverse_of_another_shape": (
        sampler_of_three,
        reverse_of_one,
        r"reverse model to draw 'u' in the sampler's shape, \(3,\); it draws \(\). Expand",
    ),
    "sampler_with_a_factor": (
        sampler_with_a_factor,
        reverse,
        "no observed sites or factors in .* are those of draws; 'more' is one. Move",
    ),
    "reverse_with_data": (
        sampler,
        reverse_with_data,
        "a guide without observed sites; 'y' is observed. Move",
    ),
}


@pytest.mark.parametrize(
    "sampler, reverse, message", WITHOUT_DENSITY.values(), ids=WITHOUT_DENSITY.keys()
)
def test_programs_without_a_density_are_refused_in_one_line(sampler, reverse, message):
    guide = HierarchicalGuide(sampler, reverse)
    latents = {"x": jnp.zeros(2)}
    svi = SVI(target, guide, optax.sgd(0.1), loss=ReverseKL(IWHVI(2)))
    state = svi.init(random.key(0))
    params = svi.get_params(state)
    calls = (
        lambda: svi.update(state),
        lambda: log_marginal_of(random.key(0), guide, params, latents),
        lambda: certify(random.key(0), target, guide, params),
    )
    for call in calls:
        with pytest.raises(ValueError, match="^Expected (the )?" + message) as error:
            call()
        assert "\n" not in str(error.value)


def test_draws_may_have_a_sample_shape():
    """log N(x; 0, 1 + 3) of a sum of three."""
    guide = HierarchicalGuide(sampler_of_three, reverse_of_three)
    x = jnp.array([-1.0, 0.5])
    options = {"num_particles": 20_000}
    log_q = jax.jit(lambda x: log_marginal_of(random.key(0), guide, {}, {"x": x}, **options))(x)
    np.testing.assert_allclose(log_q, dist.Normal(0.0, 2.0).log_prob(x), atol=0.05)


@pytest.mark.parametrize("programs", [(sampler, None), (None, reverse)])
def test_what_is_no_program_is_refused_at_once(programs):
    with pytest.raises(ValueError, match="to be a NumPyro program; got None. Pass") as error:
        HierarchicalGuide(*programs)
    assert "\n" not in str(error.value)
