import numpy as np
import pytest
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide, kl_sandwich, log_marginal

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
    bounds = kl_sandwich(random.key(0), target, guide, {}, num_samples=20_000, num_particles=3)
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
        log_q = log_marginal(
            random.key(0), guide, {}, {"x": x}, num_particles=2, batch_size=batch_size
        )
    np.testing.assert_allclose(log_q, norm.logpdf(x, scale=2**0.5), atol=1e-5)


def test_guide_that_is_not_hierarchical_is_refused_in_one_line():
    with pytest.raises(ValueError, match="guide to be a HierarchicalGuide; got .*Write") as error:
        kl_sandwich(random.key(0), target, sampler, {})
    assert "\n" not in str(error.value)


def unknown_width_reverse(latents):
    numpyro.sample("u", dist.Normal(0.0, numpyro.param("width", 1.5)))


def test_parameters_that_are_not_the_guide_s_are_refused_in_one_line():
    guide = HierarchicalGuide(sampler, unknown_width_reverse)
    with pytest.raises(
        ValueError, match=r"param site of the guide; they lack \['width'\]"
    ) as error:
        kl_sandwich(random.key(0), target, guide, {})
    assert "\n" not in str(error.value)
