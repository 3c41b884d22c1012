"""Weights of each datum, for tests."""

from jax import random

from numpyro_sumo.programs.elements import Elements
from numpyro_sumo.programs.per_datum import PerDatumWeights


def weights_of_programs(programs, *, num_estimates=1, is_linear=False, **options):
    whole = Elements(programs, random.key(0), num_estimates, is_linear=is_linear)
    return PerDatumWeights(whole, **options)
