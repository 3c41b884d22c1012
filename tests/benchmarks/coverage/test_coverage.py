import json

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from benchmarks.coverage import models, report, run
from benchmarks.coverage.__main__ import main
from benchmarks.coverage.models import MODELS


def test_run_writes_the_coverage_of_both_kinds_of_errors(tmp_path, monkeypatch):
    small = {"linear": MODELS["linear"]._replace(shape=(12, 3))}
    for module in (run, report):
        monkeypatch.setattr(module, "MODELS", small)
    monkeypatch.setattr("benchmarks.coverage.__main__.MODELS", small)
    assert main(["--sets", "4", "--out", str(tmp_path)]) == 0
    names = {"coverage.json", "report.html", "report.md"}
    assert {file.name for file in tmp_path.iterdir()} == names
    results = json.loads((tmp_path / "coverage.json").read_text())
    (cell,) = results["cells"]
    assert cell["names"] == ["beta[0]", "beta[1]", "sigma", "tau"] and cell["num_sets"] == 4
    assert all(abs(ratio - 1.0) < 0.2 for ratio in cell["se_ratio"])
    assert all(0.0 <= share <= 1.0 for share in cell["coverage"] + cell["coverage_sandwich"])
    assert cell["longest_newton_step"] < 1e-3
    text = (tmp_path / "report.md").read_text()
    assert "| beta[0] | 1.0 |" in text and text == report.report(results)


def test_closed_form_agrees_with_quadrature():
    problem = MODELS["linear"]
    data = problem.simulate(random.key(0))
    params = {"beta": jnp.array([0.9, 0.4]), "sigma": 1.1, "tau": 0.8}
    exact = problem.log_likelihood(params, data)
    by_nodes = models.by_quadrature(problem.observations, params, data)
    np.testing.assert_allclose(exact, by_nodes, rtol=1e-4)


def test_posterior_moments_are_those_of_the_conjugate_posterior():
    problem = MODELS["linear"]
    data = problem.simulate(random.key(1))
    params = {"beta": jnp.array([1.0, 0.5]), "sigma": 1.0, "tau": 1.0}
    mean, sd = problem.posterior_moments(params, data)
    residuals = (data.y - 1.0 - 0.5 * data.x).sum(axis=1)
    np.testing.assert_allclose(mean, residuals / 6.0, atol=1e-4)
    np.testing.assert_allclose(sd, 6.0**-0.5, rtol=1e-3)


def test_newton_steps_reach_the_maximum():
    function = lambda free: -jnp.sum(jnp.cosh(free - jnp.array([0.3, -1.2])))
    found = run.maximize(function, jnp.zeros(2))
    assert np.abs(jax.grad(function)(found)).max() < 1e-5
