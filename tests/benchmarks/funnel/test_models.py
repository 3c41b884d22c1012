from benchmarks.funnel.models import ARMS


def test_the_arms_make_the_same_expected_number_of_draws():
    draws = {name: arm.marginal.mean_draws for name, arm in ARMS.items()}
    few = draws.pop("iwelbo_few")
    assert few < 16
    assert all(abs(count - 16) < 0.05 for count in draws.values())
