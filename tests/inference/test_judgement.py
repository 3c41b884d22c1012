"""Convergence, agreement of chains, and the verdict."""

from types import SimpleNamespace

import numpy as np
import pytest

from numpyro_sumo import FitOptions
from numpyro_sumo.guides.placement import Mode, Placement
from numpyro_sumo.guides.whitening import Whitening
from numpyro_sumo.inference.convergence import Summary, disagreements, summarise_chains
from numpyro_sumo.inference.correcting import BOTH
from numpyro_sumo.inference.judgement import judge_posterior
from numpyro_sumo.inference.posterior_draws import Diagnostics


def summary(mean=0.0, sd=1.0, r_hat=1.0, ess=1_000.0, diverging=0.0):
    of_two = lambda value: np.full(2, value)
    error = sd / np.sqrt(ess)
    return Summary(
        ["x", "y"],
        np.array([0.0, mean]),
        of_two(error),
        np.array([1.0, sd]),
        of_two(error),
        of_two(r_hat),
        of_two(ess),
        diverging,
    )


def normal(loc, scale=1.0):
    return Whitening(np.array(loc), np.eye(len(loc)) * scale)


MODE = Mode(normal([0.0, 0.0]), -0.1, 0.0, 8, True)


def posterior(
    *,
    of_chains=None,
    nuts=None,
    spread=1.0,
    acceptance=0.9,
    invalid=0,
    kernel="proposals of the guide",
    modes=(MODE,),
    interrupted=(),
    verdict="good",
    log_evidence_se=0.01,
    pareto_k=0.2,
):
    """What the verdict looks at: draws from a standard Normal in the plane."""
    draws = np.random.default_rng(0).normal(size=(2_000, 2))
    of_chains = summary() if of_chains is None else of_chains
    return SimpleNamespace(
        options=FitOptions(),
        diagnostics=Diagnostics(
            kernel, acceptance, of_chains, nuts, spread, 100, 0, invalid, {}, interrupted
        ),
        certificate=SimpleNamespace(
            verdict=verdict, log_evidence_se=log_evidence_se, pareto_k=pareto_k
        ),
        placement=Placement(MODE.normal, -0.1, 0.0, tuple(modes)),
        log_evidence=0.0,
        unconstrained=lambda most: draws,
    )


def problems(**changes):
    return judge_posterior(posterior(**changes)).problems


def test_good_draws_have_no_problems():
    verdict = judge_posterior(posterior(nuts=summary()))
    assert verdict.problems == ()
    assert verdict.text.splitlines()[0] == "good"
    assert "NUTS by itself was fine here" in verdict.text
    assert "The guide's own draws may be used" in verdict.text


@pytest.mark.parametrize(
    "of_chains, message",
    [
        (summary(r_hat=1.02), "R-hat of x is 1.020, above 1.01"),
        (summary(r_hat=np.nan), "R-hat of x is inf"),
        (summary(ess=300.0), "x has 300 effective draws, fewer than 400"),
    ],
)
def test_chains_that_have_not_converged_are_named(of_chains, message):
    (found,) = problems(of_chains=of_chains)
    assert message in found
    verdict = judge_posterior(posterior(of_chains=of_chains))
    assert verdict.text.startswith("bad:\n- ")


def test_divergences_of_nuts_are_named_where_no_guide_proposes():
    of_chains = summary(diverging=0.02)
    (found,) = problems(of_chains=of_chains, kernel="NUTS")
    assert found.startswith("2.0% of the draws followed a divergence")
    assert problems(of_chains=of_chains, kernel=BOTH) == ()
    assert len(problems(of_chains=of_chains, kernel=BOTH, acceptance=0.05)) == 1


def test_chains_of_nuts_that_stay_apart_are_named_beside_those_of_the_guide():
    """One may be in a mode that the guide does not have."""
    nuts = summary(r_hat=1.5)
    (found,) = problems(nuts=nuts)
    assert "have not come together (R-hat of x 1.50)" in found
    assert problems(nuts=nuts, kernel=BOTH) == ()


def test_chains_that_wander_hint_at_an_improper_posterior():
    found = problems(nuts=summary(r_hat=1.5), spread=1e4, kernel=BOTH)
    assert "wander over 1e+04 times the width" in found[0] and "improper" in found[0]
    assert problems(nuts=summary(r_hat=1.0), spread=1e4) == ()
    assert problems(nuts=summary(r_hat=1.5), spread=3.0, kernel=BOTH) == ()


def test_a_mode_without_draws_is_named():
    """Its log-evidence is log(1/4) below that of all: a fifth of the mass or so."""
    lost = Mode(normal([20.0, 0.0]), np.log(0.25), np.log(0.25), 2, True)
    (found,) = problems(modes=[MODE, lost])
    assert "Mode 2 of the placement" in found and "0.0% of the draws" in found


def test_modes_without_mass_or_that_overlap_are_no_problem():
    small = Mode(normal([20.0, 0.0]), -6.0, -6.0, 2, True)
    near = Mode(normal([1.5, 0.0]), -0.2, -0.1, 2, True)
    poorly_described = Mode(normal([20.0, 0.0], 0.01), -30.0, -0.5, 2, True)
    assert problems(modes=[MODE, small, near, poorly_described]) == ()


def test_chains_that_contradict_each_other_are_named():
    (found,) = problems(nuts=summary(mean=1.0))
    assert "another mean or sd of y" in found


@pytest.mark.parametrize(
    "nuts, kernel",
    [
        (summary(mean=1.0, r_hat=1.05), "proposals of the guide"),
        (summary(mean=1.0), "NUTS"),
        (summary(mean=0.05), "proposals of the guide"),
        (summary(mean=0.3, ess=120.0), "proposals of the guide"),
    ],
)
def test_chains_that_have_not_converged_or_agree_contradict_nothing(nuts, kernel):
    assert problems(nuts=nuts, kernel=kernel) == ()


def test_proposals_with_heavy_weights_are_not_enough():
    (found,) = problems(pareto_k=0.8)
    assert found.startswith("k-hat of the guide's weights is 0.80, above 0.7")
    assert problems(pareto_k=0.8, kernel="NUTS") == ()


def test_an_interruption_is_named():
    (found,) = problems(interrupted=("training",))
    assert found.startswith("Interrupted during training.")


def test_remarks_do_not_make_it_bad():
    verdict = judge_posterior(
        posterior(verdict="do not trust it", log_evidence_se=np.inf, pareto_k=0.9, kernel=BOTH)
    )
    assert verdict.problems == ()
    assert "The guide's own draws: do not trust it." in verdict.text
    assert "Log-evidence is not known: the weights have k-hat 0.90." in verdict.text


def test_summaries_are_compared_by_name():
    other = summary(mean=1.0)
    reordered = Summary(["y", "x"], *(values[::-1] for values in other[1:-1]), 0.0)
    assert disagreements(other, reordered) == []
    assert disagreements(summary(), reordered) == ["y"]


def test_sds_are_compared_as_well_as_means():
    assert disagreements(summary(), summary(sd=1.5)) == ["y"]
    assert disagreements(summary(), summary(sd=1.05)) == []


def test_draws_that_cannot_be_weighed_and_a_single_start_are_remarked():
    verdict = judge_posterior(posterior(invalid=3, modes=[MODE._replace(num_starts=1)]))
    assert verdict.problems == ()
    assert "3 of 10,000 draws of the guide have a log-density that is NaN" in verdict.text
    assert "There was one start only" in verdict.text


def test_entries_that_the_support_fixes_do_not_count():
    """The first entry is constant, as in a correlation matrix; a chain that stands still is not."""
    draws = np.random.default_rng(0).normal(size=(4, 500, 2))
    draws[..., 0] = 1.0
    assert summarise_chains({"x": draws}).names == ["x[1]"]
    draws[..., 1] = np.arange(4)[:, None]
    stuck = summarise_chains({"x": draws})
    assert stuck.names == ["x[1]"] and not stuck.is_fine(1.01, 100.0)


def test_figures_are_those_of_arviz():
    rng = np.random.default_rng(0)
    draws = {"x": rng.normal(size=(4, 500)), "y": rng.normal(size=(4, 500, 2))}
    draws["y"][0] += 3.0
    found = summarise_chains(draws, np.arange(2_000).reshape(4, 500) < 20)
    assert found.names == ["x", "y[0]", "y[1]"]
    assert found.r_hat[0] < 1.01 < 1.2 < found.r_hat[1:].min()
    assert found.ess[0] > 1_000.0 > found.ess[1]
    assert found.diverging == pytest.approx(0.01)
    np.testing.assert_allclose(found.mean[0], draws["x"].mean())
    assert found.worst[0] in ("y[0]", "y[1]")
