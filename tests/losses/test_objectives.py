"""The guide objectives as functions of a sample."""

import numpy as np

import jax.numpy as jnp

from numpyro_sumo import IWHVI
from numpyro_sumo.losses.objectives import OBJECTIVES, SampleViews


def test_forward_kl_is_minus_the_reverse_models_log_density_of_the_generating_draws():
    log_reverse = jnp.array([-0.5, -3.0, 0.25])
    views = SampleViews({}, jnp.zeros(3, int), {}, log_reverse)
    value = OBJECTIVES["forward_kl"].value(IWHVI(4), views, lambda number: None)
    np.testing.assert_array_equal(value, -log_reverse)
