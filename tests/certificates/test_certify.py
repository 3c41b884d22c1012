"""What a certificate says, against closed forms; what it cannot say; what it refuses."""

from functools import cache

import numpy as np
import pytest
from scipy.stats import genpareto

from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import HierarchicalGuide, certify
from numpyro_sumo.certificates.weights import summarise_weights, systematic_resampling, tail_error
from tests.helpers.models import (
    AUXILIARY,
    LOG_NORMALISER,
    TARGET_LOC,
    TARGET_SCALE,
    discrete,
    matching_problem,
    never,
    reverse_kl,
    subsampled,
)
from tests.helpers.statistics import Z

PROBLEM = matching_problem()


def certificate_of(params, **options):
    return certify(random.key(0), PROBLEM.model, PROBLEM.guide, params, **options)


#: A little off, and so the reverse model, which is that of the exact sampler.
SAMPLER = {"offset": 0.2, "slope": 0.7 * TARGET_SCALE, "log_scale": np.log(0.6 * TARGET_SCALE)}


@cache
def inexact():
    params = {**PROBLEM.exact_params, **{name: jnp.asarray(v) for name, v in SAMPLER.items()}}
    return certificate_of(params, num_samples=8_000, num_particles=2, batch_size=1_000)


def test_exact_sampler_and_reverse_model_leave_nothing_to_correct():
    options = {"num_samples": 300, "num_particles": 2, "defensive_share": 0.0}
    certificate = certificate_of(PROBLEM.exact_params, **options)
    for name in ("elbo_lower", "elbo_upper", "log_evidence"):
        assert getattr(certificate, name) == pytest.approx(LOG_NORMALISER, abs=1e-5)
        assert getattr(certificate, f"{name}_se") < 1e-6
    for name in ("kl_lower", "kl_upper", "kl_lower_se", "kl_upper_se"):
        assert getattr(certificate, name) == pytest.approx(0.0, abs=1e-5)
    assert certificate.pareto_k == -np.inf
    assert certificate.ess == pytest.approx(300, rel=1e-5)
    np.testing.assert_array_equal(certificate.resampled["x"], certificate.draws["x"])


def test_ends_enclose_elbo_and_kl_and_the_evidence_is_in_its_errors():
    certificate, exact_kl = inexact(), float(reverse_kl(SAMPLER)) + LOG_NORMALISER
    elbo = LOG_NORMALISER - exact_kl
    assert certificate.elbo_lower - Z * certificate.elbo_lower_se < elbo
    assert elbo < certificate.elbo_upper + Z * certificate.elbo_upper_se
    assert certificate.kl_lower - Z * certificate.kl_lower_se < exact_kl
    assert exact_kl < certificate.kl_upper + Z * certificate.kl_upper_se
    assert certificate.elbo_lower + 0.01 < certificate.elbo_upper
    error = certificate.log_evidence - LOG_NORMALISER
    assert abs(error) < Z * certificate.log_evidence_se < 0.1


def test_kl_is_the_log_evidence_less_the_elbo():
    certificate = inexact()
    assert certificate.kl_lower == certificate.log_evidence - certificate.elbo_upper
    assert certificate.kl_upper == certificate.log_evidence - certificate.elbo_lower
    assert certificate.elbo_lower == pytest.approx(float(certificate.log_weights.mean()), abs=1e-5)


def test_errors_are_those_of_parts_of_the_draws():
    """Estimates from 80 parts spread √80 times as much as the whole is said to."""
    certificate = inexact()
    parts = np.asarray(certificate.log_weights, np.float64).reshape(80, -1)
    log_evidence, elbo = np.log(np.exp(parts).mean(axis=1)), parts.mean(axis=1)
    for name, values in {
        "log_evidence": log_evidence,
        "elbo_lower": elbo,
        "kl_upper": log_evidence - elbo,
    }.items():
        error = values.std(ddof=1) / 80**0.5
        of_tail = 0.0 if name == "elbo_lower" else certificate.weights.tail_error
        expected = pytest.approx(np.hypot(error, of_tail), rel=0.3)
        assert getattr(certificate, f"{name}_se") == expected


def test_ess_and_the_error_of_the_evidence_are_those_of_the_log_weights():
    certificate = inexact()
    weights = np.exp(np.asarray(certificate.log_weights, np.float64))
    error = weights.std(ddof=1) / weights.mean() / len(weights) ** 0.5
    of_tail = certificate.weights.tail_error
    assert certificate.log_evidence_se == pytest.approx(np.hypot(error, of_tail))
    assert certificate.ess == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert 0.0 < certificate.pareto_k < 0.7


@pytest.mark.parametrize("k", (-0.2, 0.1, 0.4))
def test_error_of_the_tail_is_half_the_gain_of_a_pareto_tail_with_its_index_raised(k):
    count, in_tail, threshold = 10_000, 300, 1.5
    raised = k + 2.0 * (1.0 + max(k, 0.0)) / in_tail**0.5  # by two standard errors
    pareto = genpareto(k, scale=2.0)
    levels = (np.arange(in_tail) + 0.5) / in_tail
    tail = pareto.ppf(levels) * pareto.mean() / pareto.ppf(levels).mean()
    relative = np.concatenate([threshold + tail, np.full(count - in_tail, threshold)])
    gain = in_tail / count * (genpareto(raised, scale=2.0).mean() - pareto.mean())
    assert tail_error(relative, np.asarray(k), in_tail) == pytest.approx(gain / 2)


def test_error_of_the_tail_is_zero_for_equal_weights_and_infinite_for_a_tail_without_mean():
    relative = np.ones((1_000, 3))
    k = np.array([-np.inf, np.inf, 0.95])
    np.testing.assert_array_equal(tail_error(relative, k, 95), [0.0, np.inf, np.inf])


@pytest.mark.parametrize("index", (0.5, 0.65))
def test_error_covers_the_shortfall_of_weights_with_infinite_variance(index):
    """The sample mean of such weights is often too low by more than their spread says."""
    log_weights = np.random.default_rng(0).exponential(index, (10_000, 200))
    summary = summarise_weights(log_weights)
    error = summary.log_evidence + np.log(1.0 - index)  # the exact mean is 1 / (1 − index)
    spread = summary.relative.std(axis=0, ddof=1) / len(log_weights) ** 0.5
    trusted = summary.pareto_k <= 0.7
    assert trusted.mean() > 0.5
    assert np.abs(error / spread)[trusted].max() > 4.0
    assert np.abs(error / summary.log_evidence_se)[trusted].max() < 4.0
    assert np.median((summary.log_evidence_se / spread)[trusted]) < 3.0


def test_resampled_draws_have_the_moments_of_the_target():
    certificate = inexact()
    x = {name: np.asarray(getattr(certificate, name)["x"]) for name in ("draws", "resampled")}
    assert x["resampled"].shape == x["draws"].shape == (8_000,)
    assert set(x["resampled"]) < set(x["draws"])
    error = Z / certificate.ess**0.5
    assert abs(x["resampled"].mean() - TARGET_LOC) < error * TARGET_SCALE
    assert abs(x["resampled"].std() / TARGET_SCALE - 1.0) < error
    assert abs(x["draws"].mean() - TARGET_LOC) > 2 * error * TARGET_SCALE


@pytest.mark.parametrize("offset", [0.0, 0.37, 1.0 - 2.0**-24])
def test_systematic_resampling_chooses_as_often_as_the_weight_says(offset):
    weights = np.random.default_rng(0).gamma(0.3, size=500)
    weights[[0, 1, 250, 499]] = 0.0
    chosen = np.bincount(systematic_resampling(offset, weights), minlength=500)
    assert chosen.sum() == 500
    assert np.all(np.abs(chosen - 500 * weights / weights.sum()) < 1.0)
    assert np.all(chosen[weights == 0.0] == 0)


def regression(x, *, y):
    """y = slope·x + noise, slope ~ N(0, 1) and noise known: the evidence is that of a Normal."""
    slope = numpyro.sample("slope", dist.Normal())
    fitted = numpyro.deterministic("fitted", slope * x)
    noise = numpyro.param("noise", 1.0)
    with numpyro.plate("data", len(x)):
        numpyro.sample("y", dist.Normal(fitted, noise), obs=y)


def posterior_sampler(x, *, y):
    """The posterior at noise 0.5, up to a little more spread."""
    precision = 1.0 + (x**2).sum() / 0.25
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("slope", dist.Normal((x * y).sum() / 0.25 / precision + 0.1 * u, 0.3))


def posterior_reverse(latents, x, *, y):
    numpyro.sample("u", dist.Normal(0.0, numpyro.param("width", 1.0)))


def test_data_parameters_and_deterministic_sites_come_through():
    x, y = jnp.array([-1.0, 0.5, 2.0]), jnp.array([-0.7, 0.1, 1.9])
    params = {"noise": jnp.array(0.5), "width": jnp.array(1.1)}
    guide = HierarchicalGuide(posterior_sampler, posterior_reverse)
    certificate = certify(
        random.key(1), regression, guide, params, x, y=y, num_samples=2_000, num_particles=8
    )
    exact = dist.MultivariateNormal(0.0, jnp.outer(x, x) + 0.25 * jnp.eye(3)).log_prob(y)
    assert abs(certificate.log_evidence - exact) < Z * certificate.log_evidence_se < 0.2
    assert certificate.draws.keys() == certificate.resampled.keys() == {"slope", "fitted"}
    slope = certificate.resampled["slope"]
    np.testing.assert_allclose(certificate.resampled["fitted"], slope[:, None] * x, rtol=1e-5)


def two_modes():
    """Each of mass one half, and of the form of the sampler below."""
    halves = dist.Categorical(probs=jnp.full(2, 0.5))
    numpyro.sample("x", dist.MixtureSameFamily(halves, dist.Normal(jnp.array([-30.0, 30.0]), 1.0)))


def one_mode():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(30.0 + 0.6 * u, 0.8))


def one_mode_reverse(latents):
    numpyro.sample("u", dist.Normal(0.6 * (latents["x"] - 30.0), 0.8))


def test_mode_where_the_sampler_never_goes_shows_in_nothing_but_the_evidence():
    guide = HierarchicalGuide(one_mode, one_mode_reverse)
    options = {"num_samples": 200, "num_particles": 2, "defensive_share": 0.0}
    certificate = certify(random.key(2), two_modes, guide, {}, **options)
    assert certificate.kl_upper == pytest.approx(0.0, abs=1e-4)
    assert certificate.ess == pytest.approx(200, rel=1e-4)
    assert certificate.log_evidence == pytest.approx(-np.log(2.0), abs=1e-4)


def half_normal():
    numpyro.sample("x", dist.HalfNormal(1.0))


def wide_sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(0.6 * u, 0.8))


def wide_reverse(latents):
    numpyro.sample("u", dist.Normal(0.6 * latents["x"], 0.8))


def test_draws_outside_the_support_have_weight_zero():
    """Half of them do, and the others weigh 2; the KL divergence is infinite."""
    guide = HierarchicalGuide(wide_sampler, wide_reverse)
    options = {"num_samples": 400, "num_particles": 2, "defensive_share": 0.0}
    certificate = certify(random.key(3), half_normal, guide, {}, **options)
    inside = np.asarray(certificate.draws["x"]) > 0.0
    np.testing.assert_array_equal(np.isfinite(certificate.log_weights), inside)
    assert certificate.log_evidence == pytest.approx(np.log(2.0 * inside.mean()), abs=1e-4)
    assert certificate.ess == pytest.approx(inside.sum(), rel=1e-4)
    assert (certificate.elbo_lower, certificate.elbo_upper) == (-np.inf, -np.inf)
    assert (certificate.kl_upper, certificate.kl_upper_se) == (np.inf, np.inf)
    assert np.all(np.asarray(certificate.resampled["x"]) > 0.0)


def too_narrow_sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(0.1 * u, 0.3))


def too_narrow_reverse(latents):
    numpyro.sample("u", dist.Normal(latents["x"], 0.95))


def test_weights_of_a_heavy_tail_are_warned_of_in_one_line():
    guide = HierarchicalGuide(too_narrow_sampler, too_narrow_reverse)
    with pytest.warns(UserWarning, match="k-hat .* it is .*Train longer") as found:
        certificate = certify(
            random.key(4), PROBLEM.model, guide, {}, num_samples=2_000, num_particles=4
        )
    assert certificate.pareto_k > 0.7
    assert len(found) == 1 and "\n" not in str(found[0].message)
    assert found[0].filename == __file__


def broken_target():
    x = numpyro.sample("x", dist.Normal())
    numpyro.factor("broken", jnp.where(x > 1.0, jnp.nan, 0.0))


def infinite_target():
    x = numpyro.sample("x", dist.Normal())
    numpyro.factor("overflow", jnp.where(x > 1.0, jnp.inf, 0.0))


def flat_target():
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("likelihood", dist.Normal(0.0, 1.0).log_prob(x) + numpyro.param("constant", 0.0))


def test_prior_without_draws_is_weighed_at_those_of_the_guide():
    guide, params = HierarchicalGuide(wide_sampler, wide_reverse), {"constant": jnp.array(0.7)}
    options = {"num_samples": 100, "num_particles": 2, "defensive_share": 0.0}
    certificate = certify(random.key(4), flat_target, guide, params, **options)
    assert certificate.log_evidence == pytest.approx(0.7, abs=1e-5)


NAN = {**PROBLEM.params, "slope": jnp.array(jnp.nan)}
BAD_PROGRAMS = {
    "no_guide": ({"guide": None}, "guide to be a NumPyro program; got None. Pass"),
    "nan_params": (
        {"params": NAN},
        "finite params; 'slope' of the guide contains NaN .*argmax.*Train again",
    ),
    "nan_weights": ({"model": broken_target}, r"have a weight; \d+ of 50 have NaN .*Look for"),
    "infinite_weights": (
        {"model": infinite_target},
        r"have a weight; \d+ of 50 have NaN or infinity. Look for",
    ),
    "outside": ({"model": never}, "in the support of the model; all 50 lie outside. Give"),
    "discrete": ({"model": discrete}, "continuous latent sites; model site 'x' is discrete. Sum"),
    "subsampled": ({"model": subsampled}, "no subsampled plate in the model.*'data' is subsampl"),
    "one_sample": ({"num_samples": 1}, "num_samples >= 2, .* got 1. Raise"),
    "no_particles": ({"num_particles": 0}, "num_particles to be an integer >= 1; got 0"),
    "no_batch": ({"batch_size": 0}, "batch_size to be an integer >= 1; got 0"),
    "share": ({"defensive_share": -0.1}, r"defensive_share to be in \[0, 1\); got -0.1. Pass 0.01"),
}


@pytest.mark.parametrize("options, message", BAD_PROGRAMS.values(), ids=BAD_PROGRAMS.keys())
def test_what_cannot_be_certified_is_refused_in_one_line(options, message):
    defaults = {"model": PROBLEM.model, "guide": PROBLEM.guide, "params": PROBLEM.params}
    options = {"num_samples": 50, "num_particles": 1, **defaults, **options}
    with pytest.raises(ValueError, match=message) as error:
        certify(random.key(0), **options)
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)
