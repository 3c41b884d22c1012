from benchmarks.funnel.models import PROBABILITIES
from benchmarks.funnel.report import report, short_table


def sampler(**changes):
    line = {"mean": 0.0, "sd": 1.0, "mcse_mean": 0.01, "mcse_sd": 0.01}
    line |= {"ess_bulk": 100.0, "ess_tail": 90.0, "r_hat": 1.0}
    quantiles = {str(p): float(p) for p in PROBABILITIES}
    return {
        "title": "a sampler",
        "draws": 8,
        "summary": {"v": line, "x": line},
        "quantiles": {"v": quantiles, "x": quantiles},
        "ks": {"v": 0.0123, "x·exp(−v)": 0.0456},
        **changes,
    }


def learned(**changes):
    return (
        sampler(
            kl={"lower": 0.001, "lower_se": 0.0001, "upper": 0.002, "upper_se": 0.0003},
            loss="ReverseKL()",
            mean_draws=16.0,
            steps=10,
            interrupted=False,
            seconds_to_train=3.0,
            seconds_to_compile=1.0,
            steps_per_second=3.3,
            seconds_per_10000_draws=0.01,
            curve={
                "objective_steps": [5, 10],
                "objective": [1.0, 0.5],
                "objective_se": [0.1, 0.05],
            },
        )
        | changes
    )


def results(**samplers):
    return {"seed": 0, "steps": 10, "draws_per_step": 64, "scale_of_v": 1.35, "seconds": 12.0} | {
        "samplers": samplers
    }


def test_a_report_shows_every_figure_it_was_given():
    text = report(results(sumo=learned(), nuts_centred=sampler(divergences=395)))
    assert "0.0010 … 0.0020 ± 0.0003" in text
    assert "0.0123" in text and "0.0456" in text and "395" in text
    assert "contours_sumo.png" in text and "contours_nuts_centred.png" not in text
    assert "Interrupted" not in text


def test_a_report_says_which_arm_was_interrupted():
    text = report(results(sumo=learned(interrupted=True, title="SUMO")))
    assert "Interrupted while training: SUMO." in text


def test_figures_that_are_not_finite_are_words_in_the_report():
    broken = learned(kl={"lower": float("nan"), "upper": float("nan"), "upper_se": float("nan")})
    assert "**diverged**" in report(results(sumo=broken))


def test_the_short_table_has_four_columns():
    table = short_table(results(sumo=learned(), nuts_centred=sampler(title="NUTS")))
    header, _, of_sumo, of_nuts = table.splitlines()
    assert header.count("|") == 5 and "(exact −3.14)" in header
    assert of_sumo == "| a sampler | 0.0010 … 0.0020 ± 0.0003 | 0.01 | 3 |"
    assert of_nuts == "| NUTS | – | 0.01 | – |"
