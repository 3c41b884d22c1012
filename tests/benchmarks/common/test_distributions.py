import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.common.distributions import Empirical, MixtureOfNormals


def test_mixtures_and_draws_agree_with_closed_forms():
    mixture = MixtureOfNormals([-2.0, 2.0], [0.5, 1.0], np.array([0.25, 0.75]))
    assert mixture.mean() == pytest.approx(1.0)
    assert mixture.std() ** 2 == pytest.approx(0.25 * 0.25 + 0.75 + 3.0)
    for p in (0.005, 0.3, 0.995):
        assert mixture.cdf(mixture.ppf(p)) == pytest.approx(p)
    draws = norm.ppf((np.arange(1_000) + 0.5) / 1_000)
    empirical = Empirical(draws)
    assert empirical.std() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(empirical.cdf(draws), norm.cdf(draws) + 0.0005, atol=1e-6)
