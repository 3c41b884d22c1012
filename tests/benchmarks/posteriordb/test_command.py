import json

import numpy as np
import pytest

from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from benchmarks.posteriordb import __main__ as command
from benchmarks.posteriordb import pathfinder
from benchmarks.posteriordb.errors import errors_of, is_right, largest_share
from benchmarks.posteriordb.report import log_evidence_of, report
from benchmarks.posteriordb.samplers import Sample, in_chains, with_deterministic
from tests.benchmarks.posteriordb.checkout import KIDS, kid_draws, write_posterior

NAME = "kidiq-kidscore_momhs"


def sites(draws, shift=0.0):
    """Draws by site."""
    beta = np.stack([draws["beta[1]"], draws["beta[2]"]], axis=-1)
    return {"beta": beta + shift, "sigma": draws["sigma"]}


def exact_fit(rng_key, model, size, minutes):
    figures = {"verdict": "good", "problems": [], "kernel": "NUTS"}
    guide = {"log_evidence": -10.0, "elbo": -10.5, "pareto_k": 0.1, "is_known": True}
    rows = {"fit": sites(kid_draws()), "fit_guide": sites(kid_draws(), shift=0.5)}
    return Sample(rows, 3.0, {"fit": figures, "fit_guide": guide})


def exact_nuts(rng_key, model, size, minutes):
    return Sample({"nuts": sites(kid_draws())}, 2.0, {"nuts": {"divergences": 0}})


def failing(rng_key, model, size, minutes):
    raise ValueError("Expected a mode; got none.\nA second line.")


def unused(rng_key, model, size, minutes):
    raise AssertionError("it was run already")


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs the command with these samplers on a folder of one posterior; returns its results."""
    data, out = tmp_path / "data", tmp_path / "out"
    write_posterior(data, NAME, KIDS, kid_draws())

    def call(*arguments, **samplers):
        for name, sampler in samplers.items():
            monkeypatch.setitem(command.SAMPLERS, name, sampler)
        given = ["--samplers", ",".join(samplers)] if samplers else []
        status = command.main(["--data", str(data), "--out", str(out), *given, *arguments])
        file = out / "posteriordb.json"
        results = json.loads(file.read_text()) if file.exists() else None
        return status, results, capsys.readouterr()

    return call


def test_a_run_writes_report_figures_and_picture_and_is_added_to(run, tmp_path):
    status, results, printed = run(fit=exact_fit, nuts=failing)
    assert status == 0
    names = {"errors.png", "posteriordb.json", "report.html", "report.md"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    skipped = [line for line in printed.out.splitlines() if line.startswith("Skipped")]
    assert len(skipped) == 1 and len(skipped[0].split(", ")) == 45 and "arK-arK" in skipped[0]
    cells = results["cells"][NAME]
    assert cells["nuts"] == {"failed": "ValueError: Expected a mode; got none."}
    assert is_right(cells["fit"]["rows"]["fit"]) and cells["fit"]["seconds"] == 3.0
    shifted = cells["fit"]["rows"]["fit_guide"]["mean"]
    assert shifted["of"].startswith("beta") and abs(shifted["value"] - 0.5) < 0.05

    status, results, _ = run(fit=unused, pathfinder=failing)
    assert status == 0 and results["cells"][NAME].keys() == {"fit", "nuts", "pathfinder"}
    text = report(results)
    assert "| fit | 1 of 1 | 0 | 0.000 |" in text and "| NUTS | 0 of 1 | 1 | – |" in text
    assert '| "good" | 1 | 0 |' in text and '| "bad" | 0 | 0 |' in text
    assert f"- {NAME} failed: ValueError: Expected a mode; got none." in text
    assert "| 0.500 | 0.10 | 3.0 |" in text  # KL, k-hat, seconds


def test_another_seed_begins_again(run, tmp_path):
    run(nuts=exact_nuts)
    _, results, _ = run("--seed", "1", nuts=exact_nuts)
    assert results["configuration"]["seed"] == 1
    assert (tmp_path / "out" / "posteriordb.earlier-1.json").exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--posteriors", "arK"], "Expected names of posteriors separated by commas; got 'arK'."),
        (["--samplers", "gibbs"], "Expected names of samplers separated by commas; got 'gibbs'."),
        (["--data", "/nowhere"], "Expected the root of a checkout of posteriordb; got '/nowhere'"),
    ],
)
def test_wrong_names_are_refused_in_one_line_before_work(run, arguments, words):
    status, results, printed = run(*arguments)
    assert status == 2 and results is None
    assert words in printed.err and printed.err.count("\n") == 1


def test_a_posterior_that_is_not_there_is_skipped(run):
    status, results, printed = run("--posteriors", f"arK-arK,{NAME}", nuts=exact_nuts)
    assert status == 0 and list(results["cells"]) == [NAME]
    assert "does not have them: arK-arK.\n" in printed.out


def test_draws_are_right_up_to_the_limits():
    reference = kid_draws()
    assert largest_share(errors_of(sites(reference), reference)) < 0.1
    row = errors_of(sites(reference, shift=0.2), reference)
    np.testing.assert_allclose(row["mean"]["value"], 0.2, rtol=0.1)
    assert abs(row["sd"]["value"]) < 1e-3 and not is_right(row)
    row["mean"]["value"] = None
    assert largest_share(row) == np.inf


def test_draws_that_are_not_finite_are_not_right():
    reference = kid_draws()
    broken = {name: np.full_like(values, np.nan) for name, values in sites(reference).items()}
    assert not is_right(errors_of(broken, reference))


def test_log_evidence_is_the_first_that_is_known():
    row = lambda name, value, known: {"rows": {name: {"log_evidence": value, "is_known": known}}}
    cells = {"fit": row("fit_guide", -1.0, False), "bnaf": row("bnaf", -2.0, True)}
    assert log_evidence_of(cells) == -2.0
    cells["fit"]["rows"]["fit_guide"]["is_known"] = True
    assert log_evidence_of(cells) == -1.0
    assert log_evidence_of({"fit": {"failed": "ValueError"}}) is None


def two_numbers():
    loc = numpyro.sample("loc", dist.Normal(1.0, 2.0))
    numpyro.deterministic("twice", 2.0 * loc)
    numpyro.sample("scale", dist.LogNormal(0.0, 0.1))


def test_deterministic_sites_follow_from_latent_draws():
    latents = {"loc": jnp.arange(8.0), "scale": jnp.ones(8)}
    draws = in_chains(with_deterministic(two_numbers, latents))
    np.testing.assert_array_equal(draws["twice"], 2.0 * draws["loc"])
    assert draws["twice"].shape == (4, 2)


def test_draws_of_paths_are_resampled_by_their_weights(monkeypatch):
    wide = {"loc": dist.Normal(2.0, 3.0), "scale": dist.Normal(0.0, 0.15)}  # unconstrained

    def sample(rng_key, state, num_samples):
        assert state.keys() == wide.keys() and num_samples == 1_000
        keys = random.split(rng_key)
        draws = {n: q.sample(key, (num_samples,)) for (n, q), key in zip(wide.items(), keys)}
        return draws, sum(q.log_prob(draws[name]) for name, q in wide.items())

    approximate = lambda key, log_density, begin, num_samples, maxiter: (begin, None)
    monkeypatch.setattr(pathfinder.pathfinder, "approximate", approximate)
    monkeypatch.setattr(pathfinder.pathfinder, "sample", sample)
    draws, k_hat = pathfinder.pathfinder_draws(random.key(0), two_numbers, 4, 4_000)
    assert k_hat < 0.5
    loc, log_scale = np.asarray(draws["loc"]), np.log(np.asarray(draws["scale"]))
    assert abs(loc.mean() - 1.0) < 0.2 and abs(loc.std() - 2.0) < 0.2
    assert abs(log_scale.mean()) < 0.02 and abs(log_scale.std() - 0.1) < 0.01
