"""The mixture of a reverse model and the sampler's own law of u: its draws and weights."""

import numpy as np
import pytest
from scipy.stats import binom, norm

import jax
from jax import jit, random, vmap
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide
from numpyro_sumo.guides.defensive_reverse import DefensiveReverse
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import AUXILIARY
from tests.helpers.statistics import assert_mean

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
PROGRAMS = Programs(sampler, HierarchicalGuide(sampler, reverse), PARAMS, (0.5,))
DEFENDED = DefensiveReverse(PROGRAMS, SHARE)


@pytest.mark.parametrize("share", [0.0, SHARE])
@pytest.mark.parametrize("near_reverse", [False, True])
def test_log_weight_is_by_the_density_of_the_mixture(near_reverse, share):
    u, v = (100.4, [48.7, 48.9, 48.8]) if near_reverse else (0.4, [1.0, -2.0, 3.0])
    at = {"u": jnp.array(u), "v": jnp.array(v)}
    defended = DefensiveReverse(PROGRAMS, share)
    log_weight = jit(defended.log_weight)(random.key(0), X, at)
    log_own = norm.logpdf(u, 0.5) + norm.logpdf(v, u + 0.3, 2.0).sum()
    log_reverse = norm.logpdf(u, 100.3, 0.1) + norm.logpdf(v, 48.8, 0.1).sum()
    log_mixture = np.log1p(-share) + log_reverse
    if share:
        log_mixture = np.logaddexp(log_mixture, np.log(share) + log_own)
    log_joint = log_own + norm.logpdf(0.3, u, 0.7) + norm.logpdf(-1.2, np.sum(v), 1.0)
    np.testing.assert_allclose(log_weight, log_joint - log_mixture, rtol=1e-4)


def test_draws_are_all_of_one_part_or_all_of_the_other():
    draws = jit(vmap(lambda key: DEFENDED.draw(key, X)))(random.split(random.key(1), 4_000))
    u, v = np.asarray(draws["u"]), np.asarray(draws["v"])
    own = u < 50.0
    np.testing.assert_array_equal(own[:, None] & np.ones(3, bool), v < 25.0)
    assert 1e-4 < binom.cdf(own.sum(), len(own), SHARE) < 1.0 - 1e-4
    assert_mean(u[own], 0.5)
    assert_mean(v[own] - u[own, None], 0.3)
    assert_mean(u[~own], 100.3)


def test_without_a_share_all_draws_are_the_reverse_model_s():
    undefended = DefensiveReverse(PROGRAMS, 0.0)
    draws = jit(vmap(lambda key: undefended.draw(key, X)))(random.split(random.key(1), 99))
    assert np.min(draws["u"]) > 99.0


#: Widths that the programs below have drawn.
SEEN = {"sampler": [], "reverse": []}


def restless_width(program):
    width = 0.7 + random.uniform(numpyro.prng_key())
    jax.debug.callback(lambda width: SEEN[program].append(float(width)), width)
    return width


def restless_sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    v = numpyro.sample("v", dist.Normal(0.0, restless_width("sampler")), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(u + v, 1.0))


def restless_reverse(latents):
    numpyro.sample("u", dist.Normal(latents["x"] / 3.0, 1.0))
    numpyro.sample("v", dist.Normal(latents["x"] / 3.0, restless_width("reverse")))


@pytest.mark.parametrize("share", [0.0, SHARE])
def test_what_else_is_random_is_the_same_in_draw_and_weight(share):
    """The key for the width comes after a site that is drawn in one and given in the other."""
    guide = HierarchicalGuide(restless_sampler, restless_reverse)
    defended = DefensiveReverse(Programs(restless_sampler, guide), share)
    for widths in SEEN.values():
        widths.clear()
    x = {"x": jnp.array(2.0)}
    u = defended.draw(random.key(2), x)
    defended.log_weight(random.key(2), x, u)
    jax.effects_barrier()
    assert all(len(set(widths)) == 1 for widths in SEEN.values())
