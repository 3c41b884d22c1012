import json

import numpy as np
import pytest
from scipy.integrate import simpson
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import log_density

from benchmarks.common import readme
from benchmarks.common.distributions import Empirical, MixtureOfNormals
from benchmarks.common.judge import draws_to_pay, judge_against, worst
from benchmarks.posterior import __main__ as posterior
from benchmarks.posterior import bench as posterior_bench
from benchmarks.posterior import reference as posterior_reference
from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.pictures import rank_shares
from benchmarks.posterior.reference import Reference, exact_reference, reference_of
from benchmarks.posterior.report import is_well, overview_table, report, summary_table
from benchmarks.posterior.samplers import power_at, tempered
from tests.helpers.compiling import quick_jit

#: With the range of each coordinate that holds nearly all.
IN_THE_PLANE = {"banana": (60.0, 110.0), "mixture25": (14.0, 14.0)}
BY_CHAINS = ("eight_schools", "horseshoe", "logistic", "volatility")


@pytest.mark.parametrize("name", BY_CHAINS)
def test_the_reference_has_the_density_of_the_model_as_written(name):
    """log p(z) = log p(x) + log |∂x/∂z|, the latents x as written being functions of z."""
    problem = PROBLEMS[name]()
    other, args = problem.chains.model, problem.args

    def as_written(base):
        sites = trace(seed(substitute(other, base), 0)).get_trace(*args)
        return {name: sites[name]["value"] for name in problem.shapes()}

    @quick_jit
    def densities(key):
        drawn = trace(seed(other, key)).get_trace(*args)
        base = {
            name: site["value"]
            for name, site in drawn.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        flat, unravel = jax.flatten_util.ravel_pytree(base)
        at = lambda flat: jax.flatten_util.ravel_pytree(as_written(unravel(flat)))[0]
        log_volume = jnp.linalg.slogdet(jax.jacfwd(at)(flat))[1]
        log_p_of_base = log_density(other, args, {}, base)[0]
        return log_p_of_base, log_density(problem.model, args, {}, as_written(base))[0] + log_volume

    for draw in range(3):
        np.testing.assert_allclose(*densities(random.key(draw)), rtol=2e-4)


@pytest.mark.parametrize("name", IN_THE_PLANE)
def test_laws_in_the_plane_are_those_of_the_density(name):
    """By Simpson's rule over both coordinates."""
    problem = PROBLEMS[name]()
    axes = [np.linspace(-r, r, 801) for r in IN_THE_PLANE[name]]

    def density(x, y):
        values = {"x": x, "y": y} if name == "banana" else {"x": jnp.stack([x, y])}
        return jnp.exp(log_density(problem.model, (), {}, values)[0])

    over_y = quick_jit(jax.vmap(density, (None, 0)))
    table = np.stack([np.asarray(over_y(x, axes[1]), np.float64) for x in axes[0]])
    for axis, law in enumerate(problem.laws.values()):
        at, marginal = axes[axis], simpson(table, x=axes[1 - axis], axis=1 - axis)
        moments = [simpson(at**power * marginal, x=at) for power in range(3)]
        np.testing.assert_allclose(moments[:2], [1.0, law.mean()], atol=2e-3)
        np.testing.assert_allclose(moments[2] ** 0.5, law.std(), rtol=1e-3)
        below = simpson(marginal[:360], x=at[:360])
        np.testing.assert_allclose(below, law.cdf(at[359]), atol=2e-3)


def test_laws_in_ten_dimensions_are_those_of_exact_draws(quick_compilation):
    problem = PROBLEMS["funnel10"]()
    reference = exact_reference(problem, 4_000)
    assert list(reference.draws) == ["v", *(f"x[{i}]" for i in range(9))]
    assert problem.laws["x[0]"].std() == pytest.approx(np.exp(2.25))
    _, verdict = judge_against(reference.draws, reference.laws, (0.025,), (0.025,))
    # The distribution of Kolmogorov and Smirnov, at a probability of 2e-4 for each.
    assert max(verdict["ks"].values()) < 2.15 / 4_000**0.5


def test_quantities_have_names_and_logarithms():
    problem = PROBLEMS["logistic"]()
    shapes = {"intercept": (), "tau": (3, 1), "beta": (3, 10)}
    draws = {site: np.full((4, 5, *shape), np.e) for site, shape in shapes.items()}
    draws["beta"] = np.arange(600.0).reshape(4, 5, 3, 10)
    named = problem.quantities(draws)
    assert len(named) == problem.dimension() == 34
    np.testing.assert_array_equal(named["log τ[2]"], np.ones((4, 5)))
    np.testing.assert_array_equal(named["β[1,9]"], draws["beta"][:, :, 1, 9])
    for make in PROBLEMS.values():
        telling = {*make().telling, *make().pair}
        draws = {site: np.ones((1, 1, *shape)) for site, shape in make().shapes().items()}
        assert telling <= make().quantities(draws).keys()


def test_laws_agree_with_closed_forms():
    law = MixtureOfNormals([-2.0, 2.0], [0.5, 1.0], np.array([0.25, 0.75]))
    assert law.mean() == pytest.approx(1.0)
    assert law.std() ** 2 == pytest.approx(0.25 * 0.25 + 0.75 + 3.0)
    for p in (0.005, 0.3, 0.995):
        assert law.cdf(law.ppf(p)) == pytest.approx(p)
    draws = norm.ppf((np.arange(1_000) + 0.5) / 1_000)
    empirical = Empirical(draws)
    assert empirical.std() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(empirical.cdf(draws), norm.cdf(draws) + 0.0005, atol=1e-6)


def test_errors_are_in_standard_deviations_of_the_law():
    rng = np.random.default_rng(0)
    points = rng.permutation(norm.ppf((np.arange(4_000) + 0.5) / 4_000)).reshape(4, 1_000)
    draws = {"moved": 5.0 + 2.0 * (points + 0.3), "wide": 5.0 + 3.0 * points}
    laws = {name: norm(5.0, 2.0) for name in draws}
    _, verdict = judge_against(draws, laws, (0.025, 0.5, 0.975), (0.025, 0.975))
    errors = verdict["errors"]
    assert errors["mean"] == pytest.approx({"moved": 0.3, "wide": 0.0}, abs=1e-3)
    assert errors["sd"] == pytest.approx({"moved": 0.0, "wide": 0.5}, abs=2e-3)
    assert errors["tails"] == pytest.approx({"moved": 0.3, "wide": 0.98}, abs=5e-3)
    assert verdict["ks"]["moved"] == pytest.approx(2 * norm.cdf(0.15) - 1, abs=1e-3)


def test_the_worst_is_the_farthest_or_the_least_or_no_number():
    assert worst({"a": 0.2, "b": -0.5}) == {"value": -0.5, "of": "b"}
    assert worst({"a": 20.0, "b": 5.0}, least=True) == {"value": 5.0, "of": "b"}
    assert worst({"a": np.nan, "b": 5.0})["of"] == "a"


def test_training_pays_where_the_lines_cross():
    n = draws_to_pay(60.0, 500.0, 4.0, 20.0)
    assert 60.0 + n / 500.0 == pytest.approx(4.0 + n / 20.0)
    assert draws_to_pay(1.0, 500.0, 4.0, 20.0) == 0.0
    assert draws_to_pay(60.0, 20.0, 4.0, 500.0) == np.inf
    assert draws_to_pay(60.0, np.nan, 4.0, 500.0) == np.inf


def test_ranks_are_even_where_chains_agree_and_apart_where_not():
    draws = np.arange(400.0).reshape(100, 4).T
    np.testing.assert_allclose(rank_shares(draws), 1 / 20)
    apart = rank_shares(np.arange(400.0).reshape(4, 100))
    np.testing.assert_allclose(apart[0], np.repeat([0.2, 0.0], [5, 15]))


def test_the_power_of_a_target_rises_in_equal_ratios_to_one():
    powers = [power_at(step, 0.01, 1_000) for step in (0, 175, 350, 700, 999)]
    np.testing.assert_allclose(powers, [0.01, 0.1**1.5, 0.1, 1.0, 1.0], rtol=1e-5)
    assert power_at(3, 1.0, 1_000) == 1.0


def test_a_tempered_model_is_the_model_to_that_power():
    problem, z = PROBLEMS["eight_schools"](), {"mu": 3.0, "tau": 2.0, "theta": jnp.arange(8.0)}
    whole = log_density(problem.model, problem.args, {}, z)[0]
    program = tempered(problem.model)
    part = log_density(program, problem.args, {"power": 0.3}, z)[0]
    np.testing.assert_allclose(part, 0.3 * whole, rtol=1e-5)
    np.testing.assert_allclose(log_density(program, problem.args, {}, z)[0], whole, rtol=1e-5)


def test_a_reference_by_chains_is_kept_until_its_model_changes(tmp_path, monkeypatch):
    made = []

    def chains(problem, ess_bar):
        made.append(problem.name)
        draws = {"log τ": np.arange(8.0).reshape(4, 2)}
        return Reference(draws, {}, {"title": "NUTS", "draws": 8})

    monkeypatch.setattr(posterior_reference, "chains_reference", chains)
    problem = PROBLEMS["eight_schools"]()
    for _ in range(2):
        reference = reference_of(problem, 10, 100.0, tmp_path)
    assert made == ["eight_schools"]
    assert reference.told == {"title": "NUTS", "draws": 8}
    np.testing.assert_array_equal(reference.draws["log τ"], np.arange(8.0).reshape(4, 2))
    reference_of(problem._replace(args=(problem.args[0], 2 * problem.args[1])), 10, 100.0, tmp_path)
    reference_of(problem, 10, None, tmp_path)
    assert len(made) == 3


def line(mean=0.0, sd=1.0):
    figures = {"mean": mean, "sd": sd, "mcse_mean": 0.01, "mcse_sd": 0.01, "ess_bulk": 100.0}
    quantiles = {str(p): float(p) for p in posterior_bench.PROBABILITIES}
    return figures | {"ess_tail": 90.0, "r_hat": 1.0, "quantiles": quantiles, "ks": 0.0123}


def verdict_of(title, names, **changes):
    error = {"value": 0.05, "of": names[0]}
    return {
        "title": title,
        "draws": 400,
        "r_hat": {"value": 1.004, "of": names[0]},
        "ess": 200.0,
        "ess_per_second": 50.0,
        "ess_per_second_trained": 4.0,
        "ks": error,
        **{f"{kind}_error": error for kind in ("mean", "sd", "tails")},
        "seconds": 4.0,
        "seconds_to_train": 46.0,
        "telling": {name: line() for name in names},
        **changes,
    }


def outcome(name, **changes):
    """Of a problem, as it would be in the JSON."""
    problem = PROBLEMS[name]()
    names = problem.telling
    ends = ("elbo_lower", "elbo_upper", "log_evidence", "kl_lower", "kl_upper")
    certificate = {end: 0.0123 for end in ends} | {f"{end}_se": 0.0004 for end in ends}
    samplers = {
        "metropolis": verdict_of("learned, Metropolis", names),
        "nuts": verdict_of("NUTS", names, divergences=395, ess_per_second=2.0),
    }
    return {
        "told": posterior_bench.told_of(problem),
        "training": {"steps": 10, "seconds": 46.0, "seconds_to_compile": 9.0},
        "certificate": certificate | {"pareto_k": 0.35, "ess": 90.0},
        "acceptance": 0.91,
        "reference": {
            "title": "exact draws",
            "draws": 400,
            "seconds": 1.0,
            "quantities": {name: line() for name in names},
        },
        "samplers": samplers,
        "pays_from": 104.0,
        **changes,
    }


def results_of(problems, steps=None):
    scale = posterior_bench.DEFAULT._replace(steps=steps)._asdict()
    return {
        "configuration": {"seed": 0, "scale": scale},
        "seconds": 600.0,
        "problems": problems,
    }


def test_a_report_shows_every_figure_it_was_given():
    text = report(results_of({"funnel10": outcome("funnel10"), "banana": outcome("banana")}))
    assert (
        "KL between 0.0123 ± 0.0004 and 0.0123 ± 0.0004" in text
        and "k-hat 0.35" in text
        and "(exactly 0)" in text
    )
    assert "395" in text and "accepts 91 %" in text and "from 104 effective draws" in text
    assert "| funnel: ESS / s, × NUTS | 25.0 | at least 10 | yes |" in text
    assert "| funnel, Metropolis: sd of v | 1.000 | 1 ± 3 × 0.010 | yes |" in text
    for name in ("funnel10", "banana"):
        for kind in ("marginals", "pairs", "ranks"):
            assert f"({kind}_{name}.png)" in text
    assert "quick" not in text
    assert "A quick run" in report(results_of({}, steps=50))


CERTIFIED = {"elbo_lower": -0.03, "elbo_upper": -0.02, "kl_lower": 0.21, "kl_upper": 0.32}


@pytest.mark.parametrize(
    "name, k_hat, between, at_most",
    [
        ("funnel10", 0.6, "0.0200 … 0.0300 ± 0.0004", "0.030"),
        ("funnel10", 0.9, "0.0200 … 0.0300 ± 0.0004", "0.030"),
        ("eight_schools", 0.6, "0.2100 … 0.3200 ± 0.0004", "0.320"),
        ("eight_schools", 0.9, "> 0.2100 … 0.3200 ± 0.0004", "> 0.320"),
    ],
)
def test_divergence_is_by_the_exact_log_evidence_or_may_be_larger(name, k_hat, between, at_most):
    told = outcome(name)
    told["certificate"] |= {**CERTIFIED, "pareto_k": k_hat}
    results = results_of({name: told})
    assert f" | {between} | {k_hat:.2f} | " in overview_table(results)
    assert f" | {at_most} | " in summary_table(results)
    told["certificate"] |= {"elbo_lower": None, "kl_upper": None}
    assert "… – ±" in overview_table(results) and " | – | " in summary_table(results)


def test_a_report_says_what_is_not_well():
    told = outcome("funnel10", pays_from=None)
    told["certificate"]["pareto_k"] = 0.9
    told["samplers"]["metropolis"] |= {"r_hat": {"value": 1.2, "of": "v"}}
    text = report(results_of({"funnel10": told}))
    assert "beyond 0.7" in text and "never pays" in text and "**no**" in text
    del told["certificate"], told["samplers"]["metropolis"]
    assert "**ran away**" in report(results_of({"funnel10": told}))


def test_a_sampler_is_well_if_r_hat_means_and_distances_are():
    well = verdict_of("", ["v"])
    assert is_well(well) and not is_well(None)
    changes = [("r_hat", 1.02), ("r_hat", None), ("mean_error", -0.11), ("ks", 0.11), ("ks", None)]
    for key, value in changes:
        assert not is_well(well | {key: {"value": value, "of": "v"}})


def run_names(folder, monkeypatch, names, interrupt_at=None):
    """Which problems are run when these are asked for."""
    ran = []

    def run_problem(problem, *_):
        if problem.name == interrupt_at:
            raise KeyboardInterrupt
        ran.append(problem.name)
        return outcome(problem.name)

    monkeypatch.setattr(posterior_bench, "run_problem", run_problem)
    monkeypatch.setattr(posterior_bench, "log_joint", lambda model, args: -1.0)
    results = posterior_bench.begun(posterior_bench.QUICK, 0, folder)
    posterior_bench.run_all(results, names, posterior_bench.QUICK, 0, folder)
    return ran


def test_a_run_goes_on_with_the_models_that_are_missing(tmp_path, monkeypatch, capsys):
    names = ["funnel10", "banana", "mixture25"]
    assert run_names(tmp_path, monkeypatch, ["banana"]) == ["banana"]
    assert run_names(tmp_path, monkeypatch, names, "mixture25") == ["funnel10"]
    assert "Interrupted" in capsys.readouterr().err
    assert run_names(tmp_path, monkeypatch, names) == ["mixture25"]
    results = json.loads((tmp_path / "posterior.json").read_text())
    assert list(results["problems"]) == names
    text = report(results)
    assert all(PROBLEMS[name]().title in text for name in names)
    longer = PROBLEMS["banana"]()
    longer = longer._replace(effort=longer.effort._replace(steps=7))
    monkeypatch.setitem(PROBLEMS, "banana", lambda: longer)
    assert run_names(tmp_path, monkeypatch, names) == ["banana"]


def test_a_model_that_is_not_known_is_refused_in_one_line(capsys):
    with pytest.raises(SystemExit) as exit:
        posterior.main(["--model", "funnel"])
    assert exit.value.code == 2
    last_line = capsys.readouterr().err.splitlines()[-1]
    assert "invalid choice: 'funnel'" in last_line and "eight_schools" in last_line


def test_a_quick_run_writes_report_and_pictures(tmp_path):
    arguments = ["--model", "banana", "--quick", "--out", str(tmp_path)]
    assert posterior.main(arguments) == 0
    (told,) = json.loads((tmp_path / "posterior.json").read_text())["problems"].values()
    assert "refused" not in told, told.get("refused")
    assert list(told["samplers"]) == ["raw", "resampled", "metropolis", "nuts", "exact"]
    assert told["samplers"]["exact"]["ks"]["value"] < 2.2 / 2_000**0.5
    assert 0.0 < told["acceptance"] <= 1.0
    assert told["training"]["steps"] == posterior_bench.QUICK.steps
    for kind in ("marginals", "pairs", "ranks"):
        assert (tmp_path / f"{kind}_banana.png").stat().st_size > 0
    assert "A quick run" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.html").exists()


FILE = readme.ROOT / "benchmarks" / "results" / "posterior" / "posterior.json"


def test_the_report_is_that_of_its_results():
    assert (FILE.parent / "report.md").read_text() == report(json.loads(FILE.read_text()))
