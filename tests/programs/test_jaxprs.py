"""Parts of jaxprs: the equations that outputs need, their values, and what they depend on."""

import numpy as np
import pytest

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro_sumo.programs.jaxprs import evaluate_equations, needed_equations, sources_of


def traced(function, *args):
    """The jaxpr of a function, its outputs in order, and the values of its inputs."""
    closed = jax.make_jaxpr(function)(*args)
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars, closed.consts)) | dict(zip(jaxpr.invars, args))
    return jaxpr, jaxpr.outvars, values


def names_of(equations):
    return [equation.primitive.name for equation in equations]


def evaluate(jaxpr, values, outputs):
    equations = needed_equations(jaxpr, outputs, values.keys())
    return evaluate_equations(jaxpr, equations, values, outputs)


def chain(x, y):
    first = jnp.sin(x)
    second = jnp.cos(first * y)
    return first, second, jnp.exp(y)


def test_needed_equations_are_those_that_outputs_are_computed_from_in_order():
    jaxpr, (first, second, third), _ = traced(chain, 0.3, 0.7)
    assert names_of(needed_equations(jaxpr, [first])) == ["sin"]
    assert names_of(needed_equations(jaxpr, [second])) == ["sin", "mul", "cos"]
    assert names_of(needed_equations(jaxpr, [third, first])) == ["sin", "exp"]
    assert needed_equations(jaxpr, []) == []


def test_what_known_variables_are_computed_from_is_not_needed():
    jaxpr, (first, second, _), _ = traced(chain, 0.3, 0.7)
    assert names_of(needed_equations(jaxpr, [second], [first])) == ["mul", "cos"]
    assert needed_equations(jaxpr, [second], [second]) == []


def test_equations_with_side_effects_are_needed_in_any_case():
    def function(x):
        jax.debug.callback(lambda x: None, x)
        return jnp.sin(x), jnp.cos(x)

    jaxpr, (sine, _), _ = traced(function, 0.3)
    assert names_of(needed_equations(jaxpr, [sine])) == ["debug_callback", "sin"]
    assert names_of(needed_equations(jaxpr, [])) == ["debug_callback"]


def test_outputs_may_be_literals_and_inputs():
    jaxpr, outputs, values = traced(lambda x: (2.0, x), 0.3)
    assert needed_equations(jaxpr, outputs) == []
    assert evaluate(jaxpr, values, outputs) == [2.0, 0.3]


def test_outputs_have_the_values_of_the_function():
    def function(x, n):
        total = lax.fori_loop(0, 3, lambda i, y: y + jnp.sin(x) * i, x)
        return total, lax.cond(n > 1, jnp.cos, jnp.sin, x), x * np.arange(3.0), random.normal(key)

    key = random.key(4)
    args = jnp.array(0.7), jnp.array(2)
    found = evaluate(
        *(lambda jaxpr, outputs, values: (jaxpr, values, outputs))(*traced(function, *args))
    )
    for one, expected in zip(found, function(*args)):
        np.testing.assert_allclose(one, expected, rtol=1e-6)


def test_outputs_are_functions_of_known_variables_with_their_derivatives():
    jaxpr, (first, second, _), values = traced(chain, 0.3, 0.7)
    of_first = lambda known: evaluate(jaxpr, {**values, first: known}, [second])[0]
    assert float(of_first(2.0)) == pytest.approx(np.cos(2.0 * 0.7), rel=1e-6)
    assert float(jax.grad(of_first)(2.0)) == pytest.approx(-0.7 * np.sin(2.0 * 0.7), rel=1e-6)


def two_from_one_equation(x):
    """One equation defines both parts; the last output reads both."""
    part, other = lax.top_k(x, 1)
    return part, other, part * 10.0 + other


def test_a_known_variable_keeps_its_value_where_its_equation_also_defines_a_needed_one():
    jaxpr, (part, other, both), values = traced(two_from_one_equation, jnp.array([1.0, 5.0, 3.0]))
    known = {**values, part: jnp.array([7.0])}
    equations = needed_equations(jaxpr, [both, other], known.keys())
    assert "top_k" in names_of(equations)
    found = evaluate_equations(jaxpr, equations, known, [both, other, part])
    assert [float(each[0]) for each in found] == [71.0, 1.0, 7.0]
    slope = jax.grad(lambda part_: evaluate(jaxpr, {**values, part: part_}, [both])[0][0])
    assert float(slope(jnp.array([7.0]))[0]) == 10.0


def test_it_keeps_its_value_where_earlier_and_later_equations_surround_that_one():
    def function(x):
        before = jnp.sin(x)
        part, other = lax.top_k(before, 1)
        after = jnp.exp(part)
        return part, after + other + before[0]

    x = jnp.array([0.2, 0.9])
    jaxpr, (part, result), values = traced(function, x)
    (found,) = evaluate(jaxpr, {**values, part: jnp.array([2.0])}, [result])
    np.testing.assert_allclose(found, np.exp(2.0) + 1 + np.sin(0.2), rtol=1e-6)


def test_an_output_depends_on_the_sources_of_all_that_it_is_computed_from():
    def function(x, y, z):
        return jnp.sin(x), x + y, (x + y) * z, 3.0

    jaxpr, outputs, _ = traced(function, 0.1, 0.2, 0.3)
    sources = {variable: frozenset([name]) for variable, name in zip(jaxpr.invars, "xyz")}
    found = ["".join(sorted(each)) for each in sources_of(jaxpr, outputs, sources)]
    assert found == ["x", "xy", "xyz", ""]


def test_what_a_source_is_computed_from_does_not_count():
    jaxpr, (first, second, _), _ = traced(chain, 0.3, 0.7)
    x, y = jaxpr.invars
    sources = {x: frozenset("x"), y: frozenset("y"), first: frozenset(["first"])}
    assert sources_of(jaxpr, [second, first], sources) == [{"first", "y"}, {"first"}]


def test_a_source_stays_one_where_its_equation_also_defines_a_needed_variable():
    jaxpr, (part, other, both), _ = traced(two_from_one_equation, jnp.array([1.0, 5.0, 3.0]))
    sources = {jaxpr.invars[0]: frozenset("x"), part: frozenset(["part"])}
    assert sources_of(jaxpr, [part, other, both], sources) == [{"part"}, {"x"}, {"part", "x"}]


def test_dependence_passes_through_loops_and_calls():
    def function(x, y):
        looped = lax.fori_loop(0, 3, lambda i, total: total + jnp.sin(y), x)
        return jax.jit(lambda looped: looped * 2.0)(looped), x

    jaxpr, outputs, _ = traced(function, 0.1, 0.2)
    sources = {variable: frozenset([name]) for variable, name in zip(jaxpr.invars, "xy")}
    assert sources_of(jaxpr, outputs, sources) == [{"x", "y"}, {"x"}]
