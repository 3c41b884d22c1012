import json

import numpy as np
import pytest
from scipy.special import logsumexp

from jax import random

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import kl_divergence
from numpyro.infer import Trace_ELBO

from benchmarks import density, density_pictures
from benchmarks.density_bench import Arm, Plan
from benchmarks.density_judge import Judge, _error_of_bound
from benchmarks.density_programs import PLANES, Data, Task, checked, digits, plane
from benchmarks.density_report import figures, mean, paired
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO


@pytest.mark.parametrize("draws", [5, 15, 50])
def test_all_arms_make_the_same_number_of_draws(draws):
    for arm in density.arms(draws).values():
        assert abs(arm.told()["draws"] - draws) < 0.1


def test_splits_are_apart_and_whole():
    data = digits().data
    assert [len(part) for part in data] == [1_257, 180, 360]
    assert len(np.unique(np.concatenate(data), axis=0)) == 1_797
    for name in PLANES:
        data = plane(name).data
        assert [len(part) for part in data] == [2_000, 500, 1_000]
        np.testing.assert_allclose(np.concatenate(data).std(axis=0), 1.0, rtol=1e-5)


def test_digits_are_binary_anew_from_each_key():
    grey = np.full((200, 64), 0.3, np.float32)
    one, other = (digits().observations(random.key(i), grey) for i in (0, 1))
    assert np.unique(one).tolist() == [0.0, 1.0]
    assert abs(one.mean() - 0.3) < 4 * (0.21 / one.size) ** 0.5
    assert (one != other).mean() > 0.3


BAD_POINTS = {
    "another_shape": (np.zeros((3, 5)), "shape (size, 2) with size >= 1; got (3, 5). Reshape"),
    "nothing": (np.zeros((0, 2)), "got (0, 2)"),
    "no_number": (np.array([[0.0, 1.0], [np.nan, 1.0]]), "1 of 4 are not, the first in row 1"),
    "infinite": (np.array([[0.0, np.inf]]), "Expected finite values"),
}


@pytest.mark.parametrize("points, message", BAD_POINTS.values(), ids=BAD_POINTS.keys())
def test_points_that_the_likelihood_cannot_take_are_refused_in_one_line(points, message):
    with pytest.raises(ValueError) as error:
        checked(points, 2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("grey", [16.0, -0.1])
def test_grey_levels_that_are_no_probabilities_are_refused(grey):
    with pytest.raises(ValueError, match=r"grey levels in \[0, 1\]; got .* Divide"):
        digits().observations(random.key(0), np.full((2, 64), grey))


def test_differences_are_those_of_the_seeds_that_both_have():
    runs = {
        "iwelbo": {0: {"nll": 1.0}, 1: {"nll": 2.0}},
        "sumo": {0: {"nll": 1.5}, 1: {"nll": 2.1}, 2: {"nll": 50.0}},
        "lost": {0: {"nll": 1.0}, 1: {"nll": None}},
        "far": {0: {"nll": 1.0}, 1: {"nll": 1e6}},
    }
    difference = paired(runs, "sumo", "nll")
    np.testing.assert_allclose(difference, (0.3, 0.2))
    assert paired(runs, "iwelbo", "nll") is None
    for name in ("lost", "far"):
        assert np.isnan(paired(runs, name, "nll").value)
        assert str(mean(figures(runs[name], "nll"))) == "**ran away**"


def tiny(quick):
    few = {"iwelbo": Arm("IWELBO", IWELBO(5)), "multilevel": Arm("ML", MultilevelSUMO(1))}

    def shrunk(plan):
        task = plan.task._replace(data=Data(*(part[:60] for part in plan.task.data)))
        return Plan(task, {5: few}, epochs=1, batch_size=25, learning_rate=1e-3, judged_draws=100)

    return {name: shrunk(plan) for name, plan in density_plans(True).items()}


density_plans = density.plans


def test_run_is_gone_on_with_and_writes_tables_and_pictures(
    quick_compilation, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(density, "plans", tiny)
    monkeypatch.setattr(density_pictures, "GRID", 12)
    verdict, stops = Judge.verdict, [True]

    def stopped_once(self, *args):
        if self.task.title == "moons" and stops and stops.pop():
            raise KeyboardInterrupt
        return verdict(self, *args)

    monkeypatch.setattr(Judge, "verdict", stopped_once)
    command = ["--seeds", "1", "--quick", "--workers", "1", "--out", str(tmp_path)]
    assert density.main(command) == 0
    assert "the report is on what is there" in capsys.readouterr().err
    first = json.loads((tmp_path / "density.json").read_text())["runs"]
    assert list(first) == ["digits-5-iwelbo-0", "digits-5-multilevel-0"]
    assert density.main(command) == 0
    runs = json.loads((tmp_path / "density.json").read_text())["runs"]
    assert len(runs) == 4
    assert {name: runs[name] for name in first} == first
    assert {file.name for file in tmp_path.iterdir()} == {
        "checkpoints",
        "density.json",
        "images.png",
        "plane_moons.png",
        "report.md",
        "training.png",
    }
    assert "| ML |" in (tmp_path / "report.md").read_text()


def test_checkpoint_that_is_cut_short_is_told_of_in_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(density, "plans", tiny)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "digits-5-iwelbo-0.msgpack").write_bytes(b"cut")
    assert density.main(["--seeds", "1", "--workers", "1", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.strip().endswith("Move it away to begin anew.")


def test_error_of_the_bound_is_its_spread_over_repetitions():
    log_weights = 0.7 * np.random.default_rng(0).normal(size=(400, 300, 20))
    bounds = logsumexp(log_weights, axis=1) - np.log(300)
    expected = bounds.mean(axis=1).std()
    np.testing.assert_allclose(_error_of_bound(log_weights[0]), expected, rtol=0.15)


def linear_model(points):
    with numpyro.plate("points", len(points)):
        z = numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
        numpyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=points)


def wide_guide(points):
    """The posterior, but for its scale."""
    with numpyro.plate("points", len(points)):
        numpyro.sample("z", dist.Normal(0.5 * points, 0.8).to_event(1))


def test_verdict_is_that_of_closed_forms(quick_compilation):
    points = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    data = Data(points, points, points)
    judge = Judge(Task("linear", linear_model, wide_guide, data, False, (2, 0)), 400, {})
    verdict = judge.verdict({}, Trace_ELBO(5), 5)
    nll = -dist.Normal(0.0, 2.0**0.5).log_prob(points).sum(axis=1).mean()
    divergence = 2 * kl_divergence(dist.Normal(0.0, 0.8), dist.Normal(0.0, 0.5**0.5))
    assert abs(verdict["nll"] - nll) < 4 * verdict["nll_se"] < 0.02
    assert abs(verdict["bias"] + divergence) < 4 * verdict["bias_se"] < 0.05
    assert abs(judge.validation({}) - nll) < 0.05
    for loss in (SUMO(2), MultilevelSUMO(1)):
        of_unbiased = judge.verdict({}, loss, 5)
        assert abs(of_unbiased["bias"]) < 4 * of_unbiased["bias_se"] < 0.3
