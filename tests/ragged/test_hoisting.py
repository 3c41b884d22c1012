"""Hoisting: what does not depend on the draw is evaluated once, and dead equations are dropped."""

from functools import partial

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.ragged.hoisting import hoist

DRAW = {"key": random.key(0), "proposal": jnp.array([0.3, 0.4])}
DATUM = jnp.array(2, jnp.int32)
SCALE = jnp.array([1.5, -0.5])


def function(scale, datum, draw):
    """Reads constants, the datum and the draw, alone and together."""
    of_constants = jnp.tanh(scale)
    of_datum = jnp.cos(of_constants * datum)
    of_draw = jnp.sin(random.normal(draw["key"], (2,)) + draw["proposal"])
    return {
        "all": of_datum * of_draw + of_constants,
        "datum": of_datum,
        "constants": of_constants,
        "literal": 2.0,
        "draw": draw["proposal"],
    }


def names_of(function, *arguments):
    """Names of the primitives that a function of arrays evaluates."""
    return [equation.primitive.name for equation in jax.make_jaxpr(function)(*arguments).eqns]


@pytest.mark.parametrize("shapes_only", [False, True], ids=["arrays", "shapes"])
def test_the_stages_together_give_the_value_of_the_function(shapes_only):
    datum, draw = DATUM, DRAW
    if shapes_only:
        datum, draw = jax.eval_shape(lambda: (DATUM, DRAW))
    hoisted = hoist(partial(function, SCALE), datum, draw)
    got = hoisted.of_draw(DRAW, hoisted.constants, hoisted.of_datum(DATUM))
    expected = function(SCALE, DATUM, DRAW)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, expected)


def test_each_operation_is_evaluated_in_the_first_stage_that_can():
    constants = jax.make_jaxpr(lambda scale: hoist(partial(function, scale), DATUM, DRAW).constants)
    hoisted = hoist(partial(function, SCALE), DATUM, DRAW)
    of_datum = hoisted.of_datum(DATUM)
    names = {
        "constants": [equation.primitive.name for equation in constants(SCALE).eqns],
        "datum": names_of(hoisted.of_datum, DATUM),
        "draw": names_of(hoisted.of_draw, DRAW, hoisted.constants, of_datum),
    }
    for operation, stage in {"tanh": "constants", "cos": "datum", "sin": "draw"}.items():
        assert {name: found.count(operation) for name, found in names.items()} == {
            name: int(name == stage) for name in names
        }


def test_only_what_the_draws_read_is_handed_to_them():
    hoisted = hoist(lambda datum, draw: draw * jnp.cos(SCALE * datum), DATUM, jnp.array(1.0))
    assert hoisted.constants == []
    np.testing.assert_allclose(hoisted.of_datum(DATUM), [jnp.cos(SCALE * 2)], rtol=1e-6)


def test_values_that_depend_on_neither_datum_nor_draw_are_known():
    values = hoist(partial(function, SCALE), DATUM, DRAW).values
    np.testing.assert_allclose(values["constants"], jnp.tanh(SCALE), rtol=1e-6)
    unknown = {name: values[name] for name in ("all", "datum", "draw")}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in unknown.values())
    assert jax.tree.map(lambda leaf: leaf.shape, unknown) == {n: (2,) for n in unknown}


def test_operations_whose_results_are_not_read_are_dropped():
    def wasteful(datum, draw):
        jnp.exp(SCALE), jnp.exp(SCALE * datum), jnp.exp(SCALE * draw)
        return jnp.sin(draw) + jnp.cos(1.0 * datum)

    hoisted = hoist(wasteful, DATUM, jnp.array(0.3))
    of_datum = hoisted.of_datum(DATUM)
    assert hoisted.constants == []
    assert "exp" not in names_of(hoisted.of_datum, DATUM)
    assert "exp" not in names_of(hoisted.of_draw, jnp.array(0.3), [], of_datum)


def test_side_effects_happen_with_each_draw_though_no_result_depends_on_them():
    seen = []

    def noisy(datum, draw):
        jax.debug.callback(lambda i: seen.append(int(i)), datum)
        return 2.0 * draw

    hoisted = hoist(noisy, DATUM, jnp.array(0.3))
    of_datum = hoisted.of_datum(DATUM)
    jax.effects_barrier()
    assert seen == []
    for draw in (0.1, 0.2):
        hoisted.of_draw(jnp.array(draw), hoisted.constants, of_datum)
    jax.effects_barrier()
    assert seen == [2, 2]


def test_a_function_is_traced_once():
    traces = []

    def traced(datum, draw):
        traces.append(datum)
        return draw * datum

    hoisted = hoist(traced, DATUM, jnp.array(0.3))
    for _ in range(2):
        hoisted.of_draw(jnp.array(0.3), hoisted.constants, hoisted.of_datum(DATUM))
    assert len(traces) == 1


def test_derivatives_in_what_is_closed_over_go_through_all_stages():
    def staged(scale):
        hoisted = hoist(partial(function, scale), DATUM, DRAW)
        return hoisted.of_draw(DRAW, hoisted.constants, hoisted.of_datum(DATUM))["all"]

    got, expected = (
        jax.jacobian(each)(SCALE) for each in (staged, lambda s: function(s, DATUM, DRAW)["all"])
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_the_last_stage_closes_over_nothing_that_is_traced():
    """A rule for derivatives could not otherwise call it outside the trace that it comes from."""
    stages = []

    @jax.jit
    def make(scale):
        hoisted = hoist(partial(function, scale), DATUM, DRAW)
        stages.append(hoisted.of_draw)
        return hoisted.constants, hoisted.of_datum(DATUM)

    constants, of_datum = make(SCALE)
    got = stages[0](DRAW, constants, of_datum)
    expected = function(SCALE, DATUM, DRAW)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), got, expected)
