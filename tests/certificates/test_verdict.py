"""The verdict in words, marginals and error bounds, for guides that are spoilt on purpose."""

from dataclasses import replace
from functools import cache
import re
import warnings

import numpy as np
import pytest

from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import autoguide

from numpyro_sumo import certify
from numpyro_sumo.certificates.error_bounds import error_bounds
from numpyro_sumo.certificates.verdict import BLIND_SPOT
from tests.certificates.test_any_guide import certificate_of, local_certificate
from tests.guides.test_extended_draws import guide_with
from tests.guides.test_extended_draws import target as hierarchical_target
from tests.helpers.statistics import Z

LOC = jnp.array([1.0, -2.0])
SCALE = jnp.array([0.5, 3.0])


def program(distribution):
    return lambda: numpyro.sample("z", distribution)


def normal(loc=LOC, scale=SCALE, correlation=0.0):
    matrix = jnp.array([[1.0, correlation], [correlation, 1.0]]) * jnp.outer(scale, scale)
    return dist.MultivariateNormal(loc, matrix)


def two_modes():
    parts = normal(jnp.array([[1.0, -2.0], [40.0, -2.0]]), SCALE)
    return dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.5, 0.5])), parts)


def heavy_tails():
    return dist.StudentT(3.0, LOC, SCALE).to_event(1)


@cache
def certificate(name):
    target, guide = CASES[name][:2]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected a k-hat of weights")
        return certify(random.key(0), program(target), program(guide), {}, num_samples=4_000)


#: Target, guide, verdict, and the sentence about what is wrong.
CASES = {
    "exact": (normal(), normal(), "good", None),
    "nearly": (normal(), normal(LOC + 0.02 * SCALE), "good", None),
    "shifted": (
        normal(),
        normal(LOC + jnp.array([0.0, -0.9])),
        "correct it",
        r"The mean of z\[1\] is off by 0.\d+ ± 0.\d+ posterior sds, where 0.1 is allowed. Train",
    ),
    "too_wide": (
        normal(),
        normal(scale=1.5 * SCALE),
        "correct it",
        r"The sd of z\[\d\] is 1.\d+ ± 0.\d+ times the posterior's \(and those of 1 others\).",
    ),
    "much_too_narrow": (normal(), normal(scale=SCALE / 3), "do not trust it", "have k-hat"),
    "correlation_lost": (
        normal(correlation=0.5),
        normal(),
        "correct it",
        r"The KL is 0.\d+ nats, .* correlations or a shape",
    ),
    "heavy_tails": (heavy_tails(), normal(), "do not trust it", "have k-hat"),
    "lost_mode": (two_modes(), normal(), "good", None),
}


@pytest.mark.parametrize("name", CASES)
def test_spoilt_guides_get_the_verdict_and_the_sentence_that_they_deserve(name):
    *_, verdict, sentence = CASES[name]
    found = certificate(name)
    assert found.verdict == verdict
    if sentence is None:
        assert found.problems == ()
    else:
        assert any(re.search(sentence, problem) for problem in found.problems)
    report = str(found)
    assert f"Verdict: {verdict};" in report and BLIND_SPOT in report
    assert all(problem in report for problem in found.problems)
    assert all(len(line) <= 100 for line in report.splitlines() if not line.startswith(("-", "V")))


@pytest.mark.parametrize("name", ["shifted", "too_wide", "nearly", "correlation_lost"])
def test_marginals_are_corrected_to_those_of_the_target(name):
    marginals = certificate(name).marginals
    guide = CASES[name][1]
    sd = np.sqrt(np.diag(guide.covariance_matrix))
    assert marginals.names == ("z[0]", "z[1]")
    error = Z / 4_000**0.5
    np.testing.assert_allclose(marginals.mean, guide.loc, atol=(error * sd).max())
    np.testing.assert_allclose(marginals.sd, sd, rtol=error)
    exact = (guide.loc - LOC) / SCALE
    assert np.all(np.abs(marginals.shift - exact) < Z * marginals.shift_se + 1e-4)
    assert np.all(np.abs(marginals.sd_ratio - sd / SCALE) < Z * marginals.sd_ratio_se + 1e-4)


@pytest.mark.parametrize("name", ["exact", "shifted", "too_wide", "nearly", "correlation_lost"])
def test_bounds_hold_for_means_sds_and_probabilities(name):
    guide, bounds = CASES[name][1], certificate(name).marginals.bounds
    sd = np.sqrt(np.diag(guide.covariance_matrix))
    assert np.all(np.abs(guide.loc - LOC) <= bounds.mean + 1e-3)
    assert np.all(np.abs(sd - SCALE) <= bounds.sd + 1e-3)
    grid = np.linspace(-6.0, 6.0, 200)[:, None] * SCALE + LOC
    of_guide, of_target = dist.Normal(guide.loc, sd).cdf(grid), dist.Normal(LOC, SCALE).cdf(grid)
    assert np.all(np.abs(of_guide - of_target).max(axis=0) <= bounds.probability + 1e-3)
    if name in ("exact", "nearly"):
        assert not bounds.vacuous.any() and np.all(bounds.mean < 0.05 * SCALE)


def test_bounds_of_two_points_are_those_of_cauchy_and_schwarz():
    """Draws 0 and 1 alike, weighted 1 : 3: χ² = 1/4, sd 1/2, so the mean is within 1/4: exactly."""
    values = np.tile([0.0, 1.0], 5_000_000)[:, None]
    bounds = error_bounds(values, np.where(values == 0.0, 0.5, 1.5), np.array([-np.inf]))
    assert bounds.mean[0] == pytest.approx(0.25, rel=2e-3)
    assert bounds.probability[0] == pytest.approx(0.25, rel=2e-3)
    infinite = error_bounds(values[:100], np.ones((100, 1)), np.array([0.6]))
    assert infinite.vacuous[0] and np.isinf(infinite.mean[0])


def test_report_says_what_is_a_bound_and_whose_are_the_worst_weights():
    exact = str(certificate("shifted"))
    assert "KL(guide ‖ posterior)  " in exact and "bound" not in exact
    assert "of the worst datum" in str(local_certificate())
    page = certificate("shifted")._repr_html_()
    assert page.startswith("<p><b>Certificate of") and "correct it" in page and "<li>" in page


def test_hierarchical_guide_with_a_poor_reverse_model_is_told_so():
    guide = guide_with((0.0, 1.0))
    found = certify(
        random.key(0), hierarchical_target, guide, {}, num_samples=2_000, num_particles=4
    )
    assert "KL(guide ‖ posterior), upper bound" in str(found)
    assert any("nats apart: the reverse model is poor. Raise" in p for p in found.problems)


def test_plot_shows_the_worst_marginals_or_those_that_are_named():
    figure = certificate_of("normal").plot()
    tail, *marginals = figure.axes
    assert "k-hat 0." in tail.get_title() and "trusted" in tail.get_title()
    assert {axes.get_title() for axes in marginals} == {"beta[0]", "beta[1]", "rate"}
    named = certificate_of("normal").plot(["rate"])
    assert [axes.get_title() for axes in named.axes[1:]] == ["rate"]
    with pytest.raises(ValueError, match=r"latent sites, of \['beta', 'rate'\]; got \['fitted'\]"):
        certificate_of("normal").plot(["fitted"])


def test_an_infinite_error_is_explained():
    unknown = replace(
        certificate("shifted"), log_evidence_se=np.inf, kl_upper_se=np.inf, pareto_k=0.6
    )
    (sentence,) = [each for each in unknown.problems if "infinite" in each]
    assert sentence.startswith("The ± of log-evidence is infinite: ")
    assert not any("inf nats" in each for each in unknown.problems)


def test_few_effective_draws_are_not_enough_for_a_verdict():
    few = replace(certificate("shifted"), ess=50.0)
    assert few.verdict == "do not trust it"
    assert "worth 50 independent ones, fewer than 100. Raise num_samples" in few.problems[0]


def test_a_guide_that_is_the_posterior_up_to_noise_of_its_weights_is_good():
    def model():
        numpyro.sample("z", dist.Normal(jnp.zeros(50), 1.0).to_event(1))

    start = numpyro.infer.init_to_value(values={"z": jnp.full(50, 0.01)})
    guide = autoguide.AutoNormal(model, init_scale=1.0, init_loc_fn=start)
    with numpyro.handlers.seed(rng_seed=0):
        sites = numpyro.handlers.trace(guide).get_trace()
    params = {n: s["value"] for n, s in sites.items() if s["type"] == "param"}
    assert certify(random.key(0), model, guide, params, num_samples=4_000).verdict == "good"
