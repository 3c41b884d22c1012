"""Statistical comparisons: tolerances are multiples of estimated standard errors."""

import numpy as np

#: Two-sided probability of exceeding it 6e-5, small beside the number of comparisons in the suite.
Z = 4.0


def mean_and_se(samples):
    """Mean and standard error over the leading axis."""
    samples = np.asarray(samples, np.float64)
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / len(samples) ** 0.5


def assert_mean(samples, expected):
    """The mean of independent samples is as expected."""
    mean, se = mean_and_se(samples)
    z_scores = np.abs(mean - np.asarray(expected, np.float64)) / se
    assert np.all(z_scores < Z), f"mean {mean}, expected {expected}, z {z_scores}"


def assert_same_mean(left, right):
    """Two independent sets of independent samples have the same mean."""
    left_mean, left_se = mean_and_se(left)
    right_mean, right_se = mean_and_se(right)
    z_scores = np.abs(left_mean - right_mean) / np.hypot(left_se, right_se)
    assert np.all(z_scores < Z), f"means {left_mean} and {right_mean}, z {z_scores}"


def assert_tree_mean(samples, expected, assert_leaf=assert_mean):
    """As ``assert_mean`` for every entry of a dict."""
    assert samples.keys() == expected.keys()
    for name in samples:
        assert_leaf(samples[name], expected[name])
