"""From a model to draws of its posterior."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import special, stats

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import FitOptions, Posterior, fit, to_arviz
from numpyro_sumo.certificates.array_files import FORMAT
from numpyro_sumo.inference import correcting, learning
from numpyro_sumo.inference.check_inputs import check_model
from numpyro_sumo.inference.correcting import BOTH, GUIDE, NUTS
from tests.helpers.statistics import Z

#: Counts with mean λ ~ Gamma(2, rate 1): λ given them is Gamma(2 + sum, rate 1 + number).
COUNTS = jnp.array([2, 0, 3, 1])
EXACT = stats.gamma(2 + 6, scale=1 / 5)
LOG_EVIDENCE = (
    special.gammaln(8.0) - 8.0 * np.log(5.0) - special.gammaln(2.0) - np.log([2.0, 6.0]).sum()
)

OPTIONS = FitOptions(num_steps=200, num_samples=4_000, num_particles=8, progress_bar=False)


def counted(counts):
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0))
    numpyro.deterministic("log_rate", jnp.log(rate))
    with numpyro.plate("measurement", 4):
        numpyro.sample("count", dist.Poisson(rate), obs=counts)


@pytest.fixture(scope="module")
def of_counts():
    return fit(random.key(0), counted, COUNTS, options=OPTIONS)


def assert_right(posterior):
    """Mean and sd within Z Monte Carlo errors."""
    summary = posterior.diagnostics.summary
    assert abs(summary.mean[0] - EXACT.mean()) < Z * summary.mean_se[0]
    assert abs(summary.sd[0] - EXACT.std()) < Z * summary.sd_se[0]


def test_draws_and_log_evidence_are_right(of_counts):
    assert_right(of_counts)
    error = abs(of_counts.log_evidence - LOG_EVIDENCE)
    assert error < Z * of_counts.log_evidence_se
    assert of_counts.log_evidence_se < 0.01
    assert of_counts.verdict.splitlines()[0] == "good"
    assert of_counts.diagnostics.kernel == GUIDE
    assert of_counts.diagnostics.steps > 0


def test_draws_have_all_sites_of_all_chains(of_counts):
    assert of_counts.draws.keys() == {"rate", "log_rate"}
    rate = of_counts.draws["rate"]
    assert rate.shape == (4, 1_000 - 64)
    np.testing.assert_allclose(of_counts.draws["log_rate"], np.log(rate), rtol=1e-5)


def test_it_prints_what_matters(of_counts):
    text = str(of_counts)
    assert text.startswith("Posterior of 1 latent numbers, 4 chains of 936")
    assert "Verdict: good" in text and "NUTS by itself was fine here" in text


def test_samples_and_predictions(of_counts):
    draws = of_counts.sample(random.key(1), 50)
    assert draws["rate"].shape == (50,)
    assert np.isin(draws["rate"], of_counts.draws["rate"]).all()
    predicted = of_counts.predict(random.key(2), None, num_draws=2_000)["count"]
    assert predicted.shape == (2_000, 4)
    error = np.sqrt((EXACT.mean() / 4 + EXACT.var()) / 2_000)
    assert abs(predicted.mean() - EXACT.mean()) < Z * error


def test_it_is_arviz_data(of_counts):
    data = to_arviz(of_counts)
    assert dict(data.posterior["rate"].sizes) == {"chain": 4, "draw": 936}
    assert dict(data.log_likelihood["count"].sizes)["measurement_dim"] == 4
    assert data.posterior_predictive["count"].shape == (4, 936, 4)
    np.testing.assert_array_equal(data.observed_data["count"], COUNTS)


def test_the_picture_shows_every_latent_number(of_counts):
    figure = of_counts.plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0].startswith("rate: R-hat 1.00")


def test_files_hold_everything(of_counts, tmp_path):
    path = tmp_path / "fit.safetensors"
    of_counts.save(path)
    again = Posterior.load(path, counted, COUNTS)
    assert str(again) == str(of_counts)
    np.testing.assert_array_equal(again.draws["rate"], of_counts.draws["rate"])
    assert again.options == replace(OPTIONS, hidden_sizes=again.options.hidden_sizes)
    with pytest.raises(ValueError, match="Expected the arguments that were certified"):
        Posterior.load(path, counted, COUNTS + 1)
    with pytest.raises(ValueError, match="Expected a posterior of this process"):
        fit(random.key(0), counted, COUNTS, options=OPTIONS, resume=again)


def test_other_files_are_refused(of_counts, tmp_path, monkeypatch):
    path = tmp_path / "fit.safetensors"
    of_counts.save(path)
    with monkeypatch.context() as patch:
        patch.setattr("numpyro_sumo.certificates.array_files.FORMAT", "0")
        with pytest.raises(ValueError, match=f"in format 0; .* has {FORMAT}. Save"):
            Posterior.load(path, counted, COUNTS)
    path.write_bytes(path.read_bytes()[:1_000])
    with pytest.raises(ValueError, match="Expected a complete file of a posterior"):
        Posterior.load(path, counted, COUNTS)


def test_it_goes_on_where_it_was(of_counts, monkeypatch):
    """With guides that are never good enough, a further fit trains for twice as many steps."""
    monkeypatch.setattr(learning, "good_kl", lambda dim: -1.0)
    before = of_counts.diagnostics.steps
    again = fit(random.key(1), counted, COUNTS, options=OPTIONS, resume=of_counts)
    assert again.diagnostics.steps >= before + 2 * OPTIONS.num_steps
    assert_right(again)


@pytest.mark.parametrize("few_accepted, kernel", [(0.02, BOTH), (1.0, NUTS)])
def test_nuts_goes_on_where_the_guide_is_not_relied_on(
    of_counts, monkeypatch, few_accepted, kernel
):
    monkeypatch.setattr(correcting, "_LARGEST_K", -1e9)
    monkeypatch.setattr(correcting, "_FEW_ACCEPTED", few_accepted)
    monkeypatch.setattr(correcting, "_MORE", 500)
    options = replace(OPTIONS, min_ess=2_000.0)
    posterior = fit(random.key(2), counted, COUNTS, options=options, resume=of_counts)
    assert posterior.diagnostics.kernel == kernel
    assert posterior.diagnostics.summary.ess[0] >= 2_000.0
    assert_right(posterior)
    np.testing.assert_allclose(
        posterior.draws["log_rate"], np.log(posterior.draws["rate"]), rtol=1e-5
    )


def test_ctrl_c_ends_a_phase_and_keeps_the_rest(of_counts, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    interrupted.postpone = lambda: None
    monkeypatch.setattr(learning, "good_kl", lambda dim: -1.0)
    monkeypatch.setattr(of_counts.state.trainer, "_run_block", interrupted)
    posterior = fit(random.key(3), counted, COUNTS, options=OPTIONS, resume=of_counts)
    assert posterior.diagnostics.interrupted == ("training",)
    assert "Interrupted during training." in posterior.verdict
    assert_right(posterior)


def test_a_loss_that_is_nan_sends_training_back(of_counts, monkeypatch):
    """The third block is NaN once: training goes on from the second at half the rate."""
    trainer, rates = of_counts.state.trainer, []
    run_block = trainer._run_block

    def sometimes_nan(*inputs):
        rates.append(float(inputs[-1][-1]))
        new, losses = run_block(*inputs)
        is_third = len(rates) == 3
        return new, losses * jnp.nan if is_third else losses

    monkeypatch.setattr(trainer, "_run_block", sometimes_nan)
    clock = of_counts_clock()
    done = trainer.run(random.key(0), of_counts.state.params, (200, 1e-3), clock, 0.0)
    assert (done.steps, done.retreats) == (200, 1)
    np.testing.assert_allclose(rates, [1e-3] * 3 + [5e-4] * 2)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(done.params))


def of_counts_clock():
    from numpyro_sumo.inference.clock import Clock

    return Clock(1_000.0, shows=False)


def test_training_comes_to_an_end_in_time(of_counts):
    """With no time beyond the deadline there are the two blocks that tell the pace."""
    params = of_counts.state.params
    clock = of_counts_clock()
    plan = 10_000, 1e-3
    done = of_counts.state.trainer.run(random.key(0), params, plan, clock, deadline=2_000.0)
    assert done.steps == 100


def with_nan():
    mean = numpyro.sample("mean", dist.Normal())
    numpyro.sample("y", dist.Normal(mean, 1.0).expand([2]), obs=jnp.array([1.0, jnp.nan]))


def with_param():
    numpyro.sample("x", dist.Normal(0.0, numpyro.param("scale", 1.0)))


def subsampled():
    mean = numpyro.sample("mean", dist.Normal())
    with numpyro.plate("data", 10, subsample_size=5):
        numpyro.sample("y", dist.Normal(mean, 1.0), obs=jnp.zeros(5))


def without_latents():
    numpyro.sample("y", dist.Normal(), obs=0.0)


def discrete():
    numpyro.sample("k", dist.Poisson(3.0))


@pytest.mark.parametrize(
    "model, message",
    [
        (with_nan, "Expected observed values without NaN; 1 of 'y' are NaN"),
        (with_param, r"Expected a model without param sites, .* it has \['scale'\]"),
        (subsampled, "Expected no subsampled plate"),
        (without_latents, "Expected a model with latent sites"),
        (discrete, "Expected continuous latent sites; model site 'k' is discrete"),
    ],
)
def test_models_that_cannot_be_fitted_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        fit(random.key(0), model, options=OPTIONS)


def test_other_inputs_are_refused(of_counts):
    run = lambda *args, **kwargs: fit(random.key(0), *args, **kwargs)
    with pytest.raises(ValueError, match="Expected options to be FitOptions; got 3"):
        run(counted, COUNTS, options=3)
    with pytest.raises(ValueError, match="Expected resume to be what fit has returned; got 3"):
        run(counted, COUNTS, resume=3)
    with pytest.raises(ValueError, match="Expected the model and data of the posterior to resume"):
        run(counted, COUNTS + 1, resume=of_counts)


def test_options_that_are_given_to_the_model_are_refused():
    with pytest.raises(ValueError, match=r"Pass options=FitOptions\(minutes=...\)"):
        fit(random.key(0), counted, COUNTS, minutes=3)


@pytest.mark.parametrize("change", [{"num_chains": 2}, {"num_samples": 5_000}])
def test_a_fit_goes_on_with_its_own_sizes(of_counts, change):
    options = replace(OPTIONS, **change)
    with pytest.raises(ValueError, match="Expected the options of the posterior to resume"):
        fit(random.key(0), counted, COUNTS, options=options, resume=of_counts)


def test_missing_data_may_be_masked():
    y = jnp.array([1.0, jnp.nan])

    def masked():
        mean = numpyro.sample("mean", dist.Normal())
        with numpyro.handlers.mask(mask=jnp.array([True, False])):
            numpyro.sample("y", dist.Normal(mean, 1.0).expand([2]), obs=y)

    check_model(masked, (), {})


@pytest.mark.parametrize(
    "options, message",
    [
        ({"minutes": 0}, "Expected minutes to be a finite number above 0; got 0"),
        ({"minutes": np.inf}, "Expected minutes to be a finite number above 0; got inf"),
        ({"max_r_hat": 1.0}, "Expected max_r_hat to be a finite number above 1; got 1.0"),
        ({"hidden_sizes": 64}, "Expected hidden_sizes to be a sequence of integers; got 64"),
        ({"full_covariance": "yes"}, "Expected full_covariance to be True, False or None"),
        ({"num_steps": 0}, "Expected num_steps"),
        ({"num_chains": 1}, "Expected num_chains"),
        ({"num_samples": 300}, "Expected num_samples to be an integer of at least 400"),
    ],
)
def test_other_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        FitOptions(**options)
    with pytest.raises(TypeError, match="minuts"):
        FitOptions(minuts=3)
