"""Which variables of a jaxpr vary from element to element by random draws."""

from collections.abc import Mapping
from enum import IntEnum

from jax.extend.core import Jaxpr, JaxprEqn, Literal, Var

from numpyro_sumo._compat import scan_lengths

from .jaxprs import Atom, bare_jaxpr, inner_jaxpr, shape_of


class Kind(IntEnum):
    """What a variable depends on; operations pass on the largest of their operands."""

    #: On data and parameters.
    FIXED = 0
    #: On the random key of a draw, but on no random numbers of single elements.
    KEYED = 1
    #: On random numbers of the elements.
    VARYING = 2


Kinds = Mapping[Var, Kind]

#: Primitives that draw numbers by a key, for every entry of their results.
DRAWS = frozenset(["random_bits", "random_gamma"])


def kind_of(atom: Atom, kinds: Kinds) -> Kind:
    """The kind of a variable or literal."""
    return Kind.FIXED if isinstance(atom, Literal) else kinds.get(atom, Kind.FIXED)


def kinds_of_variables(jaxpr: Jaxpr, sources: Kinds, size: int) -> dict[Var, Kind]:
    """The kinds of all variables that are not fixed.

    :param sources: the kinds of inputs, and of variables that are not computed.
    :param size: number of elements. Random numbers in an array without an axis of that length are
        not those of elements.
    """
    kinds = dict(sources)
    for equation in jaxpr.eqns:
        operands = [kind_of(atom, kinds) for atom in equation.invars]
        if any(operands):
            found = zip(equation.outvars, _kinds_of_results(equation, operands, size))
            kinds = {**dict(found), **kinds}
    return kinds


def _kinds_of_results(equation: JaxprEqn, operands: list[Kind], size: int) -> list[Kind]:
    name, params, results = equation.primitive.name, equation.params, equation.outvars
    inner = inner_jaxpr(equation)
    if inner is not None:
        return _through(inner, operands, size)
    if name == "cond":
        branches = [_through(branch, operands[1:], size) for branch in params["branches"]]
        return [max(operands[0], *of_branches) for of_branches in zip(*branches)]
    if name == "scan":
        num_consts, num_carry = scan_lengths(equation)
        return _through_loop(params["jaxpr"], operands, num_consts, num_carry, size)
    if name == "while":
        first, num_body = params["cond_nconsts"], params["body_nconsts"]
        return _through_loop(params["body_jaxpr"], operands[first:], num_body, len(results), size)
    drawn = name in DRAWS and operands[0] == Kind.KEYED
    return [
        Kind.VARYING if drawn and size in shape_of(variable) else max(operands)
        for variable in results
    ]


def _through(jaxpr: object, inputs: list[Kind], size: int) -> list[Kind]:
    """The kinds of a jaxpr's outputs."""
    bare = bare_jaxpr(jaxpr)
    kinds = kinds_of_variables(bare, dict(zip(bare.invars, inputs)), size)
    return [kind_of(atom, kinds) for atom in bare.outvars]


def _through_loop(
    jaxpr: object, inputs: list[Kind], first: int, num_carry: int, size: int
) -> list[Kind]:
    """The kinds of a loop's results: what it carries is of the largest kind after any step."""
    while True:
        results = _through(jaxpr, inputs, size)
        carried = inputs[first : first + num_carry]
        joined = list(map(max, carried, results))
        if joined == carried:
            return [*joined, *results[num_carry:]]
        inputs = [*inputs[:first], *joined, *inputs[first + num_carry :]]
