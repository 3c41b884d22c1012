import json
import shutil

import numpy as np
import pytest
from scipy.special import logsumexp

from jax import random

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import kl_divergence

from benchmarks.common import readme
from benchmarks.density import __main__ as density
from benchmarks.density import pictures as density_pictures
from benchmarks.density.bench import Arm, Plan
from benchmarks.density.judge import Judge, _bound_over, _error_of_bound
from benchmarks.density.models import PLANES, Data, Task, checked, digits, plane
from benchmarks.density.report import figures, mean, paired, report, summary_table
from benchmarks.density_variants import __main__ as density_variants
from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from tests.helpers.compiling import quick_jit


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
        "sumo": {0: {"nll": 1.5}, 1: {"nll": 2.1}, 2: {"nll": 40.0}},
        "lost": {0: {"nll": 1.0}, 1: {"nll": None}},
        "far": {0: {"nll": 1.0}, 1: {"nll": 45.0}},
    }
    for run in (run for by_seed in runs.values() for run in by_seed.values()):
        run["validation"] = [[0, 44.0]]
    difference = paired(runs, "sumo", "nll")
    np.testing.assert_allclose(difference, (0.3, 0.2))
    assert paired(runs, "iwelbo", "nll") is None
    for name in ("lost", "far"):
        assert np.isnan(paired(runs, name, "nll").value)
        assert str(mean(figures(runs[name], "nll"))) == "**ran away**"


def tiny(quick):
    """One arm each, for compiling is what takes long."""
    few = {
        "digits": {"iwelbo": Arm("IWELBO", IWELBO(5))},
        "moons": {"multilevel": Arm("ML", MultilevelSUMO(1))},
    }

    def shrunk(plan):
        task = plan.task._replace(data=Data(*(part[:60] for part in plan.task.data)))
        return Plan(
            task,
            {5: few[plan.task.title]},
            epochs=1,
            batch_size=25,
            learning_rate=1e-3,
            judged_draws=100,
            judged_particles=4,
        )

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
    assert list(first) == ["digits-5-iwelbo-0"]
    assert density.main(command) == 0
    runs = json.loads((tmp_path / "density.json").read_text())["runs"]
    assert list(runs) == ["digits-5-iwelbo-0", "moons-5-multilevel-0"]
    assert {name: runs[name] for name in first} == first
    assert {file.name for file in tmp_path.iterdir()} == {
        "checkpoints",
        "density.json",
        "images.png",
        "plane_moons.png",
        "report.html",
        "report.md",
        "training.png",
    }
    assert "| ML |" in (tmp_path / "report.md").read_text()
    # Pictures of trainings that are gone stay.
    shutil.rmtree(tmp_path / "checkpoints")
    images, page = ((tmp_path / name).read_bytes() for name in ("images.png", "report.html"))
    assert density.main(command) == 0
    assert (tmp_path / "images.png").read_bytes() == images
    assert (tmp_path / "report.html").read_bytes() == page


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
    judge = Judge(Task("linear", linear_model, wide_guide, data, False, (2, 0)), 400, 16, {})
    verdict = judge.verdict({}, 1)
    nll = -dist.Normal(0.0, 2.0**0.5).log_prob(points).sum(axis=1).mean()
    divergence = 2 * kl_divergence(dist.Normal(0.0, 0.8), dist.Normal(0.0, 0.5**0.5))
    assert abs(verdict["nll"] - nll) < 4 * verdict["nll_se"] < 0.02
    assert abs(verdict["bias"] + divergence) < 4 * verdict["bias_se"] < 0.05
    assert abs(judge.validation({}) - nll) < 0.05
    assert abs(verdict["nll_bound"] - nll) < 4 * verdict["nll_bound_se"] + divergence / 400 < 0.02
    assert verdict["pareto_k"] < 0.7
    biases = [judge.verdict({}, longest)["bias"] for longest in (1, 4, 16, 400)]
    assert biases == sorted(biases)
    assert abs(biases[-1]) < 0.01


def wider_guide(points):
    """Far too wide, so that every draw counts."""
    with numpyro.plate("points", len(points)):
        numpyro.sample("z", dist.Normal(0.5 * points, 1.2).to_event(1))


TRAINED = [
    SUMO(3, stopping_time=density.SHORT_TAIL, rotations=8, data_axes=0),
    MultilevelSUMO(2, stopping_time=density.FEW_BLOCKS, data_axes=0),
]


@pytest.mark.parametrize("loss", TRAINED, ids=["sumo", "multilevel"])
def test_the_bound_is_the_mean_of_the_estimates_that_were_trained_on(loss, quick_compilation):
    points = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    task = Task("linear", linear_model, wider_guide, Data(points, points, points), False, (2, 0))
    log_weights = Judge(task, 1, 1, {})._log_weights({}, points, 5_000)
    longest = Arm("", loss).told()["longest"]
    expected, expected_error = _bound_over(longest, log_weights)
    args = {}, linear_model, wider_guide, (points,), {}
    estimates = quick_jit(lambda key: loss.estimates(key, *args, 2_000)[0])(random.key(0))
    error = np.hypot(np.std(estimates) / estimates.size**0.5, expected_error)
    assert abs(float(np.mean(estimates)) - expected) < 4 * error < 0.03
    assert np.isnan(_bound_over(5_001, log_weights)[0])
    of_these = logsumexp(log_weights[:3_000], axis=0).mean() - np.log(3_000)
    np.testing.assert_allclose(_bound_over(3_000, log_weights)[0], of_these)
    shorter = _bound_over(loss.num_particles, log_weights)[0]
    assert expected - shorter > 4 * error


def results_of(plans, runs):
    """As they would be in the JSON: one plan of digits, and NLL by arm and seed."""
    told = {name: plan.told() for name, plan in plans.items()}
    figures = {"nll_se": 0.1, "nll_bound_se": 0.1, "bias": -0.5, "pareto_k": 0.6, "seconds": 3.0}
    norm = {"median": 5.0, "99.9 %": 60.0, "clipped": 0.25}
    norms = {"gradient_norms": {"model": norm, "guide": norm}, "validation": [[0, 44.0]]}
    norms["workers"] = 2
    cells = {
        f"{arm}-{seed}": {"plan": "digits", "draws": 5, "arm": arm, "seed": seed, "nll": nll}
        | {"nll_bound": nll, **figures, **norms}
        for arm, by_seed in runs.items()
        for seed, nll in enumerate(by_seed)
    }
    return {"configuration": {"plans": told}, "runs": cells, "seconds": 60.0}


def test_summary_has_a_line_for_each_data_and_draws():
    runs = {"iwelbo": [22.0, 23.0], "sumo": [21.5, 22.3], "sumo_variance": [21.9, 1e6]}
    table = summary_table(results_of(density.plans(False), runs))
    header, _, row = table.splitlines()
    cells = dict(zip(header.split("|"), row.split("|")))
    assert cells[" data "] == " digits "
    assert cells[" IWELBO "] == " 22.500 ± 0.500 "
    assert cells[" SUMO "] == " **−0.600 ± 0.100** "
    assert cells[" SUMO, guide by variance + 32 "] == " **1 of 2 ran away** "
    assert cells[" ELBO "] == " – "


def test_variants_make_as_many_draws_and_are_compared_with_their_own_loss():
    variants = density_variants.variants()
    for arm in variants.values():
        assert abs(arm.told()["draws"] - density_variants.DRAWS) < 0.1
    runs = {"iwelbo": [22.0, 23.0], "sumo": [21.0, 22.0], "sumo_clip_3": [21.1, 22.4]}
    text = density_variants.report(results_of(density_variants.variant_plans(False), runs))
    assert "| as it is | 5.1 | 2 | 21.500 ± 0.500 | – | −0.500 ± 0.000 | 3.0 | 5.0 |" in text
    assert "| gradients clipped at 3 | 5.1 | 2 | 21.750 ± 0.650 | 0.250 ± 0.150 |" in text


def test_the_objective_without_a_baseline_is_the_square_of_the_estimate(monkeypatch):
    loss = density_variants.PlainSUMO(3, guide_objective="variance")
    monkeypatch.setattr(loss, "estimate", lambda draws, view: np.array([-3.0, np.inf]))
    np.testing.assert_array_equal(loss.objective("variance", None, None, None), [9.0, 0.0])


@pytest.mark.parametrize(
    "file, told",
    [("density/density.json", report), ("density_variants/variants.json", density_variants.report)],
    ids=["density", "variants"],
)
def test_reports_are_those_of_their_results(file, told):
    file = readme.ROOT / "benchmarks" / "results" / file
    assert (file.parent / "report.md").read_text() == told(json.loads(file.read_text()))
