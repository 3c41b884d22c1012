"""A function of datum and draw, taken apart: what does not depend on the draw is computed once."""

from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun


class Stages(NamedTuple):
    """A function of (datum, draw), and what it closed over, in three stages.

    :param constants: what the last stage needs that depends on neither: floats, keys, integers.
    :param of_datum: maps a datum to what the last stage needs that depends on it and on no draw.
    :param of_draw: maps a draw, ``constants``, and the datum's part to the values. Closes over
        nothing that is traced.
    :param values: a pytree like the values: what depends on neither datum nor draw, as it is, and
        the shapes and types of the others.
    """

    constants: list[jax.Array]
    of_datum: Callable[[jax.Array], list[jax.Array]]
    of_draw: Callable[[Any, list[jax.Array], list[jax.Array]], Any]
    values: Any


class _Stage(IntEnum):
    """What something depends on, at the most."""

    NOTHING = 0
    CONSTANTS = 1
    DATUM = 2
    DRAW = 3


def in_stages(function: Callable[[jax.Array, Any], Any], datum: jax.Array, draw: Any) -> Stages:
    """Traces a function once, and takes it apart.

    A guide's network, say, or a subsample of the data, then runs once for each datum and not once
    for each draw, in loops too.

    :param function: maps (datum, draw), an array and a pytree of arrays, to a pytree of arrays.
    :param datum: an example, as is ``draw``: arrays, or their shapes and types.
    """
    traced, shape = jax.make_jaxpr(function, return_shape=True)(datum, draw)
    jaxpr, values_type = traced.jaxpr, jax.tree.structure(shape)
    datum_input, *draw_inputs = jaxpr.invars
    stages = dict.fromkeys(jaxpr.constvars, _Stage.CONSTANTS)
    stages |= {datum_input: _Stage.DATUM, **dict.fromkeys(draw_inputs, _Stage.DRAW)}
    equations: dict[_Stage, list[Any]] = {stage: [] for stage in _Stage}
    for equation in jaxpr.eqns:
        read = (stages[atom] for atom in equation.invars if not isinstance(atom, Literal))
        stage = _Stage.DRAW if equation.effects else max(read, default=_Stage.NOTHING)
        stages |= dict.fromkeys(equation.outvars, stage)
        # What depends on nothing is cheap, and computed wherever it is needed.
        for each in _Stage if stage == _Stage.NOTHING else [stage]:
            equations[each].append(equation)

    def needed(source, target, results=()):
        """The variables of one stage that another reads, or that are among the results."""
        read = [atom for equation in equations[target] for atom in equation.invars]
        variables = [atom for atom in [*read, *results] if not isinstance(atom, Literal)]
        return list(dict.fromkeys(v for v in variables if stages[v] == source))

    def part(stage, inputs, outputs):
        """The equations of a stage, as a function of some variables."""
        effects: frozenset = frozenset().union(*(e.effects for e in equations[stage]))
        return jaxpr_as_fun(
            ClosedJaxpr(
                jaxpr.replace(
                    constvars=[],
                    invars=inputs,
                    outvars=outputs,
                    eqns=equations[stage],
                    effects=effects,
                ),
                [],
            )
        )

    for_data = needed(_Stage.CONSTANTS, _Stage.DATUM)
    for_draws = needed(_Stage.CONSTANTS, _Stage.DRAW, jaxpr.outvars)
    of_data = needed(_Stage.DATUM, _Stage.DRAW, jaxpr.outvars)
    known = [
        variable
        for variable in jaxpr.outvars
        if not isinstance(variable, Literal) and stages[variable] <= _Stage.CONSTANTS
    ]
    constant_part = part(_Stage.CONSTANTS, jaxpr.constvars, for_data + for_draws + known)
    datum_part = part(_Stage.DATUM, [*for_data, datum_input], of_data)
    draw_part = part(_Stage.DRAW, [*for_draws, *of_data, *draw_inputs], jaxpr.outvars)
    computed = constant_part(*traced.consts)
    of_known = dict(zip(known, computed[len(for_data + for_draws) :]))
    values = [
        leaf if isinstance(variable, Literal) else of_known.get(variable, leaf)
        for variable, leaf in zip(jaxpr.outvars, jax.tree.leaves(shape))
    ]
    return Stages(
        computed[len(for_data) : len(for_data + for_draws)],
        lambda datum: datum_part(*computed[: len(for_data)], datum),
        lambda draw, constants, of_datum: jax.tree.unflatten(
            values_type, draw_part(*constants, *of_datum, *jax.tree.leaves(draw))
        ),
        jax.tree.unflatten(values_type, values),
    )
