"""Split f(datum, draw) into parts that depend on constants, the datum or the draw."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from numpyro_sumo.programs.jaxprs import evaluate_equations, needed_equations


class Hoisted(NamedTuple):
    """A function of (datum, draw), and of what it closes over, in three stages.

    :param constants: values that the last stage needs and that depend on neither.
    :param of_datum: maps a datum to the values that the last stage needs and that depend on the
        datum, but on no draw.
    :param of_draw: maps (draw, ``constants``, values of the datum) to the result. It closes over
        nothing that is traced.
    :param values: a pytree like the result: the value of each leaf that depends on neither datum
        nor draw, and the shape and type of the others.
    """

    constants: list[jax.Array]
    of_datum: Callable[[jax.Array], list[jax.Array]]
    of_draw: Callable[[Any, list[jax.Array], list[jax.Array]], Any]
    values: Any


class _Stage(IntEnum):
    """Latest input that a variable depends on: nothing < constants < datum < draw."""

    NOTHING = 0
    CONSTANTS = 1
    DATUM = 2
    DRAW = 3


def hoist(function: Callable[[jax.Array, Any], Any], datum: jax.Array, draw: Any) -> Hoisted:
    """Traces a function once and splits it, so that each part is evaluated once.

    A guide's network then runs once for each datum, not once for each draw, and a subsample of the
    data is taken once. XLA does not move such computations out of loops.

    :param function: maps (datum, draw), an array and a pytree of arrays, to a pytree of arrays.
    :param datum: an example, as is ``draw``: arrays, or their shapes and types.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(datum, draw)
    jaxpr, structure = traced.jaxpr, jax.tree.structure(shape)
    datum_input, *draw_inputs = jaxpr.invars
    stages, equations = _stages(jaxpr)
    variables = [atom for atom in jaxpr.outvars if not isinstance(atom, Literal)]

    def inputs_of(target: _Stage, source: _Stage) -> list[Any]:
        """Variables of one stage that the equations of another read, or that are results."""
        read = [atom for equation in equations[target] for atom in equation.invars]
        read += variables if target == _Stage.DRAW else []
        return list(dict.fromkeys(v for v in read if _stage(stages, v) == source))

    for_data = inputs_of(_Stage.DATUM, _Stage.CONSTANTS)
    for_draws = inputs_of(_Stage.DRAW, _Stage.CONSTANTS)
    from_datum = inputs_of(_Stage.DRAW, _Stage.DATUM)
    known = [v for v in variables if _stage(stages, v) <= _Stage.CONSTANTS]
    of_data, constants, of_known = _grouped(
        evaluate_equations(
            jaxpr,
            equations[_Stage.CONSTANTS],
            dict(zip(jaxpr.constvars, traced.consts)),
            [*for_data, *for_draws, *known],
        ),
        len(for_data),
        len(for_draws),
    )

    def of_datum(datum: jax.Array) -> list[jax.Array]:
        values = {**dict(zip(for_data, of_data)), datum_input: datum}
        return evaluate_equations(jaxpr, equations[_Stage.DATUM], values, from_datum)

    def of_draw(draw: Any, constants: list[jax.Array], values_of_datum: list[jax.Array]) -> Any:
        inputs = [*for_draws, *from_datum, *draw_inputs]
        values = dict(zip(inputs, [*constants, *values_of_datum, *jax.tree.leaves(draw)]))
        leaves = evaluate_equations(jaxpr, equations[_Stage.DRAW], values, jaxpr.outvars)
        return jax.tree.unflatten(structure, leaves)

    value_of = dict(zip(known, of_known))
    leaves = [
        leaf if isinstance(atom, Literal) else value_of.get(atom, leaf)
        for atom, leaf in zip(jaxpr.outvars, jax.tree.leaves(shape))
    ]
    return Hoisted(constants, of_datum, of_draw, jax.tree.unflatten(structure, leaves))


def _stages(jaxpr: Jaxpr) -> tuple[dict[Var, _Stage], dict[_Stage, list[JaxprEqn]]]:
    """The stage of every variable, and the equations that are to be evaluated in each stage."""
    datum_input, *draw_inputs = jaxpr.invars
    stages = dict.fromkeys(jaxpr.constvars, _Stage.CONSTANTS)
    stages |= {datum_input: _Stage.DATUM, **dict.fromkeys(draw_inputs, _Stage.DRAW)}
    equations: dict[_Stage, list[JaxprEqn]] = {stage: [] for stage in _Stage}
    for equation in needed_equations(jaxpr, jaxpr.outvars):
        read = (_stage(stages, atom) for atom in equation.invars)
        stage = _Stage.DRAW if equation.effects else max(read, default=_Stage.NOTHING)
        stages |= dict.fromkeys(equation.outvars, stage)
        # Equations without inputs are cheap: they are evaluated in every stage that needs them.
        for each in _Stage if stage == _Stage.NOTHING else [stage]:
            equations[each].append(equation)
    return stages, equations


def _stage(stages: dict[Var, _Stage], atom: Any) -> _Stage:
    return _Stage.NOTHING if isinstance(atom, Literal) else stages[atom]


def _grouped(values: list[Any], *sizes: int) -> list[list[Any]]:
    """The values in groups of these sizes, and a last one of the rest."""
    groups = []
    for size in sizes:
        groups.append(values[:size])
        values = values[size:]
    return [*groups, values]
