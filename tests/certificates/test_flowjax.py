"""Guides written by hand that draw from a flow of flowjax, against closed forms."""

from functools import cache

import numpy as np
import optax
import pytest

from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO

from numpyro_sumo import (
    IndependenceMetropolis,
    ReverseKL,
    certify,
    kl_sandwich,
    log_marginal,
    save,
)
from tests.helpers.guides import NOISE, X, Y, posterior_of_beta
from tests.helpers.statistics import Z

pytest.importorskip("flowjax")
from flowjax.distributions import Normal
from flowjax.experimental.numpyro import distribution_to_numpyro, register_params
from flowjax.flows import coupling_flow, masked_autoregressive_flow

LOG_EVIDENCE = float(dist.MultivariateNormal(0.0, X @ X.T + NOISE**2 * np.eye(len(Y))).log_prob(Y))


def model(y):
    beta = numpyro.sample("beta", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.sample("y", dist.Normal(X @ beta, NOISE).to_event(1), obs=y)


#: Flows, with the losses that train them.
CASES = {
    "coupling": (coupling_flow, {"nn_width": 8}, Trace_ELBO(8)),
    "autoregressive": (masked_autoregressive_flow, {"nn_depth": 0}, ReverseKL(num_particles=8)),
}


@cache
def fit(name):
    make, network, loss = CASES[name]
    flow = make(random.key(0), base_dist=Normal(jnp.zeros(2)), flow_layers=1, **network)

    def guide(y):
        numpyro.sample("beta", distribution_to_numpyro(register_params("flow", flow)))

    svi = SVI(model, guide, optax.adam(optax.cosine_decay_schedule(0.02, 400)), loss)
    return guide, svi.run(random.key(1), 400, Y, progress_bar=False).params


@cache
def certificate():
    return certify(random.key(2), model, *fit("coupling"), Y, num_samples=4_000)


def test_certificate_of_a_flow_has_the_exact_evidence_and_mean():
    found = certificate()
    assert abs(found.log_evidence - LOG_EVIDENCE) < Z * found.log_evidence_se < 0.1
    assert 0.0 < found.kl_upper < 0.1 and found.verdict != "do not trust it"
    mean, covariance = posterior_of_beta()
    error = np.sqrt(np.diag(covariance) / found.ess)
    assert np.all(np.abs(found.resampled["beta"].mean(axis=0) - mean) < Z * error)


def test_density_of_a_flow_at_points_is_that_of_its_draws():
    draws = certificate().draws["beta"][:50]
    found = log_marginal(random.key(3), *fit("coupling"), {"beta": draws}, Y)
    log_target = dist.Normal(0.0, 1.0).log_prob(draws).sum(-1)
    log_target += dist.Normal(draws @ X.T, NOISE).log_prob(Y).sum(-1)
    expected = log_target - certificate().log_weights[:50]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_reverse_kl_trains_a_flow():
    bounds = kl_sandwich(random.key(4), model, *fit("autoregressive"), Y)
    kl, error = bounds.upper + LOG_EVIDENCE, bounds.upper_se
    assert -Z * error < kl < 0.05 and error < 0.01


def test_chains_that_propose_from_a_flow_have_the_exact_mean():
    kernel = IndependenceMetropolis(model, *fit("coupling"), alternate=NUTS(model))
    options = {"num_chains": 4, "chain_method": "vectorized", "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=50, num_samples=500, **options)
    mcmc.run(random.key(5), Y, extra_fields=("accept_prob", "rng_key"))
    rate = float(mcmc.get_extra_fields()["accept_prob"].mean())
    mean, covariance = posterior_of_beta()
    # Draws of an independence chain with this rate of acceptance are worth at least so many.
    error = np.sqrt(np.diag(covariance) / (2_000 * rate / (2.0 - rate)))
    assert rate > 0.8
    assert np.all(np.abs(mcmc.get_samples()["beta"].mean(axis=0) - mean) < Z * error)


def test_files_of_flows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'params/flow' is Transformed. Save its arrays by them"):
        save(tmp_path / "fit.safetensors", certificate())
