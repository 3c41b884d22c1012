import numpy as np

from benchmarks.posterior.pictures import rank_shares


def test_rank_shares_are_equal_if_chains_agree_and_unequal_if_not():
    draws = np.arange(400.0).reshape(100, 4).T
    np.testing.assert_allclose(rank_shares(draws), 1 / 20)
    apart = rank_shares(np.arange(400.0).reshape(4, 100))
    np.testing.assert_allclose(apart[0], np.repeat([0.2, 0.0], [5, 15]))
