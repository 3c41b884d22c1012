import numpy as np
import pytest

from benchmarks.common.results import InputError
from benchmarks.posteriordb.database import Database, by_stan_names
from tests.benchmarks.posteriordb.checkout import KIDS, kid_draws, write_posterior

NAME = "kidiq-kidscore_momhs"


def test_data_and_reference_draws_are_those_of_the_files(tmp_path):
    draws = kid_draws()
    write_posterior(tmp_path, NAME, KIDS, draws)
    database = Database(tmp_path)
    assert database.has(NAME) and not database.has("arK-arK")
    assert database.data(NAME) == KIDS
    reference = database.reference(NAME)
    assert list(reference) == list(draws)
    for name, values in draws.items():
        np.testing.assert_array_equal(reference[name], values)


def test_a_posterior_without_reference_draws_is_not_there(tmp_path):
    write_posterior(tmp_path, NAME, KIDS, kid_draws())
    next(tmp_path.glob("**/draws/draws/*.zip")).unlink()
    assert not Database(tmp_path).has(NAME)


def test_a_folder_without_posteriors_is_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match=r"^Expected the root .*; got .* Clone .*\.$"):
        Database(tmp_path)


def test_indices_of_stan_begin_at_one():
    draws = {"theta": np.arange(12.0).reshape(1, 2, 3, 2), "mu": np.array([[5.0, 6.0]])}
    found = by_stan_names(draws, ["theta[3,1]", "mu"])
    np.testing.assert_array_equal(found["theta[3,1]"], [[4.0, 10.0]])
    np.testing.assert_array_equal(found["mu"], [[5.0, 6.0]])


def test_a_parameter_without_a_site_is_refused():
    with pytest.raises(ValueError, match="Expected sites mu; got the parameter 'tau'"):
        by_stan_names({"mu": np.zeros((1, 2))}, ["tau"])
