"""Chains from a hierarchical guide: their law, their numbers, how they start, what they refuse."""

from functools import cache
import json
import os
from pathlib import Path
import pickle
import subprocess
import sys

import arviz as az
import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import HMC, MCMC, NUTS

from numpyro_sumo import HierarchicalGuide, IndependenceMetropolis
from numpyro_sumo.diagnostics.arviz import arviz_data, summarise
from numpyro_sumo.mcmc.independence_metropolis import IndependenceMetropolisState
from numpyro_sumo.mcmc.proposals import acceptance_rate
from tests.helpers.models import (
    AUXILIARY,
    LOG_NORMALISER,
    discrete,
    matching_problem,
    never,
    subsampled,
)
from tests.helpers.statistics import Z

ROOT = Path(__file__).parents[2]
PROBLEM = matching_problem()


def chains(kernel, *args, num_samples=1_000, num_warmup=0, num_chains=4, key=0, **kwargs):
    """MCMC that has run; ``fields`` are its extra fields, ``method`` that of chains."""
    fields, method = kwargs.pop("fields", ()), kwargs.pop("method", "vectorized")
    mcmc = MCMC(
        kernel,
        num_warmup=num_warmup,
        num_samples=num_samples,
        num_chains=num_chains,
        chain_method=method,
        progress_bar=kwargs.pop("progress_bar", False),
    )
    mcmc.run(random.key(key), *args, extra_fields=fields, **kwargs)
    return mcmc


def kernel_of(params, **options):
    return IndependenceMetropolis(PROBLEM.model, PROBLEM.guide, params, **options)


def assert_normal(draws, loc, scale):
    """Mean and standard deviation are those of a Normal, within their Monte Carlo errors."""
    line = summarise(arviz_data({"posterior": {"x": np.asarray(draws, np.float64)}}))["x"]
    assert abs(line["mean"] - loc) < Z * line["mcse_mean"]
    assert abs(line["sd"] - scale) < Z * line["mcse_sd"]
    assert line["r_hat"] < 1.05


def test_exact_sampler_and_reverse_model_have_every_proposal_accepted():
    fields = ("accept_prob", "accepted", "log_weight", "mean_accept_prob")
    kernel = kernel_of(PROBLEM.exact_params, defensive_share=0.0)
    mcmc = chains(kernel, num_samples=100, num_chains=1, fields=fields)
    found = mcmc.get_extra_fields()
    np.testing.assert_allclose(found["accept_prob"], 1.0, atol=1e-5)
    np.testing.assert_allclose(found["mean_accept_prob"], 1.0, atol=1e-5)
    np.testing.assert_allclose(found["log_weight"], LOG_NORMALISER, atol=1e-5)
    assert found["accepted"].all() and not found["diverging"].any()


def normal_target():
    numpyro.sample("x", dist.Normal(0.0, 2.0**0.5))


def poor_sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(1.0 + 1.2 * u, 1.4))


def poor_reverse(latents):
    numpyro.sample("u", dist.Normal(-0.2 * latents["x"], 1.3))


POOR = HierarchicalGuide(poor_sampler, poor_reverse)


@cache
def poor_chains():
    kernel = IndependenceMetropolis(normal_target, POOR, {}, num_particles=1)
    fields = ("accepted", "accept_prob", "mean_accept_prob", "log_weight")
    return chains(kernel, num_samples=10_000, fields=fields)


def test_law_of_the_chain_is_the_target_however_poor_guide_and_reverse_model_are():
    assert_normal(poor_chains().get_samples(group_by_chain=True)["x"], 0.0, 2.0**0.5)


@pytest.mark.parametrize("alternated", [False, True], ids=["alone", "alternated"])
def test_law_of_the_chain_is_the_target_with_many_of_the_sampler_s_own_draws(alternated):
    alternate = HMC(normal_target, trajectory_length=2.0) if alternated else None
    options = {"num_particles": 1, "defensive_share": 0.5, "alternate": alternate}
    kernel = IndependenceMetropolis(normal_target, POOR, {}, **options)
    mcmc = chains(kernel, num_samples=5_000, num_warmup=200 if alternated else 0)
    assert_normal(mcmc.get_samples(group_by_chain=True)["x"], 0.0, 2.0**0.5)


def test_state_keeps_position_and_log_weight_unless_it_accepts():
    mcmc = poor_chains()
    x = np.asarray(mcmc.get_samples(group_by_chain=True)["x"])
    found = {n: np.asarray(v) for n, v in mcmc.get_extra_fields(group_by_chain=True).items()}
    moved = x[:, 1:] != x[:, :-1]
    np.testing.assert_array_equal(moved, found["accepted"][:, 1:])
    np.testing.assert_array_equal(moved, np.diff(found["log_weight"], axis=1) != 0.0)
    assert 0.1 < moved.mean() < 0.9
    ratio = np.exp(np.minimum(np.diff(found["log_weight"], axis=1), 0.0))
    np.testing.assert_allclose(found["accept_prob"][:, 1:][moved], ratio[moved], rtol=1e-4)
    average = np.cumsum(found["accept_prob"], axis=1) / np.arange(1, 10_001)
    np.testing.assert_allclose(found["mean_accept_prob"], average, rtol=1e-2)


def test_expected_rate_of_acceptance_is_that_of_the_chain():
    mcmc = poor_chains()
    accept_prob = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["accept_prob"])
    rates = accept_prob.reshape(-1, 1_000).mean(axis=1)
    extended = mcmc.sampler._proposal((), {})
    pool = jax.jit(jax.vmap(extended.draw))(random.split(random.key(5), 40_000))
    expected = acceptance_rate(np.asarray(pool.log_weight, np.float64))
    assert abs(rates.mean() - expected) < Z * rates.std(ddof=1) / len(rates) ** 0.5 < 0.05


def test_rate_of_acceptance_of_known_weights():
    """(2·1 + 2·1 + 2·2) over (2·6) for the weights 1, 2 and 3; none where one has all."""
    assert acceptance_rate(np.log([2.0, 1.0, 3.0])) == pytest.approx(8.0 / 12.0)
    assert acceptance_rate(np.array([0.0, -99.0, -99.0])) == pytest.approx(0.0, abs=1e-40)
    assert acceptance_rate(np.array([3.0, -np.inf])) == 0.0


def test_chains_go_on_from_where_they_stopped(monkeypatch):
    kernel = kernel_of(PROBLEM.params, num_particles=2)
    mcmc = chains(kernel, num_samples=3, num_chains=1, num_warmup=2, fields=("i",))
    np.testing.assert_array_equal(mcmc.get_extra_fields()["i"], [3, 4, 5])
    monkeypatch.setattr(kernel, "init", None)
    mcmc.post_warmup_state = mcmc.last_state
    mcmc.run(mcmc.post_warmup_state.rng_key, extra_fields=("i",))
    np.testing.assert_array_equal(mcmc.get_extra_fields()["i"], [6, 7, 8])


COLLECTED = tuple(field for field in IndependenceMetropolisState._fields if field != "z")


def chains_with_all_fields(kernel, method="vectorized"):
    return chains(kernel, num_samples=5, num_chains=2, method=method, fields=COLLECTED)


@cache
def alternating_chains():
    alternate = HMC(normal_target)
    return chains_with_all_fields(
        IndependenceMetropolis(normal_target, POOR, {}, alternate=alternate)
    )


def sequential_chains():
    kernel = IndependenceMetropolis(normal_target, POOR, {})
    return chains_with_all_fields(kernel, method="sequential")


@pytest.mark.parametrize("run", [sequential_chains, alternating_chains])
def test_every_field_of_the_state_may_be_collected(run):
    """Of chains with keys of the new style, which NumPyro cannot collect; draws stay the same."""
    found = run().get_extra_fields(group_by_chain=True)
    assert {field.split(".")[0] for field in found} >= set(COLLECTED) - {"alternate_state"}
    keys = found["rng_key"]
    assert keys.shape == (2, 5, 2) and keys.dtype == np.uint32
    assert len(np.unique(keys.reshape(-1, 2), axis=0)) == 10


def test_a_kernel_that_has_run_may_be_pickled():
    before = alternating_chains()
    after = chains_with_all_fields(pickle.loads(pickle.dumps(before.sampler)))
    np.testing.assert_array_equal(*(mcmc.get_samples()["x"] for mcmc in (before, after)))


def test_without_devices_for_parallel_chains_they_run_one_after_the_other_and_are_the_same(capsys):
    kernel = kernel_of(PROBLEM.params, num_particles=2)
    aside = chains(kernel, num_samples=20, num_chains=2)
    with pytest.warns(UserWarning, match="not enough devices"):
        after = chains(kernel, num_samples=20, num_chains=2, method="parallel", progress_bar=True)
    assert after.chain_method == "sequential"
    draws = [mcmc.get_samples(group_by_chain=True)["x"] for mcmc in (aside, after)]
    assert draws[1].shape == (2, 20)
    np.testing.assert_allclose(*draws, rtol=1e-4)
    if after.progress_bar:
        assert "acc. prob=" in capsys.readouterr().err


PROGRAM = """
import json
import jax, numpy as np
from numpyro.infer import HMC
from tests.mcmc import test_independence_metropolis as tests

assert jax.local_device_count() == 2
found = {}
for method in ("vectorized", "parallel"):
    alternate = HMC(tests.PROBLEM.model)
    kernel = tests.kernel_of(tests.PROBLEM.params, num_particles=2, alternate=alternate)
    mcmc = tests.chains(kernel, num_samples=5, num_chains=2, num_warmup=2, method=method)
    found[method] = np.asarray(mcmc.get_samples(group_by_chain=True)["x"]).tolist()
print("FOUND" + json.dumps(found))
"""


def test_parallel_chains_are_those_side_by_side():
    flags = f"--xla_force_host_platform_device_count=2 {os.environ['XLA_FLAGS']}"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.split("FOUND")[1])
    np.testing.assert_allclose(found["vectorized"], found["parallel"], rtol=1e-3, atol=1e-4)


def half_sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("x", dist.LogNormal(0.5 * u, 0.7))


def half_reverse(latents):
    x = jnp.where(latents["x"] > 0.0, latents["x"], 1.0)
    numpyro.sample("u", dist.Normal(0.5 * jnp.log(x), 0.9))


def test_alternate_kernel_reaches_what_the_guide_misses():
    """The guide never proposes a negative x; where it never goes, none of its proposals fits."""
    guide = HierarchicalGuide(half_sampler, half_reverse)
    alternate = NUTS(normal_target)
    kernel = IndependenceMetropolis(normal_target, guide, {}, num_particles=2, alternate=alternate)
    mcmc = chains(kernel, num_samples=4_000, num_warmup=300, fields=("accepted",))
    assert_normal(mcmc.get_samples(group_by_chain=True)["x"], 0.0, 2.0**0.5)
    assert 0.05 < mcmc.get_extra_fields()["accepted"].mean() < 0.9


@cache
def chains_of_small_steps():
    """The alternate kernel moves x by about 1e-3: the law is left to proposals and draws of u."""
    options = {"step_size": 1e-3, "num_steps": 1, "trajectory_length": None}
    small = HMC(normal_target, adapt_step_size=False, **options)
    kernel = IndependenceMetropolis(normal_target, POOR, {}, num_particles=1, alternate=small)
    return chains(kernel, num_samples=10_000, fields=("accepted",))


def test_law_is_the_target_if_draws_of_u_are_anew_at_every_step():
    assert_normal(chains_of_small_steps().get_samples(group_by_chain=True)["x"], 0.0, 2.0**0.5)


def test_each_kernel_starts_where_the_other_has_left():
    mcmc = chains_of_small_steps()
    accepted = np.asarray(mcmc.get_extra_fields(group_by_chain=True)["accepted"])[:, 1:]
    steps = np.abs(np.diff(np.asarray(mcmc.get_samples(group_by_chain=True)["x"])))
    assert 0.0 < np.median(steps[~accepted]) < 2e-3
    far = steps > 1e-2
    assert np.all(accepted[far])
    assert far.sum() > 0.95 * accepted.sum()


def test_divergences_and_keys_of_the_alternate_kernel_are_the_chain_s():
    """Steps of 1e3 diverge; in another run from the same state they are others."""
    options = {"step_size": 1e3, "num_steps": 2, "trajectory_length": None}
    large = HMC(normal_target, adapt_step_size=False, **options)
    kernel = IndependenceMetropolis(normal_target, POOR, {}, num_particles=1, alternate=large)
    state = kernel.init(random.key(0), 0)
    step = jax.jit(lambda key: kernel.sample(state._replace(rng_key=key), (), {}))
    one, other = step(random.key(1)), step(random.key(2))
    assert one.diverging and one.alternate_state.diverging
    assert one.alternate_state.energy != other.alternate_state.energy
    assert one.alternate_state.rng_key != other.alternate_state.rng_key


def test_warm_up_adapts_the_alternate_kernel_and_no_longer_after_it():
    kernel = kernel_of(PROBLEM.params, num_particles=1, alternate=NUTS(PROBLEM.model))
    fields = ("alternate_state.adapt_state.step_size", "i")
    mcmc = chains(kernel, num_samples=20, num_warmup=50, num_chains=1, fields=fields)
    found = mcmc.get_extra_fields()
    steps = set(np.asarray(found["alternate_state.adapt_state.step_size"]).tolist())
    assert len(steps) == 1 and steps != {1.0}
    np.testing.assert_array_equal(found["i"], np.arange(51, 71))


def hierarchical_regression(x, *, y=None):
    """Supports, plates, a param site, data, and deterministic sites."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 2):
        slope = numpyro.sample("slope", dist.Normal(0.0, scale))
    fitted = numpyro.deterministic("fitted", slope[:, None] * x)
    numpyro.sample("y", dist.Normal(fitted, numpyro.param("noise", 9.0)).to_event(2), obs=y)


def regression_sampler(x, *, y=None):
    u = numpyro.sample("u", dist.Normal().expand([3]).to_event(1), infer=AUXILIARY)
    log_scale = dist.Normal(-0.4 + 0.3 * u[0], 0.4)
    to_positive = dist.transforms.ExpTransform()
    numpyro.sample("scale", dist.TransformedDistribution(log_scale, to_positive))
    with numpyro.plate("groups", 2):
        mean = (x * y).sum(axis=1) / (x**2).sum(axis=1)
        numpyro.sample("slope", dist.Normal(mean + 0.1 * u[1:], numpyro.param("width", 0.4)))


def regression_reverse(latents, x, *, y=None):
    numpyro.sample("u", dist.Normal().expand([3]).to_event(1))


X = jnp.array([[-1.0, 0.5, 2.0], [1.0, -2.0, 0.3]])
Y = jnp.array([[-0.6, 0.2, 1.9], [0.4, -1.5, 0.1]])


def regression_kernel(with_hmc=False):
    return IndependenceMetropolis(
        hierarchical_regression,
        HierarchicalGuide(regression_sampler, regression_reverse),
        {"noise": jnp.array(0.5), "width": jnp.array(0.4)},
        num_particles=4,
        alternate=HMC(hierarchical_regression, trajectory_length=1.5) if with_hmc else None,
    )


@pytest.mark.parametrize("with_hmc", [False, True])
def test_supports_plates_data_and_parameters_come_through(with_hmc):
    """Against the posterior by quadrature; with the param at its initial 9 it would be another."""
    kernel = regression_kernel(with_hmc)
    mcmc = chains(kernel, X, y=Y, num_samples=3_000, num_warmup=200 if with_hmc else 0)
    draws = mcmc.get_samples(group_by_chain=True)
    assert draws.keys() == {"scale", "slope", "fitted"}
    np.testing.assert_allclose(draws["fitted"], draws["slope"][..., None] * X, rtol=1e-5)
    assert np.all(np.asarray(draws["scale"]) > 0.0)
    table = summarise(arviz_data({"posterior": {name: draws[name] for name in ("scale", "slope")}}))
    for name, exact in posterior_means(np.asarray(X), np.asarray(Y)).items():
        assert abs(table[name]["mean"] - exact) < Z * table[name]["mcse_mean"]


def test_chains_of_other_data_start_by_the_weights_of_those():
    def observed(y):
        x = numpyro.sample("x", dist.Normal(0.0, 2.0**0.5))
        numpyro.sample("y", dist.Normal(x, 1.0), obs=y)

    guide = HierarchicalGuide(lambda y: poor_sampler(), lambda latents, y: poor_reverse(latents))
    kernel_of_data = lambda: IndependenceMetropolis(observed, guide, {}, num_particles=1)
    kernel = kernel_of_data()
    first, other = (kernel.init(random.key(0), 0, None, (), {"y": y}) for y in (0.3, 1.3))
    alone = kernel_of_data().init(random.key(0), 0, None, (), {"y": 1.3})
    assert first.log_weight != other.log_weight == alone.log_weight


def posterior_means(x, y, noise=0.5):
    """E[scale | y] and E[slope | y]: slopes are Normal given the scale, which is on a grid."""
    scale = np.linspace(1e-3, 6.0, 6_000)[:, None]
    variance = 1.0 / ((x**2).sum(axis=1) / noise**2 + scale**-2)
    mean = variance * (x * y).sum(axis=1) / noise**2
    log_evidence = 0.5 * np.log(variance) - np.log(scale) + 0.5 * mean**2 / variance
    weights = np.exp(log_evidence.sum(axis=1) - 0.5 * scale[:, 0] ** 2)
    weights /= weights.sum()
    slopes = weights @ mean
    return {"scale": weights @ scale[:, 0], "slope[0]": slopes[0], "slope[1]": slopes[1]}


def test_chains_go_through_arviz_as_any_others():
    mcmc = poor_chains()
    data = az.from_numpyro(mcmc, log_likelihood=False)
    assert data.posterior["x"].shape == (4, 10_000)
    assert data.sample_stats["diverging"].values.sum() == 0


def sometimes_broken():
    x = numpyro.sample("x", dist.Normal(0.0, 2.0**0.5))
    broken = jnp.where(x < -1.5, jnp.inf, 0.0)
    numpyro.factor("broken", jnp.where(x > 1.0, jnp.nan, broken))


def test_proposals_without_a_weight_are_rejected_and_seen():
    kernel = IndependenceMetropolis(sometimes_broken, POOR, {}, num_particles=1)
    mcmc = chains(kernel, num_samples=200, fields=("accepted",))
    x, found = mcmc.get_samples()["x"], mcmc.get_extra_fields()
    assert np.all((x <= 1.0) & (x >= -1.5))
    assert 0.3 < found["diverging"].mean() < 0.8
    assert not (found["diverging"] & found["accepted"]).any()


def test_chains_start_at_draws_of_the_target():
    """The first 500 states, of chains of one step each, are near its law, not the guide's."""
    kernel = IndependenceMetropolis(normal_target, POOR, {}, num_particles=4)
    states = kernel.init(random.split(random.key(7), 500), 0, None, (), {})
    x = np.asarray(states.z["x"])
    assert abs(x.mean()) < Z * 2.0**0.5 / 500**0.5
    assert not np.asarray(states.accepted).any()


def far_away():
    numpyro.sample("x", dist.Normal(40.0, 0.5))


def test_guide_far_from_the_target_is_warned_of_in_one_line():
    kernel = IndependenceMetropolis(far_away, POOR, {})
    with pytest.warns(UserWarning, match="proposals are accepted; about .* Train it") as found:
        kernel.init(random.key(0), 0, None, (), {})
    assert len(found) == 1 and "\n" not in str(found[0].message)
    IndependenceMetropolis(far_away, POOR, {}, alternate=HMC(far_away)).init(
        random.key(0), 0, None, (), {}
    )


BAD_STARTS = {
    "never_accepted": (
        {"model": never},
        r"that can be accepted; of 256 none has .*Train the guide",
    ),
    "discrete": ({"model": discrete}, "continuous latent sites; model site 'x' is discrete. Sum"),
    "subsampled": ({"model": subsampled}, "no subsampled plate in the model.*'data' is subsampled"),
    "no_params": ({"params": {}}, r"every param site of the guide; they lack \['centre', .*Pass"),
    "init_params": ({"init_params": {"x": 0.0}}, "no init_params, .*; got .*Leave them out"),
}


@pytest.mark.parametrize("options, message", BAD_STARTS.values(), ids=BAD_STARTS.keys())
def test_chains_that_cannot_start_are_refused_in_one_line(options, message):
    options = {"model": PROBLEM.model, "params": PROBLEM.params, "init_params": None, **options}
    init_params = options.pop("init_params")
    kernel = IndependenceMetropolis(guide=PROBLEM.guide, **options)
    with pytest.raises(ValueError, match=message) as error:
        kernel.init(random.key(0), 0, init_params, (), {})
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)


BAD_OPTIONS = {
    "no_guide": ({"guide": None}, "guide to be a NumPyro program; got None. Pass"),
    "particles": ({"num_particles": 0}, "num_particles to be an integer >= 1; got 0"),
    "defensive": (
        {"defensive_share": 1.0},
        r"defensive_share to be in \[0, 1\); got 1.0. Pass 0.01",
    ),
    "alternate": ({"alternate": NUTS}, "alternate to be an HMC or NUTS kernel of the model; got"),
    "of_a_potential": (
        {"alternate": NUTS(potential_fn=lambda z: 0.0)},
        "alternate to be an HMC or NUTS kernel of the model; got",
    ),
    "of_another": ({"alternate": NUTS(never)}, "alternate to be a kernel of the model itself; it"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_options_outside_their_range_are_refused_at_once_in_one_line(options, message):
    options = {"model": PROBLEM.model, "guide": PROBLEM.guide, "params": {}, **options}
    with pytest.raises(ValueError, match=message) as error:
        IndependenceMetropolis(**options)
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)
