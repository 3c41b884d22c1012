"""Certificates, densities, chains and training of guides of all kinds, against closed forms."""

from functools import cache, partial
import warnings

import numpy as np
import optax
import pytest
from scipy import stats

import jax
from jax import random
import jax.numpy as jnp

import numpyro
from numpyro import handlers
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, autoguide

from numpyro_sumo import (
    IndependenceMetropolis,
    ReverseKL,
    certify,
    kl_sandwich,
    log_marginal,
    to_arviz,
)
from tests.helpers.guides import (
    GUIDES,
    X,
    Y,
    by_hand,
    exact_log_evidence,
    fit,
    posterior_of_beta,
    regression,
)
from tests.helpers.statistics import Z, mean_and_se


@cache
def certificate_of(name):
    guide, params = fit(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Expected a k-hat of weights")
        return certify(random.key(1), regression, guide, params, X, Y, num_samples=10_000)


@pytest.mark.parametrize("name", GUIDES)
def test_evidence_is_within_its_errors_and_nothing_is_estimated_twice(name):
    certificate = certificate_of(name)
    if certificate.pareto_k <= 0.7:
        error = certificate.log_evidence - exact_log_evidence()
        assert abs(error) < Z * certificate.log_evidence_se < 0.05
    assert certificate.elbo_lower == certificate.elbo_upper
    assert certificate.kl_lower == certificate.kl_upper
    assert certificate.per_datum is None
    fitted = np.asarray(certificate.resampled["beta"]) @ X.T
    np.testing.assert_allclose(certificate.resampled["fitted"], fitted, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in GUIDES if name != "bnaf"])
def test_density_at_the_guide_s_own_draws_is_that_in_the_weights(name):
    guide, params = fit(name)
    certificate = certificate_of(name)
    points = {site: values[:50] for site, values in certificate.latents.items()}
    log_q = log_marginal(random.key(2), guide, params, points, X, Y)
    expected = certificate.log_target - certificate.log_weights
    np.testing.assert_allclose(log_q, expected[:50], atol=2e-3)


def test_weights_of_a_guide_by_hand_are_those_of_its_density():
    _, params = fit("by_hand")
    certificate = certificate_of("by_hand")
    beta, rate = (np.asarray(certificate.draws[name], np.float64) for name in ("beta", "rate"))
    mean, _ = posterior_of_beta()
    width, loc = float(params["width"]), float(params["loc"])
    halves = [stats.norm.pdf(beta, mean + shift, width) for shift in (-0.1, 0.1)]
    log_q = np.log(np.mean(halves, axis=0)).sum(axis=1)
    log_q += stats.lognorm.logpdf(rate, 0.4, scale=np.exp(loc))
    log_p = stats.norm.logpdf(beta).sum(axis=1) + stats.gamma.logpdf(rate, 3.0, scale=0.5)
    log_p += stats.norm.logpdf(Y, beta @ X.T, 0.8).sum(axis=1) + stats.poisson.logpmf(4, rate)
    np.testing.assert_allclose(certificate.log_weights, log_p - log_q, atol=1e-4)


def test_divergence_from_a_target_has_both_bounds_alike():
    guide, params = fit("normal")
    bounds = kl_sandwich(random.key(3), regression, guide, params, X, Y, num_samples=2_000)
    assert bounds.lower == bounds.upper
    exact = certificate_of("normal").kl_upper - exact_log_evidence()
    assert abs(bounds.upper - exact) < Z * (bounds.upper_se + certificate_of("normal").kl_upper_se)


# Plates around all sites: each element has its own latents and its own evidence.


def local_model(x):
    with numpyro.plate("data", len(x)):
        scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
        z = numpyro.sample("z", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
        numpyro.deterministic("sum", z.sum(-1))
        numpyro.sample("x", dist.Normal(z.sum(-1), 1.0), obs=x)
        numpyro.factor("nothing", 0.0 * scale)


LOCAL_X = jnp.array([-1.0, 0.5, 2.0])


@cache
def local_certificate():
    guide = autoguide.AutoNormal(local_model, init_scale=0.7)
    svi = SVI(local_model, guide, optax.adam(0.02), Trace_ELBO(num_particles=8))
    params = svi.run(random.key(0), 500, LOCAL_X, progress_bar=False).params
    return certify(random.key(1), local_model, guide, params, LOCAL_X, num_samples=10_000)


def test_each_element_of_a_plate_around_all_sites_has_its_evidence():
    certificate = local_certificate()
    exact = stats.norm.logpdf(LOCAL_X, scale=3.0**0.5)
    found = certificate.per_datum
    assert found.pareto_k.shape == found.ess.shape == (3,)
    assert np.all(np.abs(found.log_evidence - exact) < Z * found.log_evidence_se)
    assert certificate.pareto_k == found.pareto_k.max() < 0.7
    assert certificate.ess == found.ess.min()
    assert abs(certificate.log_evidence - exact.sum()) < Z * certificate.log_evidence_se < 0.1


def test_each_element_of_a_plate_is_resampled_by_itself():
    certificate = local_certificate()
    total = np.asarray(certificate.resampled["sum"])
    np.testing.assert_allclose(total, np.asarray(certificate.resampled["z"]).sum(-1), atol=1e-5)
    error = Z / certificate.ess**0.5
    assert np.all(np.abs(total.mean(axis=0) - 2.0 / 3.0 * LOCAL_X) < error)
    np.testing.assert_allclose(total.var(axis=0), 2.0 / 3.0, rtol=2 * error)


def across(x):
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("x", dist.Normal(z + jnp.roll(z, 1), 1.0), obs=x)


def guide_of_across(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(0.3 * x, 0.8))


def test_elements_that_affect_each_other_have_one_joint_weight():
    x = jnp.array([-1.0, 0.5, 2.0])
    certificate = certify(random.key(0), across, guide_of_across, {}, x, num_samples=4_000)
    design = np.eye(3) + np.roll(np.eye(3), 1, axis=0)
    exact = stats.multivariate_normal.logpdf(x, cov=design @ design.T + np.eye(3))
    assert certificate.per_datum is None
    assert abs(certificate.log_evidence - exact) < Z * certificate.log_evidence_se < 0.2


# Discrete sites that are summed out.


def local_mixture(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal())
        k = numpyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.sample("x", dist.Normal(3.0 * k, 1.0), obs=x)


def local_prior(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal())


def test_sites_summed_out_within_a_plate_have_a_joint_weight():
    pytest.importorskip("funsor")
    x = np.array([-0.5, 2.9])
    certificate = certify(random.key(0), local_mixture, local_prior, {}, x, num_samples=100)
    exact = np.log(0.7 * stats.norm.pdf(x) + 0.3 * stats.norm.pdf(x, 3.0)).sum()
    assert certificate.log_evidence == pytest.approx(exact, abs=1e-4)
    assert dict(to_arviz(certificate).posterior["z"].sizes)["draw"] == 100


def mixture(x):
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    with numpyro.plate("data", len(x)):
        k = numpyro.sample("k", dist.Bernoulli(0.3), infer={"enumerate": "parallel"})
        numpyro.deterministic("unknown", k + 1.0)
        numpyro.sample("x", dist.Normal(loc + 3.0 * k, 1.0), obs=x)


def mixture_guide(x):
    numpyro.sample("loc", dist.Normal(-0.2, 0.9))


def test_discrete_sites_that_are_marked_are_summed_out():
    pytest.importorskip("funsor")
    x = np.array([-0.5, 0.1, 2.9])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of funsor, on import
        certificate = certify(random.key(0), mixture, mixture_guide, {}, x, num_samples=2_000)
    grid = np.linspace(-12.0, 12.0, 4_001)
    of_x = 0.7 * stats.norm.pdf(x[:, None], grid) + 0.3 * stats.norm.pdf(x[:, None], grid + 3.0)
    exact = np.log(np.trapezoid(of_x.prod(axis=0) * stats.norm.pdf(grid, scale=2.0), grid))
    assert abs(certificate.log_evidence - exact) < Z * certificate.log_evidence_se < 0.1
    assert certificate.draws.keys() == {"loc"}


# Chains and training.


def test_chain_that_proposes_from_any_guide_has_the_posterior_s_moments():
    guide, params = fit("by_hand")
    kernel = IndependenceMetropolis(regression, guide, params)
    mcmc = MCMC(
        kernel,
        num_warmup=0,
        num_samples=1_000,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(0), X, Y)
    mean, covariance = posterior_of_beta()
    beta = np.asarray(mcmc.get_samples()["beta"], np.float64)
    assert np.all(np.abs(beta.mean(axis=0) - mean) < Z * 2 * (np.diag(covariance) / 4_000) ** 0.5)
    np.testing.assert_allclose(np.cov(beta.T), covariance, atol=0.03)


def test_chain_that_alternates_needs_the_density_where_it_goes():
    guide, params = fit("laplace")
    kernel = partial(IndependenceMetropolis, regression, alternate=NUTS(regression))
    run = partial(MCMC, num_warmup=50, num_samples=200, num_chains=1, progress_bar=False)
    mcmc = run(kernel(guide, params))
    mcmc.run(random.key(0), X, Y)
    mean, covariance = posterior_of_beta()
    error = Z * (np.diag(covariance) / 100) ** 0.5
    assert np.all(np.abs(mcmc.get_samples()["beta"].mean(axis=0) - mean) < error)
    guide, params = fit("bnaf")
    with pytest.raises(ValueError, match="density at given points; .*no inverse.*Use AutoIAF"):
        run(kernel(guide, params)).run(random.key(0), X, Y)


def test_reverse_kl_of_a_guide_with_a_density_is_minus_its_elbo():
    guide, params = fit("normal")
    loss = partial(ReverseKL(num_particles=400).loss, param_map=params)
    value = jax.jit(lambda key: loss(key, model=regression, guide=guide, x=X, y=Y))(random.key(0))
    certificate = certificate_of("normal")
    spread = certificate.log_weights.std() / 400**0.5
    assert abs(value + certificate.elbo_lower) < Z * spread


def target():
    numpyro.sample("z", dist.Normal(1.0, 2.0))
    numpyro.factor("constant", 0.7)


def exact_guide():
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 1.0), numpyro.param("scale", 2.0)))


@pytest.mark.parametrize("gradient", ["path", "standard"])
def test_path_gradient_of_a_guide_that_is_the_target_has_no_noise(gradient):
    loss = ReverseKL(num_particles=16, gradient=gradient).loss
    params = {"loc": jnp.array(1.0), "scale": jnp.array(2.0)}
    at = jax.jit(jax.vmap(jax.grad(lambda p, key: loss(key, p, target, exact_guide)), (None, 0)))
    gradients = at(params, random.split(random.key(0), 500))
    for values in gradients.values():
        if gradient == "path":
            np.testing.assert_allclose(values, 0.0, atol=1e-5)
        else:
            mean, error = mean_and_se(values)
            assert abs(mean) < Z * error and error > 1e-3


# What cannot be certified.


def partly_a_point(model):
    parts = autoguide.AutoGuideList(model)
    parts.append(autoguide.AutoNormal(handlers.block(model, hide=["beta", "fitted"])))
    of_beta = handlers.block(model, hide=["rate", "fitted"])
    parts.append(autoguide.AutoDelta(of_beta, prefix="b"))
    return parts


def scaled_guide(x, y):
    with handlers.scale(scale=0.5):
        by_hand(x, y)


def guide_with_factor(x, y):
    by_hand(x, y)
    numpyro.factor("extra", -1.0)


def guide_of_other_sites(x, y):
    numpyro.sample("beta", dist.Normal().expand([2]))


def guide_of_other_shapes(x, y):
    numpyro.sample("beta", dist.Normal().expand([2]))
    numpyro.sample("rate", dist.LogNormal().expand([3]))


def at_saddle(model):
    start = numpyro.infer.init_to_value(values={"z": 0.0})
    return autoguide.AutoLaplaceApproximation(model, init_loc_fn=start)


def double_well():
    z = numpyro.sample("z", dist.Normal(0.0, 1.0))
    numpyro.factor("wells", 2.0 * z**2 - 0.1 * z**4)


def delta_of_a_latent(x, y):
    beta = numpyro.sample("beta", dist.Normal().expand([2]))
    numpyro.sample("rate", dist.Delta(jnp.exp(beta[0])))


def confined(x, y):
    numpyro.sample("beta", dist.HalfNormal().expand([2]))
    numpyro.sample("rate", dist.LogNormal())


def partly_confined(x, y):
    numpyro.sample("beta", dist.Normal().expand([2]))
    numpyro.sample("rate", dist.Uniform(0.0, numpyro.param("limit", 5.0)))


def with_state(x, y):
    numpyro.primitives.mutable("state", {"count": 0.0})
    by_hand(x, y)


NO_DENSITY = {
    "function": (lambda model: delta_of_a_latent, r"sites \['rate'\] are functions of other lat"),
    "confined": (lambda model: confined, r"in the model's support; its site 'beta'.* is confined"),
    "partly": (lambda model: partly_confined, r"site 'rate' \(Uniform\) is confined to a part"),
    "state": (lambda model: with_state, "without mutable state .* Fix them by"),
    "delta": (autoguide.AutoDelta, "with a density; AutoDelta is a point.*Use AutoNormal"),
    "dais": (autoguide.AutoDAIS, "AutoDAIS knows only that of a whole.* Use AutoNormal"),
    "partly_delta": (partly_a_point, r"its sites \['beta'\] are points .*Use AutoNormal"),
    "scaled": (lambda model: scaled_guide, "no scaled site in the guide; 'beta' has scale 0.5"),
    "factor": (lambda model: guide_with_factor, r"latent sites; \['extra'\] are factors"),
    "sites": (lambda model: guide_of_other_sites, r"latent site.*lacks \['rate'\]. Add"),
    "shapes": (lambda model: guide_of_other_shapes, "'rate' to have one shape.*Expand"),
}


@pytest.mark.parametrize("make, message", NO_DENSITY.values(), ids=NO_DENSITY.keys())
def test_guide_without_a_density_is_refused_in_one_line(make, message):
    guide = make(regression)
    sites = handlers.trace(handlers.seed(guide, 0)).get_trace(X, Y)
    params = {n: site["value"] for n, site in sites.items() if site["type"] == "param"}
    with pytest.raises(ValueError, match=message) as error:
        certify(random.key(0), regression, guide, params, X, Y, num_samples=10)
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)


def test_model_without_latent_sites_is_refused():
    def nothing():
        numpyro.sample("x", dist.Normal(), obs=0.3)

    with pytest.raises(ValueError, match="with latent sites, .* it has none. Evaluate"):
        certify(random.key(0), nothing, lambda: None, {})


def test_laplace_approximation_that_is_not_at_a_mode_is_refused():
    with pytest.raises(ValueError, match="at a mode, .*at its 'auto_loc' it is not. Train"):
        certify(random.key(0), double_well, at_saddle(double_well), {"auto_loc": jnp.zeros(1)})


def test_params_of_another_guide_are_refused():
    guide, _ = fit("normal")
    _, params = fit("diagonal_normal")
    with pytest.raises(ValueError, match=r"every param site of the guide; they lack \['beta_auto"):
        certify(random.key(0), regression, guide, params, X, Y)


def test_guide_that_has_never_run_is_set_up_outside_of_compiled_functions():
    _, params = fit("diagonal_normal")
    fresh = GUIDES["diagonal_normal"](regression)
    certificate = certify(random.key(1), regression, fresh, params, X, Y, num_samples=10_000)
    assert certificate.log_evidence == certificate_of("diagonal_normal").log_evidence
    fresh.sample_posterior(random.key(0), params)  # would fail for a leaked tracer
