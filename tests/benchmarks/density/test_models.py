import numpy as np
import pytest

from jax import random

from benchmarks.density.models import PLANES, checked, digits, plane


def test_splits_are_disjoint_and_complete():
    data = digits().data
    assert [len(part) for part in data] == [1_257, 180, 360]
    assert len(np.unique(np.concatenate(data), axis=0)) == 1_797
    for name in PLANES:
        data = plane(name).data
        assert [len(part) for part in data] == [2_000, 500, 1_000]
        np.testing.assert_allclose(np.concatenate(data).std(axis=0), 1.0, rtol=1e-5)


def test_each_key_binarises_digits_differently():
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
def test_invalid_points_are_refused_in_one_line(points, message):
    with pytest.raises(ValueError) as error:
        checked(points, 2)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("grey", [16.0, -0.1])
def test_grey_levels_outside_zero_and_one_are_refused(grey):
    with pytest.raises(ValueError, match=r"grey levels in \[0, 1\]; got .* Divide"):
        digits().observations(random.key(0), np.full((2, 64), grey))
