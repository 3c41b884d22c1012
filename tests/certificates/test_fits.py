"""What is done with a certificate: ArviZ, leave-one-out, warm starts, comparisons and files."""

from dataclasses import replace
from functools import cache
import warnings

import numpy as np
import pytest
from scipy import stats

from jax import random
from jax.example_libraries import stax
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, autoguide

from numpyro_sumo import (
    IndependenceMetropolis,
    certify,
    compare_certificates,
    load,
    loo,
    save,
    to_arviz,
    warm_start,
)
from numpyro_sumo.certificates.array_files import FORMAT
from numpyro_sumo.certificates.loo import _leave_one_out, _total
from tests.certificates.test_any_guide import certificate_of, local_certificate
from tests.helpers.guides import NOISE, X, Y, fit, regression
from tests.helpers.statistics import Z, assert_mean

SIZES = {"chain": 1, "draw": 500}


def run_chains(kernel, num_chains=1, **options):
    mcmc = MCMC(
        kernel,
        num_warmup=50,
        num_samples=100,
        num_chains=num_chains,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(0), X, Y, **options)
    return mcmc


@cache
def arviz_of_certificate():
    return to_arviz(certificate_of("normal"), num_draws=500)


def test_arviz_data_of_a_certificate_have_the_groups_and_the_names_of_plates():
    data, certificate = arviz_of_certificate(), certificate_of("normal")
    at = np.linspace(0, certificate.num_samples - 1, 500).astype(int)
    beta = data.posterior["beta"]
    assert dict(beta.sizes) == {**SIZES, "coefficients_dim": 2}
    np.testing.assert_array_equal(beta.values[0], certificate.resampled["beta"][at])
    assert dict(data.posterior["fitted"].sizes) == {**SIZES, "fitted_dim_0": 4}
    assert dict(data.log_likelihood["y"].sizes) == {**SIZES, "data_dim": 4}
    expected = stats.norm.logpdf(Y, data.posterior["fitted"].values, NOISE)
    np.testing.assert_allclose(data.log_likelihood["y"].values, expected, atol=1e-4)
    rate = data.posterior["rate"].values
    np.testing.assert_allclose(data.unconstrained_posterior["rate"], np.log(rate), atol=1e-5)
    np.testing.assert_array_equal(data.observed_data["y"].values, Y)
    assert set(data.constant_data) == {"x"}


def test_statistics_of_resampled_draws_are_those_of_their_weights():
    stats_of = arviz_of_certificate().sample_stats
    difference = stats_of["lp"] - stats_of["log_q"]
    np.testing.assert_allclose(difference.values, stats_of["log_weight"].values, atol=1e-9)
    posterior = arviz_of_certificate().posterior
    log_p = stats.norm.logpdf(posterior["beta"].values).sum(-1)
    log_p += stats.norm.logpdf(Y, posterior["fitted"].values, NOISE).sum(-1)
    rate = posterior["rate"].values
    log_p += stats.gamma.logpdf(rate, 3.0, scale=0.5) + stats.poisson.logpmf(4, rate)
    np.testing.assert_allclose(stats_of["lp"].values, log_p, atol=1e-3)


def test_predictions_have_the_law_of_new_data_given_the_draws():
    data = arviz_of_certificate()
    residuals = (data.posterior_predictive["y"] - data.posterior["fitted"].values).values.ravel()
    assert abs(residuals.mean()) < Z * NOISE / len(residuals) ** 0.5
    assert abs(residuals.std() / NOISE - 1.0) < Z / (2 * len(residuals)) ** 0.5


def test_draws_may_be_those_of_the_guide_as_they_are():
    certificate = certificate_of("normal")
    data = to_arviz(certificate, corrected=False, num_draws=certificate.num_samples)
    np.testing.assert_array_equal(data.posterior["beta"].values[0], certificate.draws["beta"])
    log_weight = data.sample_stats["log_weight"].values[0]
    np.testing.assert_array_equal(log_weight, certificate.log_weights)


def test_arviz_data_of_chains_have_the_same_groups():
    guide, params = fit("normal")
    kernel = IndependenceMetropolis(regression, guide, params)
    mcmc = run_chains(kernel, 2, extra_fields=("accept_prob", "log_weight"))
    data = to_arviz(mcmc)
    assert dict(data.posterior["beta"].sizes) == {"chain": 2, "draw": 100, "coefficients_dim": 2}
    assert {"acceptance_rate", "log_weight"} <= set(data.sample_stats)
    assert dict(data.log_likelihood["y"].sizes) == {"chain": 2, "draw": 100, "data_dim": 4}
    fitted = data.posterior["beta"].values @ X.T
    np.testing.assert_allclose(data.posterior["fitted"].values, fitted, atol=1e-5)


def test_each_datum_with_its_own_draw_has_no_joint_statistics():
    data = to_arviz(local_certificate(), num_draws=500)
    assert dict(data.posterior["z"].sizes) == {**SIZES, "data_dim": 3, "z_dim_1": 2}
    assert "sample_stats" not in data.children if hasattr(data, "children") else True


def test_what_arviz_data_are_not_made_of_is_refused():
    with pytest.raises(ValueError, match="a posterior, or MCMC that has run; got dict. Pass"):
        to_arviz({})
    with pytest.raises(ValueError, match="MCMC that has run; it has no draws. Call"):
        to_arviz(MCMC(NUTS(regression), num_warmup=1, num_samples=1))


# Leave-one-out: exact for a Gaussian regression.


def gaussian(x, y):
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, NOISE), obs=y)


def wide_guide(x, y):
    """The posterior's mean, and twice its variance."""
    covariance = 2.0 * jnp.linalg.inv(jnp.eye(2) + x.T @ x / NOISE**2)
    mean = covariance / 2.0 @ x.T @ y / NOISE**2
    numpyro.sample("beta", dist.MultivariateNormal(mean, covariance))


def exact_loo(x, y):
    covariance = x @ x.T + NOISE**2 * np.eye(len(y))
    precision = np.linalg.inv(covariance)
    variance = 1.0 / np.diag(precision)
    return stats.norm.logpdf(y, y - precision @ y * variance, variance**0.5)


DATA_RNG = np.random.default_rng(0)
MANY_X = DATA_RNG.normal(size=(60, 2))
MANY_Y = MANY_X @ np.array([0.5, -1.0]) + NOISE * DATA_RNG.normal(size=60)


@cache
def gaussian_certificate():
    return certify(random.key(0), gaussian, wide_guide, {}, MANY_X, MANY_Y, num_samples=4_000)


def test_leave_one_out_densities_are_the_exact_ones():
    result = loo(gaussian_certificate())
    exact = exact_loo(MANY_X, MANY_Y)
    assert abs(result.elpd - exact.sum()) < Z * result.monte_carlo_se < 0.3
    np.testing.assert_allclose(result.pointwise, exact, atol=0.1)
    assert result.elpd_se == pytest.approx((60 * exact.var(ddof=1)) ** 0.5, rel=0.05)
    assert 1.0 < result.p_loo < 3.5 and np.all(result.pareto_k < 0.7)
    assert f"elpd {result.elpd:.2f} ±" in str(result)


def test_a_part_of_the_data_estimates_the_sum_over_all():
    whole, part = loo(gaussian_certificate()), loo(gaussian_certificate(), num_data=20, seed=1)
    assert len(part.pointwise) == len(part.indices) == 20
    np.testing.assert_allclose(part.pointwise, whole.pointwise[part.indices], rtol=1e-6)
    rng, at_mean = np.random.default_rng(0), whole.pointwise + 0.1 * DATA_RNG.normal(size=60)
    chosen = [rng.choice(60, 20, replace=False) for _ in range(2_000)]
    totals, errors = np.transpose([_total(whole.pointwise[at], at_mean, at) for at in chosen])
    assert_mean(totals, whole.elpd)
    of_subsample = np.mean(errors**2) - whole.elpd_se**2
    assert of_subsample == pytest.approx(totals.var(ddof=1), rel=0.2)


def scaled_gaussian(x, y):
    with numpyro.handlers.scale(scale=0.9):
        gaussian(x, y)


def masked_gaussian(x, y):
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("data", len(y)), numpyro.handlers.mask(mask=jnp.arange(len(y)) < 40):
        numpyro.sample("y", dist.Normal(x @ beta, NOISE), obs=y)


def guide_of_forty(x, y):
    wide_guide(x[:40], y[:40])


def uniform_data(y):
    bound = numpyro.sample("bound", dist.Exponential())
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Uniform(0.0, bound), obs=y)


def unbounded_guide(y):
    numpyro.sample("bound", dist.LogNormal(0.5, 0.5))


def test_masked_data_are_left_out_and_scaled_ones_are_refused():
    inputs = MANY_X, MANY_Y
    options = {"num_samples": 1_000}
    found = loo(certify(random.key(0), masked_gaussian, guide_of_forty, {}, *inputs, **options))
    np.testing.assert_array_equal(found.indices, np.arange(40))
    few = certify(random.key(0), gaussian, wide_guide, {}, *(a[:40] for a in inputs), **options)
    assert found.elpd == pytest.approx(loo(few).elpd, abs=1e-3)
    scaled = certify(random.key(0), scaled_gaussian, wide_guide, {}, *inputs, **options)
    with pytest.raises(ValueError, match=r"without a scale.*\['y'\] have one. Drop"):
        loo(scaled)


def test_draws_that_make_the_data_impossible_are_refused_by_leave_one_out():
    y = jnp.array([0.3, 1.2])
    certificate = certify(random.key(0), uniform_data, unbounded_guide, {}, y, num_samples=1_000)
    with pytest.raises(ValueError, match=r"every datum has a density; \d+ of 1000 give one"):
        loo(certificate)


def test_error_over_draws_is_that_of_estimates_from_other_draws():
    """Sums over data from 40 parts of the draws spread as their errors say."""
    options = {"num_samples": 20_000}
    certificate = certify(random.key(1), gaussian, wide_guide, {}, MANY_X, MANY_Y, **options)
    beta = np.asarray(certificate.draws["beta"], np.float64)
    log_likelihood = stats.norm.logpdf(MANY_Y, beta @ MANY_X.T, NOISE)
    parts = zip(np.split(certificate.log_weights, 40), np.split(log_likelihood, 40))
    found = [_leave_one_out(*part) for part in parts]
    spread = np.std([values.sum() for values, _, _ in found], ddof=1)
    reported = np.mean([np.sqrt((influence**2).sum()) for *_, influence in found])
    assert reported == pytest.approx(spread, rel=0.35)


def no_data():
    numpyro.sample("z", dist.Normal())


def test_leave_one_out_is_refused_where_it_means_nothing():
    nothing = certify(random.key(0), no_data, no_data, {}, num_samples=100)
    with pytest.raises(ValueError, match="with observed sites, .* has none. Condition"):
        loo(nothing)
    with pytest.raises(ValueError, match=r"in common; .*certificate.per_datum.log_evidence"):
        loo(local_certificate())
    with pytest.raises(ValueError, match="num_data >= 2, .* got 1"):
        loo(gaussian_certificate(), num_data=1)


# Warm starts.


def test_warm_start_has_the_posterior_s_covariance_and_draws_of_it():
    certificate = gaussian_certificate()
    warm = warm_start(random.key(0), certificate, num_chains=3, dense=True)
    exact = np.linalg.inv(np.eye(2) + MANY_X.T @ MANY_X / NOISE**2)
    found = warm.kernel["inverse_mass_matrix"][("beta",)]
    np.testing.assert_allclose(found, exact, atol=0.15 * exact.max())
    assert warm.init_params["beta"].shape == (3, 2)
    kernel = NUTS(gaussian, **warm.kernel)
    mcmc = MCMC(
        kernel,
        num_warmup=20,
        num_samples=100,
        num_chains=3,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(1), MANY_X, MANY_Y, init_params=warm.init_params)
    mean = exact @ MANY_X.T @ MANY_Y / NOISE**2
    error = Z * (np.diag(exact) / 50) ** 0.5
    assert np.all(np.abs(mcmc.get_samples()["beta"].mean(axis=0) - mean) < error)


def test_warm_start_of_constrained_sites_is_in_unconstrained_space():
    certificate = certificate_of("normal")
    warm = warm_start(random.key(0), certificate, num_chains=1)
    variances = warm.kernel["inverse_mass_matrix"][("beta", "rate")]
    log_rate = np.log(np.asarray(certificate.resampled["rate"]))
    assert variances.shape == (3,) and variances[2] == pytest.approx(log_rate.var(), rel=1e-3)
    assert np.min(np.abs(log_rate - warm.init_params["rate"])) < 1e-5
    assert warm.init_params["beta"].shape == (2,) and not warm.kernel["dense_mass"]


def test_warm_start_takes_the_guide_s_own_draws_where_weights_say_nothing():
    certificate = replace(gaussian_certificate(), ess=1.2)
    warm = warm_start(random.key(0), certificate, num_chains=3)
    own = np.asarray(certificate.draws["beta"])
    np.testing.assert_allclose(
        warm.kernel["inverse_mass_matrix"][("beta",)], own.var(axis=0), rtol=1e-4
    )
    assert len({tuple(start) for start in np.asarray(warm.init_params["beta"])}) == 3


def test_warm_start_of_too_few_draws_is_refused():
    few = certify(random.key(0), no_data, no_data, {}, num_samples=2)
    with pytest.raises(ValueError, match="a draw for each chain; got 2 draws for 3 chains. Raise"):
        warm_start(random.key(0), few, num_chains=3)
    few = replace(few, log_weights=few.log_weights[:1])
    with pytest.raises(ValueError, match="dense mass matrix; got 1 for 1. Pass dense=False"):
        warm_start(random.key(0), few, num_chains=1, dense=True)


# Comparisons.


def test_common_draws_take_the_noise_out_of_a_comparison():
    params = {"loc": jnp.array(0.7), "scale": jnp.array(1.0)}

    def guide():
        numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), numpyro.param("scale", 1.0)))

    near = {**params, "loc": jnp.array(0.65)}
    options = {"num_samples": 2_000}
    first, second = (
        certify(random.key(key), no_data, guide, each, **options)
        for key, each in ((0, near), (0, params))
    )
    comparison = compare_certificates(first, second)
    assert abs(comparison.elbo - (0.7**2 - 0.65**2) / 2) < Z * comparison.elbo_se
    apart = (first.elbo_lower_se**2 + second.elbo_lower_se**2) ** 0.5
    assert comparison.elbo_se < 0.1 * apart
    assert abs(comparison.log_evidence) < Z * comparison.log_evidence_se < 0.05


def test_certificates_that_cannot_be_compared_are_refused():
    nothing = certify(random.key(0), no_data, no_data, {}, num_samples=4_000)
    with pytest.raises(ValueError, match=r"of one model; .*\['z'\]"):
        compare_certificates(gaussian_certificate(), nothing)
    few = certify(random.key(0), no_data, no_data, {}, num_samples=100)
    with pytest.raises(ValueError, match="as many draws; got 4000 and 100. Pass"):
        compare_certificates(nothing, few)


# Files.


def assert_same(left, right):
    assert left.figures == right.figures
    for name in left.draws:
        np.testing.assert_array_equal(left.draws[name], right.draws[name])
        np.testing.assert_array_equal(left.resampled[name], right.resampled[name])
    assert left.verdict == right.verdict and left.problems == right.problems
    np.testing.assert_array_equal(random.key_data(left.rng_key), random.key_data(right.rng_key))


@pytest.mark.parametrize("name", ["normal", "low_rank", "iaf", "laplace"])
def test_automatic_guides_are_made_again_from_a_file(name, tmp_path):
    certificate = certificate_of(name)
    save(tmp_path / "fit", certificate)
    again = load(tmp_path / "fit", regression, X, Y)
    assert_same(certificate, again)
    if name != "iaf":
        return
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected a k-hat of weights")
        anew = certify(
            again.rng_key,
            regression,
            again.programs.guide,
            again.programs.params,
            X,
            Y,
            num_samples=10_000,
        )
    np.testing.assert_allclose(anew.log_weights, certificate.log_weights, atol=1e-4)


def test_certificates_per_datum_and_guides_by_hand_go_through_files(tmp_path):
    save(tmp_path / "local", certificate := local_certificate())
    again = load(tmp_path / "local", certificate.programs.model, *certificate.programs.args)
    assert_same(certificate, again)
    np.testing.assert_array_equal(again.per_datum.pareto_k, certificate.per_datum.pareto_k)
    save(tmp_path / "hand", gaussian_certificate())
    assert_same(
        gaussian_certificate(),
        load(tmp_path / "hand", gaussian, MANY_X, MANY_Y, guide=wide_guide),
    )


def other_sites(x, y):
    numpyro.sample("alpha", dist.Normal())


def other_noise(x, y):
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("data", len(y)):
        numpyro.sample("y", dist.Normal(x @ beta, 1.01 * NOISE), obs=y)


def narrow_guide(x, y):
    covariance = jnp.linalg.inv(jnp.eye(2) + x.T @ x / NOISE**2)
    mean = covariance @ x.T @ y / NOISE**2
    numpyro.sample("beta", dist.MultivariateNormal(mean, covariance))


def test_options_that_are_no_plain_values_need_the_guide(tmp_path):
    def model():
        numpyro.sample("z", dist.Normal().expand([2]))

    guide = autoguide.AutoIAFNormal(model, hidden_dims=[2], nonlinearity=stax.Tanh, num_flows=1)
    with numpyro.handlers.seed(rng_seed=0):
        sites = numpyro.handlers.trace(guide).get_trace()
    params = {n: site["value"] for n, site in sites.items() if site["type"] == "param"}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected a k-hat of weights")
        certificate = certify(random.key(0), model, guide, params, num_samples=100)
    save(tmp_path / "fit", certificate)
    with pytest.raises(ValueError, match="the guide that was certified.*got none. Pass guide="):
        load(tmp_path / "fit", model)
    assert_same(certificate, load(tmp_path / "fit", model, guide=guide))


def test_files_of_other_models_or_versions_and_cut_ones_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "fit"
    save(path, gaussian_certificate())
    same, other = (MANY_X, MANY_Y), (MANY_X, MANY_Y + 1e-3)
    refused = {
        "certified, written by hand, .*Pass guide": (gaussian, same, None),
        "arguments that were certified; .* are others. Pass": (gaussian, other, wide_guide),
        "model and data that were certified": (other_sites, same, wide_guide),
        "model and data that were": (other_noise, same, wide_guide),
        "the guide that was certified": (gaussian, same, narrow_guide),
    }
    for message, (model, inputs, guide) in refused.items():
        with pytest.raises(ValueError, match=message) as error:
            load(path, model, *inputs, guide=guide)
        assert "\n" not in str(error.value)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="complete file of a certificate; .*Save it again"):
        load(path, gaussian, MANY_X, MANY_Y, guide=wide_guide)
    with pytest.raises(ValueError, match="complete file of a certificate"):
        load(tmp_path / "none", gaussian, MANY_X, MANY_Y, guide=wide_guide)
    monkeypatch.setattr("numpyro_sumo.certificates.array_files.FORMAT", "0")
    save(path, gaussian_certificate())
    monkeypatch.undo()
    with pytest.raises(ValueError, match=f"in format {FORMAT}; .* has 0. Save"):
        load(path, gaussian, MANY_X, MANY_Y, guide=wide_guide)
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="a folder to write to; there is no .*nowhere. Create"):
        save(tmp_path / "nowhere" / "fit", gaussian_certificate())
