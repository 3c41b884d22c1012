"""The mixture of a reverse model and the sampler's own law of u: its density and its draws."""

import numpy as np
import pytest
from scipy.stats import binom, norm

import jax
from jax import random, vmap
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide
from numpyro_sumo.defensive_guide import DefensiveGuide
from tests.models import AUXILIARY

SHARE = 0.2


def sampler(shift):
    """Two auxiliary sites, of which the second depends on the first, in a plate, and on x."""
    u = numpyro.sample("u", dist.Normal(shift, 1.0), infer=AUXILIARY)
    x = numpyro.sample("x", dist.Normal(u, numpyro.param("noise", 0.5)))
    with numpyro.plate("parts", 3):
        v = numpyro.sample("v", dist.Normal(u + x, 2.0), infer=AUXILIARY)
    numpyro.sample("y", dist.Normal(v.sum(), 1.0))


def reverse(latents, shift):
    with numpyro.plate("parts", 3):
        numpyro.sample("v", dist.Normal(50.0 + latents["y"], 0.1))
    numpyro.sample("u", dist.Normal(100.0 + latents["x"], 0.1))


PARAMS = {"noise": jnp.array(0.7)}
X = {"x": jnp.array(0.3), "y": jnp.array(-1.2)}
DEFENDED = DefensiveGuide(HierarchicalGuide(sampler, reverse), SHARE)


@pytest.mark.parametrize("near_reverse", [False, True])
def test_density_is_that_of_the_mixture(near_reverse):
    u, v = (100.4, [48.7, 48.9, 48.8]) if near_reverse else (0.4, [1.0, -2.0, 3.0])
    at = {"u": jnp.array(u), "v": jnp.array(v)}
    proposal = DEFENDED.propose(random.key(0), X, (0.5,), {}, PARAMS, at)
    log_own = norm.logpdf(u, 0.5) + norm.logpdf(v, u + 0.3, 2.0).sum()
    log_reverse = norm.logpdf(u, 100.3, 0.1) + norm.logpdf(v, 48.8, 0.1).sum()
    exact = np.logaddexp(np.log(SHARE) + log_own, np.log(1.0 - SHARE) + log_reverse)
    np.testing.assert_allclose(proposal.log_density, exact, rtol=1e-4)
    log_joint = log_own + norm.logpdf(0.3, u, 0.7) + norm.logpdf(-1.2, np.sum(v), 1.0)
    log_weight = DEFENDED.log_weight(random.key(0), X, proposal, (0.5,), {}, PARAMS)
    np.testing.assert_allclose(log_weight, log_joint - exact, rtol=1e-4)


def test_draws_are_all_of_one_part_or_all_of_the_other():
    keys = random.split(random.key(1), 4_000)
    draws = vmap(lambda key: DEFENDED.propose(key, X, (0.5,), {}, PARAMS))(keys)
    u, v = np.asarray(draws.values["u"]), np.asarray(draws.values["v"])
    own = u < 50.0
    np.testing.assert_array_equal(own[:, None] & np.ones(3, bool), v < 25.0)
    assert 1e-4 < binom.cdf(own.sum(), len(own), SHARE) < 1.0 - 1e-4
    np.testing.assert_allclose(u[own].mean(), 0.5, atol=4.0 / own.sum() ** 0.5)
    at = vmap(lambda key, u: DEFENDED.propose(key, X, (0.5,), {}, PARAMS, u))(keys, draws.values)
    np.testing.assert_allclose(draws.log_density, at.log_density, rtol=1e-5)


def test_draws_of_x_and_u_are_the_guide_s():
    drawn, same = (
        guide.draw(random.key(2), PARAMS, (0.5,), {}) for guide in (DEFENDED, DEFENDED.guide)
    )
    jax.tree.map(np.testing.assert_array_equal, drawn, same)
