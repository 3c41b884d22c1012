"""Weights of draws that come with draws of u: exact for integrals over p, by quadrature."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide
from numpyro_sumo.guides.defensive_reverse import DefensiveReverse
from numpyro_sumo.guides.extended_draws import ExtendedDraws
from numpyro_sumo.programs.programs import Programs
from tests.helpers.models import AUXILIARY
from tests.helpers.statistics import Z, assert_mean

#: The target is exp(LOG_Z)·N(0.5, 1.2²), and the sampler's law N(0, 1 + 0.8²).
LOG_Z, LOC, SCALE, NOISE = 0.7, 0.5, 1.2, 0.8
VARIANCE = 1.0 + NOISE**2

#: Location (times x) and scale of r(u | x); the first pair is q(u | x).
REVERSES = {"exact": (1.0 / VARIANCE, NOISE / VARIANCE**0.5), "bad": (-0.3, 1.3)}
every_reverse = pytest.mark.parametrize("reverse", REVERSES.values(), ids=REVERSES.keys())


def target():
    x = numpyro.sample("x", dist.Normal(LOC, SCALE))
    numpyro.factor("constant", LOG_Z)
    numpyro.deterministic("square", x**2)


def sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(u, NOISE))


def guide_with(reverse):
    slope, width = reverse
    return HierarchicalGuide(
        sampler, lambda latents: numpyro.sample("u", dist.Normal(slope * latents["x"], width))
    )


class DrawsAt(HierarchicalGuide):
    """A guide that draws x with u₀, and u₁ is drawn at x, wherever it is told to."""

    def __init__(self, guide, x, generating, fresh):
        super().__init__(guide.sampler, guide.reverse)
        self.x, self.generating, self.fresh = x, generating, fresh

    def draw(self, rng_key, programs):
        return {"x": self.x}, {"u": self.generating}


@pytest.fixture(autouse=True)
def draws_where_told(monkeypatch):
    """Only of the class above."""
    draw = DefensiveReverse.draw

    def draw_at(self, *args):
        placed = isinstance(self.guide, DrawsAt)
        return {"u": jnp.asarray(self.guide.fresh)} if placed else draw(self, *args)

    monkeypatch.setattr(DefensiveReverse, "draw", draw_at)


@pytest.mark.parametrize("share", [0.0, 0.3])
@every_reverse
def test_weights_are_exact_for_integrals_over_the_target(reverse, share):
    """∫∫∫ q(x, u₀) r̄(u₁ | x) f(x) p(x) / q̂ = ∫ f p, for f = 1, x and x²."""
    guide, step = guide_with(reverse), 0.25
    at = jnp.arange(-8.0, 8.0 + step, step)
    x, generating, fresh = jnp.meshgrid(at, at, at, indexing="ij")

    def log_weight(x, generating, fresh):
        placed = DrawsAt(guide, x, generating, fresh)
        return ExtendedDraws(Programs(target, placed), 1, share).draw(random.key(0)).log_weight

    log_weights = jax.jit(jax.vmap(log_weight))(x.ravel(), generating.ravel(), fresh.ravel())
    weights = np.exp(np.asarray(log_weights, np.float64)).reshape(x.shape)
    slope, width = reverse
    density = norm.pdf(generating) * norm.pdf(x, generating, NOISE)
    of_reverse, of_sampler = norm.pdf(fresh, slope * x, width), norm.pdf(fresh)
    density *= (1.0 - share) * of_reverse + share * of_sampler
    integrand = step**3 * density * weights
    moments = [np.sum(integrand * np.asarray(x, np.float64) ** power) for power in range(3)]
    exact = np.exp(LOG_Z) * np.array([1.0, LOC, LOC**2 + SCALE**2])
    np.testing.assert_allclose(moments, exact, rtol=1e-5)


def test_bounds_average_over_fresh_draws_alone_and_with_the_generating_one():
    """With one fresh draw, logmeanexp of two densities is known by hand."""
    x, generating, fresh = 0.7, -0.4, 1.1
    slope, width = REVERSES["bad"]

    @jax.jit
    def draw_at(x, generating, fresh):
        placed = DrawsAt(guide_with(REVERSES["bad"]), x, generating, fresh)
        return ExtendedDraws(Programs(target, placed), 1).draw(random.key(0))

    draw = draw_at(x, generating, fresh)
    log_weights = [
        norm.logpdf(u) + norm.logpdf(x, u, NOISE) - norm.logpdf(u, slope * x, width)
        for u in (fresh, generating)
    ]
    np.testing.assert_allclose(draw.log_target, norm.logpdf(x, LOC, SCALE) + LOG_Z, rtol=1e-5)
    np.testing.assert_allclose(draw.log_below, log_weights[0], rtol=1e-5)
    np.testing.assert_allclose(draw.log_above, logsumexp(log_weights) - np.log(2.0), rtol=1e-5)


def test_exact_reverse_model_gives_log_densities_without_noise_drawn_or_redrawn():
    extended = ExtendedDraws(Programs(target, guide_with(REVERSES["exact"])), 3)
    draws = jax.jit(jax.vmap(extended.draw))(random.split(random.key(1), 50))
    x = draws.latents["x"]
    log_q = norm.logpdf(x, 0.0, VARIANCE**0.5)
    np.testing.assert_allclose(draws.log_below, log_q, atol=1e-5)
    np.testing.assert_allclose(draws.log_above, log_q, atol=1e-5)
    redrawn = jax.jit(jax.vmap(extended.redraw))(random.split(random.key(2), 50), draws.latents)
    np.testing.assert_allclose(redrawn, draws.log_weight, atol=2e-5)


def test_redrawn_weights_average_as_many_draws_as_drawn_ones():
    """1/w of n + 1 fresh draws has mean q/p, and a variance that falls as 1/(n + 1)."""
    latents, keys = {"x": jnp.array(0.3)}, random.split(random.key(3), 4_000)
    density = norm.pdf(0.3, 0.0, VARIANCE**0.5) / (
        np.exp(LOG_Z) * norm.pdf(0.3, loc=LOC, scale=SCALE)
    )
    spread = {}
    for n in (1, 3):
        extended = ExtendedDraws(Programs(target, guide_with(REVERSES["bad"])), n)
        redraw = jax.jit(jax.vmap(extended.redraw, (0, None)))
        inverse = np.exp(-np.asarray(redraw(keys, latents), np.float64))
        spread[n] = inverse.std(ddof=1)
        assert abs(inverse.mean() - density) < Z * spread[n] / len(keys) ** 0.5
    assert spread[1] / spread[3] == pytest.approx(2**0.5, rel=0.1)


def test_a_share_of_the_draws_is_the_sampler_s():
    """Of n = 50 draws where the reverse model never goes: q̂ is unbiased, and never far too large.

    A weight is at most q(x | u) / ε ≤ 1 / (√(2π)·0.8·ε).
    """
    narrow, share, n = guide_with((30.0, 0.01)), 0.25, 50
    latents, keys = {"x": jnp.array(0.9)}, random.split(random.key(5), 2_000)
    extended = ExtendedDraws(Programs(target, narrow), n, share)
    log_weights = jax.jit(jax.vmap(extended.redraw, (0, None)))(keys, latents)
    log_p = norm.logpdf(0.9, LOC, SCALE) + LOG_Z
    density = np.exp(log_p - np.asarray(log_weights, np.float64))
    error = density.std(ddof=1) / len(keys) ** 0.5
    assert abs(density.mean() - norm.pdf(0.9, 0.0, VARIANCE**0.5)) < Z * error < 0.02
    draws = jax.jit(jax.vmap(extended.draw))(keys)
    assert np.max(draws.log_above) <= norm.logpdf(0.0, scale=NOISE) - np.log(share) + 1e-5


def narrow_target():
    numpyro.sample("x", dist.Normal(0.0, 0.6))


def uniform_reverse(latents):
    numpyro.sample("u", dist.Uniform(-0.5, 0.5))


@pytest.mark.parametrize("share, lost", [(0.0, 2.0 * norm.cdf(-0.5)), (0.5, 0.0)])
def test_no_draw_is_lost_where_the_reverse_model_does_not_reach(share, lost):
    """Of u on the line it knows [−½, ½] alone: weights are unbiased, but may be zero."""
    guide = HierarchicalGuide(sampler, uniform_reverse)
    extended = ExtendedDraws(Programs(narrow_target, guide), 1, share)
    draws = jax.jit(jax.vmap(extended.draw))(random.split(random.key(6), 20_000))
    weights = np.exp(np.asarray(draws.log_weight, np.float64))
    assert_mean(weights, 1.0)
    assert np.mean(weights == 0.0) == pytest.approx(lost, abs=0.015)
    np.testing.assert_array_equal(weights == 0.0, np.isposinf(draws.log_above))


def test_deterministic_sites_come_with_the_latent_ones():
    extended = ExtendedDraws(Programs(target, guide_with(REVERSES["bad"])), 1)
    sites = extended.programs.with_deterministic({"x": jnp.array(1.5)})
    assert {name: float(value) for name, value in sites.items()} == {"x": 1.5, "square": 2.25}


def positive_target():
    numpyro.sample("x", dist.HalfNormal(1.0).expand([2]).to_event(1))


def uniform_sampler():
    u = numpyro.sample("u", dist.Uniform(-1.0, 1.0), infer=AUXILIARY)
    numpyro.sample("x", dist.Uniform(u - 3.0, u + 3.0).expand([2]).to_event(1))


def normal_reverse(latents):
    numpyro.sample("u", dist.Normal(0.0, 2.0))


def test_densities_are_zero_outside_the_supports_of_their_sites():
    """Of x under the target, and of u and x under the sampler: formulae go on beyond them.

    Mean weight: p(x) times the chance that of two draws of u at least one makes x possible.
    """
    guide = HierarchicalGuide(uniform_sampler, normal_reverse)
    extended = ExtendedDraws(Programs(positive_target, guide), 1)
    draws = jax.jit(jax.vmap(extended.draw))(random.split(random.key(4), 20_000))
    outside = np.any(np.asarray(draws.latents["x"]) < 0.0, axis=1)
    assert 0.5 < outside.mean() < 0.9
    np.testing.assert_array_equal(np.isneginf(draws.log_target), outside)
    larger = np.linspace(0.0, 4.0, 4_001)  # of the two elements of x
    density = 8.0 * (norm.cdf(larger) - 0.5) * norm.pdf(larger)
    chance = norm.cdf(1.0, scale=2.0) - norm.cdf(np.maximum(larger - 3.0, -1.0), scale=2.0)
    exact = np.trapezoid(density * (1.0 - (1.0 - chance) ** 2), larger)
    weights = np.exp(np.asarray(draws.log_weight, np.float64))
    assert abs(weights.mean() - exact) < Z * weights.std(ddof=1) / len(weights) ** 0.5
