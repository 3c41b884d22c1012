"""Where posteriors are found, and what a guide makes of it."""

import numpy as np
import pytest

from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, trace

from numpyro_sumo import AutoHierarchicalNormal, place
from numpyro_sumo.guides.placement import sds_apart
from numpyro_sumo.guides.whitening import Whitening

#: Weights 0.2 and 0.8 of two Normals that are 12 sds apart.
TWO = dist.MixtureSameFamily(
    dist.Categorical(jnp.array([0.2, 0.8])), dist.Normal(jnp.array([-1.2, 1.2]), 0.2)
)


def two_modes():
    numpyro.sample("x", TWO)
    numpyro.sample("y", dist.LogNormal(5.0, 0.1))


@pytest.fixture(scope="module")
def of_two():
    return place(random.key(0), two_modes)


def test_both_modes_are_found_with_their_mass(of_two):
    assert len(of_two.modes) == 2
    assert sum(mode.num_starts for mode in of_two.modes) in (8, 9)  # perhaps mean field as well
    found = sorted((float(m.normal.loc[0]), m.log_evidence) for m in of_two.modes)
    np.testing.assert_allclose([loc for loc, _ in found], [-1.2, 1.2], atol=1e-3)
    masses = np.exp([log_evidence for _, log_evidence in found])
    np.testing.assert_allclose(masses, [0.2, 0.8], rtol=0.02)


def test_the_mode_of_the_larger_mass_is_chosen(of_two):
    np.testing.assert_allclose(of_two.whitening.loc, [1.2, 5.0], atol=0.02)
    scales = jnp.sqrt(jnp.square(of_two.whitening.root).sum(axis=1))
    np.testing.assert_allclose(scales, [0.2, 0.1], rtol=0.05)
    assert of_two.elbo == pytest.approx(np.log(0.8), abs=0.01)


def test_the_table_has_a_line_for_each_mode(of_two):
    lines = str(of_two).splitlines()
    assert lines[0].startswith("Placement of 2 unconstrained coordinates")
    assert len(lines) == 2 + 2


def test_a_guide_starts_at_its_placement(of_two):
    guide = AutoHierarchicalNormal(two_modes, placement=of_two)
    sites = trace(seed(guide, 0)).get_trace()
    whitening = sites["auto_whitening"]["value"]
    for name in ("loc", "root"):
        np.testing.assert_array_equal(whitening[name], getattr(of_two.whitening, name))


def test_without_covariances_there_is_one_candidate():
    placement = place(random.key(0), two_modes, full_covariance=False)
    assert placement.whitening.root.shape == (2,)
    assert len(placement.modes) == 1


def test_distances_are_in_sds():
    normal = Whitening(np.array([1.0, 0.0]), np.array([[2.0, 0.0], [1.0, 1.0]]))
    points = np.array([[1.0, 0.0], [3.0, 1.0], [1.0, 3.0]])
    np.testing.assert_allclose(sds_apart(normal, points), [0.0, 1.0, 3.0])


def another():
    numpyro.sample("x", dist.Normal().expand([3]).to_event(1))


def nowhere_finite():
    x = numpyro.sample("x", dist.Normal())
    numpyro.factor("wrong", jnp.log(-jnp.square(x) - 1.0))


def without_latents():
    numpyro.sample("x", dist.Normal(), obs=1.0)


@pytest.mark.parametrize(
    "model, options, message",
    [
        (
            nowhere_finite,
            {},
            "finite in some neighbourhood; .* around all 9 starts",
        ),
        (without_latents, {}, "Expected a model with latent sites"),
        (two_modes, {"num_starts": 0}, "Expected num_starts"),
    ],
)
def test_bad_input_is_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        place(random.key(0), model, **options)


def test_a_guide_refuses_the_placement_of_another_model(of_two):
    guide = AutoHierarchicalNormal(another, placement=of_two)
    with pytest.raises(ValueError, match="Expected a placement of 3 .*; got one of 2"):
        seed(guide, 0)()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"placement": "newton"}, "Expected a placement; got 'newton'"),
        ({"full_covariance": True}, "Expected full_covariance or placement; got both"),
    ],
)
def test_a_guide_refuses_other_options(of_two, options, message):
    with pytest.raises(ValueError, match=message):
        AutoHierarchicalNormal(two_modes, **{"placement": of_two, **options})
