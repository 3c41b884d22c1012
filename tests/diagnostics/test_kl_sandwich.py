import numpy as np
import pytest
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide, kl_sandwich, log_marginal
from tests.helpers.statistics import assert_mean

#: The sampler's law is N(0, 2), a variance; the target's N(1, 1), unnormalised by e^0.7.
EXACT_KL_MINUS_LOG_Z = 0.5 * (2.0 + 1.0 - 1.0 - np.log(2.0)) - 0.7


def target():
    numpyro.sample("x", dist.Normal(1.0, 1.0))
    numpyro.factor("constant", 0.7)


def sampler():
    u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    numpyro.sample("x", dist.Normal(u, 1.0))


def exact_reverse(latents):
    numpyro.sample("u", dist.Normal(0.5 * latents["x"], 0.5**0.5))


def poor_reverse(latents):
    numpyro.sample("u", dist.Normal(0.0, 1.5))


def test_bounds_meet_at_the_kl_divergence_if_the_reverse_model_is_exact():
    guide = HierarchicalGuide(sampler, exact_reverse)
    options = {"num_samples": 20_000, "num_particles": 3, "defensive_share": 0.0}
    bounds = kl_sandwich(random.key(0), target, guide, {}, **options)
    np.testing.assert_allclose(bounds.lower, bounds.upper, atol=1e-5)
    np.testing.assert_allclose(bounds.lower_se, bounds.upper_se, rtol=1e-3)
    assert abs(bounds.upper - EXACT_KL_MINUS_LOG_Z) < 4 * bounds.upper_se


def test_bounds_enclose_the_kl_divergence_and_close_in_on_it():
    guide = HierarchicalGuide(sampler, poor_reverse)
    loose, tight = (
        kl_sandwich(random.key(0), target, guide, {}, num_samples=20_000, num_particles=n)
        for n in (2, 50)
    )
    for bounds in (loose, tight):
        assert bounds.lower - 4 * bounds.lower_se < EXACT_KL_MINUS_LOG_Z
        assert EXACT_KL_MINUS_LOG_Z < bounds.upper + 4 * bounds.upper_se
    assert loose.lower + 0.1 < tight.lower < tight.upper < loose.upper - 0.1


@pytest.mark.parametrize("batch_size", [7, 100])
def test_log_marginal_is_the_log_density_if_the_reverse_model_is_exact(batch_size):
    guide = HierarchicalGuide(sampler, exact_reverse)
    x = jnp.linspace(-4, 4, 33)
    with jax.debug_nans(True):
        options = {"num_particles": 2, "defensive_share": 0.0, "batch_size": batch_size}
        log_q = log_marginal(random.key(0), guide, {}, {"x": x}, **options)
    np.testing.assert_allclose(log_q, norm.logpdf(x, scale=2**0.5), atol=1e-5)


def test_sampler_without_its_reverse_model_is_refused_in_one_line():
    with pytest.raises(ValueError, match=r"density is known; it has auxiliary.*'u'.*Use") as error:
        kl_sandwich(random.key(0), target, sampler, {})
    assert "\n" not in str(error.value)


def narrow_reverse(latents):
    numpyro.sample("u", dist.Normal(3.0 + latents["x"], 0.05))


def test_draws_of_the_sampler_keep_the_bounds_of_a_narrow_reverse_model_together():
    """Its own draws are some 60 standard deviations from the u that x was drawn with."""
    guide = HierarchicalGuide(sampler, narrow_reverse)
    undefended, defended = (
        kl_sandwich(random.key(0), target, guide, {}, num_samples=4_000, defensive_share=share)
        for share in (0.0, 0.1)
    )
    assert undefended.lower < EXACT_KL_MINUS_LOG_Z - 1.0
    assert undefended.upper > EXACT_KL_MINUS_LOG_Z + 1_000.0
    assert defended.upper - defended.lower < 0.1
    assert defended.lower - 4 * defended.lower_se < EXACT_KL_MINUS_LOG_Z
    assert EXACT_KL_MINUS_LOG_Z < defended.upper + 4 * defended.upper_se


def test_log_marginal_is_defended_likewise():
    guide, x = HierarchicalGuide(sampler, narrow_reverse), jnp.linspace(-2, 2, 9)
    options = {"num_particles": 100, "defensive_share": 0.1}
    at_keys = jax.vmap(lambda key: log_marginal(key, guide, {}, {"x": x}, **options))
    log_q = jax.jit(at_keys)(random.split(random.key(0), 400))
    assert_mean(jnp.exp(log_q), norm.pdf(x, scale=2**0.5))


def test_points_may_be_lists():
    guide, points = HierarchicalGuide(sampler, exact_reverse), [0.3, -1.0, 2.0]
    found = log_marginal(random.key(0), guide, {}, {"x": points}, defensive_share=0.0)
    np.testing.assert_allclose(found, norm.logpdf(points, scale=2**0.5), atol=1e-5)


BAD_POINTS = {
    "missing": ({}, r"hold values of \['x'\], the guide's latent sites; got \[\]. Pass"),
    "another": ({"y": jnp.zeros(3)}, r"values of \['x'\], .*; got \['y'\]. Pass one array"),
    "one_point": ({"x": jnp.array(0.3)}, r"axis of points; 'x' has shape \(\), and not \(0,\). St"),
    "too_deep": ({"x": jnp.zeros((2, 5))}, r"'x' has shape \(2, 5\), and not \(2,\). Stack"),
}


@pytest.mark.parametrize("latents, message", BAD_POINTS.values(), ids=BAD_POINTS.keys())
def test_points_that_are_not_the_sampler_s_are_refused_in_one_line(latents, message):
    guide = HierarchicalGuide(sampler, exact_reverse)
    with pytest.raises(ValueError, match=message) as error:
        log_marginal(random.key(0), guide, {}, latents)
    assert str(error.value).startswith("Expected latents") and "\n" not in str(error.value)


def test_log_marginal_refuses_guides_and_parameters_likewise():
    latents = {"x": jnp.zeros(3)}
    with pytest.raises(ValueError, match=r"density is known; it has auxiliary.*'u'"):
        log_marginal(random.key(0), sampler, {}, latents)
    guide = HierarchicalGuide(sampler, unknown_width_reverse)
    with pytest.raises(ValueError, match=r"param site of the guide; they lack \['width'\]"):
        log_marginal(random.key(0), guide, {}, latents)


@pytest.mark.parametrize("share", [1.0, -0.01, "1 %", True])
def test_a_share_outside_its_range_is_refused_in_one_line(share):
    guide = HierarchicalGuide(sampler, exact_reverse)
    message = r"^Expected defensive_share to be in \[0, 1\); got .*\. Pass 0.01, for instance\.$"
    with pytest.raises(ValueError, match=message):
        kl_sandwich(random.key(0), target, guide, {}, defensive_share=share)
    with pytest.raises(ValueError, match=message):
        log_marginal(random.key(0), guide, {}, {"x": jnp.zeros(3)}, defensive_share=share)


def unknown_width_reverse(latents):
    numpyro.sample("u", dist.Normal(0.0, numpyro.param("width", 1.5)))


def test_parameters_that_are_not_the_guide_s_are_refused_in_one_line():
    guide = HierarchicalGuide(sampler, unknown_width_reverse)
    with pytest.raises(
        ValueError, match=r"param site of the guide; they lack \['width'\]"
    ) as error:
        kl_sandwich(random.key(0), target, guide, {})
    assert "\n" not in str(error.value)
