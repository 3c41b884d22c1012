"""The scalar parameters of a model, in constrained and unconstrained space."""

import numpy as np
import pytest

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from numpyro_sumo.programs.model_params import ModelParams
from numpyro_sumo.programs.programs import Programs

VALUES = {
    "alpha": np.array([[1.0, 2.0], [3.0, 4.0]]),
    "net": {"bias": jnp.array(0.5), "weights": [jnp.array([1.0, 2.0])]},
    "rate": 0.25,
    "share": jnp.array([0.2, 0.3, 0.5]),
    "sigma": 2.0,
}


def model():
    numpyro.param("sigma", 1.0, constraint=constraints.positive)
    numpyro.param("alpha", jnp.zeros((2, 2)), constraint=constraints.real_matrix)
    numpyro.param("net", VALUES["net"])
    numpyro.param("rate", 0.5, constraint=constraints.unit_interval)
    numpyro.param("share", jnp.ones(3) / 3.0, constraint=constraints.simplex)
    numpyro.sample("z", dist.Normal())


def guide():
    loc = numpyro.param("loc", 0.0)
    numpyro.sample("z", dist.Normal(loc, 1.0))


PARAMS = ModelParams.of(Programs(model, guide, {**VALUES, "loc": 0.3}))


def test_every_scalar_of_the_model_has_a_name_and_none_of_the_guide():
    assert PARAMS.names == (
        *("alpha[0,0]", "alpha[0,1]", "alpha[1,0]", "alpha[1,1]"),
        *("net['bias']", "net['weights'][0][0]", "net['weights'][0][1]"),
        *("rate", "share[0]", "share[1]", "share[2]", "sigma"),
    )
    assert PARAMS.free_names == (
        *PARAMS.names[:7],
        *("unconstrained(rate)", "unconstrained(share)[0]", "unconstrained(share)[1]"),
        "log(sigma)",
    )


def test_vectors_are_in_the_order_of_the_names():
    expected = [1.0, 2.0, 3.0, 4.0, 0.5, 1.0, 2.0, 0.25, 0.2, 0.3, 0.5, 2.0]
    np.testing.assert_allclose(PARAMS.vector(PARAMS.unconstrained), expected, rtol=1e-6)
    assert PARAMS.unconstrained.shape == (11,)
    assert PARAMS.unconstrained[-1] == pytest.approx(np.log(2.0))


def test_displacements_are_those_of_unconstrained_values():
    displaced = PARAMS.at(jnp.zeros(11).at[-1].set(jnp.log(3.0)).at[4].set(1.0))
    assert displaced["sigma"] == pytest.approx(6.0)
    assert displaced["net"]["bias"] == pytest.approx(1.5)
    np.testing.assert_allclose(displaced["share"], VALUES["share"], rtol=1e-6)


def test_only_scalars_with_a_constraint_of_their_own_have_one():
    groups = PARAMS.groups
    assert [shape for _, shape in groups] == [(2, 2), (), (2,), (), (3,), ()]
    assert [constraint for constraint, _ in groups] == [
        *(None, None, None),
        constraints.unit_interval,
        None,
        constraints.positive,
    ]


EDGES = {
    "zero": ({"sigma": 0.0}, "'sigma' is 0., at the edge of Positive"),
    "negative": ({"sigma": -1.0}, "'sigma' is -1., at the edge of Positive"),
    "one": ({"rate": 1.0}, "'rate' is 1., at the edge of UnitInterval"),
    "corner": ({"share": jnp.array([0.0, 0.5, 0.5])}, r"'share' is \[0. *0.5 0.5\], at the edge"),
}


@pytest.mark.parametrize(["changes", "line"], EDGES.values(), ids=EDGES)
def test_values_at_the_edge_of_their_support_are_refused(changes, line):
    with pytest.raises(ValueError, match=line) as error:
        ModelParams.of(Programs(model, guide, {**VALUES, "loc": 0.3, **changes}))
    assert "\n" not in str(error.value)
