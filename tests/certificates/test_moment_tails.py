"""k-hats of corrected means and sds, where the exact index of the tails is known."""

from functools import cache
import time

import numpy as np
import pytest
from scipy import stats

from jax import random

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import certify
from numpyro_sumo.certificates.moment_tails import moment_tails
from numpyro_sumo.diagnostics.pareto_k import pareto_k, tail_size, upper_tail_k
from tests.helpers.statistics import Z

COUNT = 10_000


def error_of(k):
    """The asymptotic standard error of k-hat (Hosking and Wallis 1987)."""
    return (1.0 + max(k, 0.0)) / tail_size(COUNT) ** 0.5


@cache
def certificate(target, guide):
    """Of a Student t by another one, or by the Normal for ∞ degrees of freedom."""
    programs = [
        lambda df=df: numpyro.sample("z", dist.StudentT(df) if np.isfinite(df) else dist.Normal())
        for df in (target, guide)
    ]
    return certify(random.key(0), *programs, {}, num_samples=COUNT)


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 2.0])
def test_k_hat_of_numbers_is_that_of_arviz_for_their_logarithms(scale):
    log_weights = scale * np.random.default_rng(0).normal(size=(3, 10_000))
    np.testing.assert_allclose(upper_tail_k(np.exp(log_weights)), pareto_k(log_weights), atol=1e-9)


def test_k_hat_of_numbers_has_edges():
    assert upper_tail_k(np.full(100, 3.0)) == -np.inf
    assert upper_tail_k(np.zeros(100)) == -np.inf
    assert upper_tail_k(np.arange(10.0)) == np.inf
    counts = np.random.default_rng(0).poisson(3.0, 1_000)  # with ties at the threshold
    assert np.isfinite(upper_tail_k(counts))
    assert upper_tail_k(np.ones((2, 3, 40))).shape == (2, 3)


def test_numbers_at_the_threshold_are_none_of_the_tail():
    """Two hundred exact Pareto quantiles of index 0.8, and zeros in the place of other draws."""
    values = np.zeros(COUNT)
    values[:200] = ((np.arange(200) + 0.5) / 200) ** -0.8 - 1.0
    assert upper_tail_k(values) == pytest.approx((200 * 0.8 + 10 * 0.5) / 210, abs=0.02)


@pytest.mark.parametrize("k", [0.2, 0.45, 0.8])
def test_exact_pareto_tails_have_the_index_of_mean_and_sd(k):
    """Equal weights and quantiles u^(−k): w |z| has index k, and w z² index 2 k."""
    levels = (np.arange(COUNT) + 0.5) / COUNT
    values = levels[:, None] ** -k
    found = moment_tails(values, np.ones_like(values), np.array([-np.inf]))
    # The prior of the fit is worth ten observations of 0.5.
    share = tail_size(COUNT) / (tail_size(COUNT) + 10)
    # Numbers above a threshold of u^(−k) are Pareto exactly.
    assert found.mean[0] == pytest.approx(share * k + (1 - share) * 0.5, abs=0.02)
    assert found.sd[0] == pytest.approx(share * 2 * k + (1 - share) * 0.5, abs=0.02)


def test_index_of_weights_and_that_of_values_add_up():
    """Weights u^(−a) and values u^(−b): w |z| has index a + b, and w z² index a + 2 b."""
    levels = ((np.arange(COUNT) + 0.5) / COUNT)[:, None]
    weights, values = levels**-0.3, levels**-0.25
    found = moment_tails(values, weights, np.array([0.3]))
    assert found.mean[0] == pytest.approx(0.55, abs=0.02)
    assert found.sd[0] == pytest.approx(0.8, abs=0.02)
    largest = moment_tails(1.0 / values, weights, np.array([0.6]))
    assert largest.mean[0] == largest.sd[0] == 0.6  # of the weights


@pytest.mark.parametrize("degrees", [2.0, 2.5, 4.0])
def test_student_t_under_itself_has_the_index_of_its_degrees_of_freedom(degrees):
    """w = 1, and |z|ⁿ has the index n / ν."""
    tails = certificate(degrees, degrees).marginals.pareto_k
    for found, exact in ((tails.mean[0], 1.0 / degrees), (tails.sd[0], 2.0 / degrees)):
        # Above the threshold t is not yet Pareto: a twentieth is allowed for that.
        assert abs(found - exact) < Z * error_of(exact) + 0.05


def test_bounded_weights_leave_the_sd_of_a_student_t_unknown():
    """t(2.2) for t(2.5): w falls as |z|^(−0.3), and w z² has the index 1.7 / 2.2."""
    found = certificate(2.5, 2.2)
    assert found.pareto_k < 0.3
    assert found.marginals.pareto_k.sd[0] == pytest.approx(1.7 / 2.2, abs=Z * error_of(0.77) + 0.05)
    assert found.marginals.pareto_k.mean[0] < 0.7


def test_weights_of_a_wider_normal_have_its_index_and_means_and_sds_no_less():
    """w = exp(z² (1 − 1/s²) / 2) / s under the standard Normal has the index 1 − 1/s²."""
    scale = 1.2
    exact = 1.0 - scale**-2
    z = stats.norm.isf((np.arange(COUNT) + 0.5) / COUNT)[:, None]
    log_weights = stats.norm.logpdf(z, scale=scale) - stats.norm.logpdf(z)
    k_hat = pareto_k(log_weights.T)
    assert k_hat[0] == pytest.approx(exact, abs=0.1)  # ∼ u^(−k) up to a power of log u
    tails = moment_tails(z, np.exp(log_weights), k_hat)
    assert k_hat[0] < tails.mean[0] < tails.sd[0] < k_hat[0] + 0.3


def test_an_sd_that_weights_do_not_tell_is_named_and_no_guide_of_it_is_good():
    found = certificate(1.0, 1.01)
    assert found.pareto_k < 0.7 and found.verdict == "correct it"
    (sentence,) = [each for each in found.problems if "k-hat" in each]
    assert sentence.startswith("The k-hat of the sd of z is 1.") and "Report quantiles" in sentence
    assert "of the sd of z" in str(found) and "k-hat of means and sds" in found._repr_html_()


def test_a_guide_that_is_the_posterior_is_good_however_heavy_its_tails():
    found = certificate(2.5, 2.5)
    assert found.marginals.pareto_k.untrusted.all()
    assert found.verdict == "good" and not found.problems


def test_tails_of_light_weights_and_values_are_trusted():
    found = certificate(np.inf, np.inf)
    assert not found.marginals.pareto_k.untrusted.any()
    assert found.marginals.pareto_k.worst[1:] == ("sd", 0)


def test_hundreds_of_numbers_take_less_than_a_second():
    values = np.random.default_rng(0).normal(size=(10_000, 300))
    started = time.process_time()
    moment_tails(values, np.ones_like(values), np.full(300, -np.inf))
    assert time.process_time() - started < 1.0
