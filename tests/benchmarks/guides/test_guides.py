import json

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln, logsumexp

import jax
import jax.numpy as jnp

from numpyro import handlers

from benchmarks.guides import __main__ as command
from benchmarks.guides import models as of_models
from benchmarks.guides.models import models
from benchmarks.guides.problems import NUM_DRAWS
from benchmarks.guides.report import _zs, false_correct, false_good, report
from benchmarks.guides.simple import simple_targets
from benchmarks.models import by_quadrature

PROBLEMS = models() | simple_targets()


def evidence_of_earnings():
    """log p(y, β) − log p(β | y) at the posterior mean."""
    x, y, sds = of_models.COVARIATES, of_models.EARNINGS, of_models.PRIOR_SDS
    exact = models()["earnings"].exact
    beta = exact.mean["beta"]
    precision = np.diag(sds**-2.0) + x.T @ x / of_models.NOISE**2
    log_joint = stats.norm.logpdf(y, x @ beta, of_models.NOISE).sum()
    log_joint += stats.norm.logpdf(beta, 0.0, sds).sum()
    return log_joint - 0.5 * np.linalg.slogdet(precision / 2.0 / np.pi)[1]


def evidence_of_normal_gamma():
    """A sum over a grid of means and log-precisions."""
    mean, log_precision = np.linspace(1.0, 9.0, 400), np.linspace(-5.0, 3.0, 400)
    loc, precision = np.meshgrid(mean, np.exp(log_precision), indexing="ij")
    sd = precision**-0.5
    log_p = stats.gamma.logpdf(precision, of_models.SHAPE, scale=1.0 / of_models.RATE)
    log_p += stats.norm.logpdf(loc, of_models.LOC, sd / of_models.PRIOR_COUNT**0.5)
    log_p += sum(stats.norm.logpdf(y, loc, sd) for y in of_models.OBSERVED) + np.log(precision)
    return logsumexp(log_p) + np.log((mean[1] - mean[0]) * (log_precision[1] - log_precision[0]))


def evidence_of_dirichlet():
    """The number of sequences of counts, times the probability of each under a flat prior."""
    counts = of_models.COUNTS
    total = counts.sum()
    return gammaln(total + 1.0) + gammaln(5.0) - gammaln(total + 5.0)


def evidence_of_groups():
    """A sum over a grid of means and log-scales; the groups' own means are integrated out."""
    mu, log_tau = np.linspace(0.0, 2.0, 200), np.linspace(-6.0, 2.0, 400)
    loc, tau = np.meshgrid(mu, np.exp(log_tau), indexing="ij")
    log_p = stats.norm.logpdf(loc, 0.0, 2.0) + stats.halfnorm.logpdf(tau) + np.log(tau)
    sd = np.sqrt(tau**2 + 0.25)
    log_p += sum(stats.norm.logpdf(y, loc, sd) for y in of_models.GROUP_EFFECTS)
    return logsumexp(log_p) + np.log((mu[1] - mu[0]) * (log_tau[1] - log_tau[0]))


EVIDENCE = {
    "earnings": evidence_of_earnings,
    "normal_gamma": evidence_of_normal_gamma,
    "dirichlet": evidence_of_dirichlet,
    "logistic": lambda: by_quadrature.MODELS["logistic"].log_evidence({}),
    "schools": lambda: by_quadrature.MODELS["eight_schools"].log_evidence({}),
    "groups": evidence_of_groups,
}


@pytest.mark.parametrize("name", EVIDENCE)
def test_evidence_is_that_of_another_computation(name):
    np.testing.assert_allclose(models()[name].exact.log_evidence, EVIDENCE[name](), atol=1e-3)


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_moments_are_those_of_the_exact_draws(name):
    problem = PROBLEMS[name]
    for site, draws in problem.draws.items():
        mean, sd = problem.exact.mean[site], problem.exact.sd[site]
        assert np.all(np.abs(draws.mean(axis=0) - mean) < 5.0 * sd / NUM_DRAWS**0.5)
        spread = ((draws - mean) ** 2).std(axis=0) / NUM_DRAWS**0.5
        assert np.all(np.abs(((draws - mean) ** 2).mean(axis=0) - sd**2) < 5.0 * spread)


@pytest.mark.parametrize("name", PROBLEMS)
def test_sites_of_each_model_are_in_alphabetical_order(name):
    traced = handlers.trace(handlers.seed(PROBLEMS[name].model, 0))
    sites = []
    jax.eval_shape(lambda: sites.extend(traced.get_trace()) or jnp.zeros(()))
    latents = [site for site in sites if site in PROBLEMS[name].exact.mean]
    assert latents == sorted(PROBLEMS[name].exact.mean)


def test_good_is_false_where_a_true_sd_is_off():
    cell = {"verdict": ["good", "correct it", "good"], "mean_off": 0.05, "mean_off_error": 0.01}
    assert false_good(cell | {"sd_off": 0.2, "sd_off_error": 0.01}) == 2
    assert false_good(cell | {"sd_off": 0.12, "sd_off_error": 0.01}) == 0
    assert false_good({"refused": "Expected a mode."}) == 0


def test_correction_is_false_where_corrected_draws_are_off_by_more_than_their_noise():
    cell = {"verdict": ["correct it", "correct it", "good"], "ess": [400.0, 10_000.0, 400.0]}
    assert false_correct(cell | {"corrected_off": [0.2, 0.2, 0.9]}) == 1


def test_tiny_run_writes_report_figures_and_picture(tmp_path, monkeypatch):
    jobs = [("comfort", "two_modes", "lost_mode"), ("evidence", "normal_gamma", "AutoNormal")]
    monkeypatch.setattr(command, "jobs_of", lambda quick: jobs)
    assert command.main(["--quick", "--seeds", "2", "--out", str(tmp_path)]) == 0
    names = {"evidence.png", "guides.json", "report.html", "report.md"}
    assert {file.name for file in tmp_path.iterdir()} == names
    results = json.loads((tmp_path / "guides.json").read_text())
    cell = results["evidence"]["normal_gamma"]["AutoNormal"]
    assert len(cell["z"]) == 2 and cell["bounds_held"] == 1.0
    np.testing.assert_allclose(cell["pareto_k"], cell["pareto_k_numpyro"], atol=1e-3)
    lost = results["comfort"]["two_modes"]["lost_mode"]
    np.testing.assert_allclose(lost["log_evidence"], -np.log(2.0), atol=1e-3)
    text = (tmp_path / "report.md").read_text()
    assert "| AutoNormal |" in text and "nan" not in text and text == report(results)


def test_certificates_with_an_infinite_error_are_counted_apart():
    cell = {"z": [0.0, 5.0, 1.0], "pareto_k": [0.9, 0.6, None], "log_evidence_se": [None, 0.1, 0.1]}
    assert _zs(cell, 0.5, 0.7) == [5.0]
    assert _zs(cell, 0.7, np.inf) == []
    assert _zs(cell, -np.inf, 0.5) == [1.0]
