"""Options outside their range are refused when the loss is made, in one line."""

import numpy as np
import pytest

from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail

LOSSES = {
    "iwelbo": IWELBO,
    "sumo": SUMO,
    "iwhvi": IWHVI,
    "multilevel": MultilevelSUMO,
    "reverse_kl": lambda num_particles: ReverseKL(num_particles=num_particles),
}
BAD_COUNTS = {"zero": 0, "negative": -1, "fraction": 2.5, "bool": True, "text": "8", "none": None}


def assert_refused(message, make):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert str(error.value).startswith("Expected ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("count", BAD_COUNTS.values(), ids=BAD_COUNTS.keys())
def test_number_of_particles_is_a_positive_integer(loss, count):
    message = f"num_particles to be an integer >= 1; got {count!r}. Pass"
    assert_refused(message, lambda: loss(count))


@pytest.mark.parametrize("loss", [IWELBO, SUMO, IWHVI, MultilevelSUMO])
@pytest.mark.parametrize("chunk_size", [0, -4, 1.5, True])
def test_chunk_size_is_a_positive_integer(loss, chunk_size):
    message = f"chunk_size to be an integer >= 1; got {chunk_size!r}. Pass"
    assert_refused(message, lambda: loss(4, chunk_size=chunk_size))


UNKNOWN_OPTIONS = {
    "iwelbo_objective": (
        lambda: IWELBO(guide_objective="variance"),
        r"guide_objective to be one of \('iwelbo', 'forward_kl'\); got 'variance'",
    ),
    "sumo_objective": (
        lambda: SUMO(guide_objective="elbo"),
        r"guide_objective to be one of \('iwelbo', 'variance', 'forward_kl'\); got 'elbo'",
    ),
    "one_particle_from_above": (
        lambda: MultilevelSUMO(1, from_above=True),
        "num_particles >= 2, for the generating draw is one of them; got 1. Pass",
    ),
    "endless_cost": (
        lambda: MultilevelSUMO(stopping_time=GeometricTail(0.5)),
        r"finite mean number of draws, .* GeometricTail\(success_probability=0.5, .* Pass",
    ),
    "tail_that_is_not_geometric": (
        lambda: MultilevelSUMO(stopping_time=ReciprocalTail()),
        r"finite mean number of draws, .* ReciprocalTail\(knee=80, decay=0.9\) does not. Pass",
    ),
    "gradient": (
        lambda: ReverseKL(gradient="dreg"),
        r"gradient to be one of \('path', 'standard'\); got 'dreg'",
    ),
    "rotations": (lambda: SUMO(rotations=0), "rotations to be an integer >= 1; got 0. Pass"),
    "stopping_time_class": (
        lambda: SUMO(stopping_time=ReciprocalTail),
        "stopping_time to be a StoppingTime; got <class .*>. Pass ReciprocalTail()",
    ),
    "stopping_time_number": (
        lambda: SUMO(stopping_time=5),
        "stopping_time to be a StoppingTime; got 5. Pass ReciprocalTail()",
    ),
    "marginal": (
        lambda: ReverseKL(marginal="sumo"),
        "marginal to be one of the importance-weighted losses; got 'sumo'. Pass IWHVI",
    ),
    "path_gradient_without_fresh_draws": (
        lambda: ReverseKL(marginal=IWHVI(1)),
        r"at least 2 particles .* got IWHVI\(num_particles=1.*\). Raise num_particles",
    ),
}


@pytest.mark.parametrize("make, message", UNKNOWN_OPTIONS.values(), ids=UNKNOWN_OPTIONS.keys())
def test_unknown_option_is_refused_with_those_that_are_known(make, message):
    assert_refused(message, make)


@pytest.mark.parametrize("tail", [GeometricTail(0.4, max_level=3), ReciprocalTail(4, decay=0.0)])
def test_tails_that_are_cut_short_have_a_finite_cost(tail):
    assert MultilevelSUMO(2, stopping_time=tail).mean_draws < 32


def test_integers_of_numpy_are_integers():
    assert IWELBO(np.int64(3), chunk_size=np.int32(2)).num_particles == 3


@pytest.mark.parametrize("loss", [IWELBO, SUMO, IWHVI, MultilevelSUMO])
def test_options_but_the_number_of_particles_are_keyword_only(loss):
    for make in (lambda: loss(8, None), lambda: loss(8, ReciprocalTail())):
        with pytest.raises(TypeError, match="positional argument"):
            make()


def test_the_marginal_of_reverse_kl_is_its_one_positional_argument():
    assert ReverseKL(IWHVI(4)).marginal.num_particles == 4
    with pytest.raises(TypeError, match="positional argument"):
        ReverseKL(IWHVI(4), 64)


#: Options that a loss does not have, though others of its kind do.
NO_OPTIONS = {
    "objective_of_an_upper_bound": (IWHVI, "guide_objective", "forward_kl"),
    "gradient_of_an_upper_bound": (IWHVI, "gradient", "dreg"),
    "data_of_an_upper_bound": (IWHVI, "data_axes", 0),
    "rotations_of_levels": (MultilevelSUMO, "rotations", 2),
    "truncation": (MultilevelSUMO, "truncation", "single"),
    "stopping_time_of_a_bound": (IWELBO, "stopping_time", ReciprocalTail()),
    "shared_stopping_times_of_a_bound": (IWELBO, "share_stopping_times", True),
    "generating_draw_in_a_lower_bound": (IWELBO, "from_above", True),
}


@pytest.mark.parametrize("loss, name, value", NO_OPTIONS.values(), ids=NO_OPTIONS.keys())
def test_options_that_have_no_meaning_for_a_loss_are_none_of_its_own(loss, name, value):
    with pytest.raises(TypeError, match=f"unexpected keyword argument '{name}'"):
        loss(4, **{name: value})


def test_mean_number_of_draws_counts_the_tail():
    assert IWELBO(4).mean_draws == 4
    assert SUMO(4).mean_draws == pytest.approx(4 + ReciprocalTail().mean)
    short = GeometricTail(0.6, max_level=2)  # two blocks with probability 0.6, else four
    assert MultilevelSUMO(3, stopping_time=short).mean_draws == pytest.approx(8.4)
    from_above = MultilevelSUMO(4, stopping_time=short, from_above=True)
    assert from_above.mean_draws == pytest.approx(9.4)
