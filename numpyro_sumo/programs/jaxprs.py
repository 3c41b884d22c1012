"""Parts of a jaxpr: which equations some outputs need, what they depend on, and their values."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun


def needed_equations(
    jaxpr: Jaxpr, outputs: Iterable[Any], known: Collection[Var] = ()
) -> list[JaxprEqn]:
    """The equations that outputs are computed by, in order, if some variables are known.

    Equations with side effects are needed in any case.
    """
    wanted = {atom for atom in outputs if not isinstance(atom, Literal)} - set(known)
    equations = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not wanted.isdisjoint(equation.outvars):
            equations.append(equation)
            read = {atom for atom in equation.invars if not isinstance(atom, Literal)}
            wanted |= read - set(known)
    return equations[::-1]


def evaluate_equations(
    jaxpr: Jaxpr, equations: Sequence[JaxprEqn], values: Mapping[Var, Any], outputs: Sequence[Any]
) -> list[Any]:
    """The values of outputs; a variable that has a value keeps it, whatever equation defines it.

    :param jaxpr: that the equations are from.
    """
    found, run = dict(values), list[JaxprEqn]()
    for equation in equations:
        # Evaluated by itself if it would overwrite a value.
        if not found.keys().isdisjoint(equation.outvars):
            found = {**_evaluate_run(jaxpr, run, found), **found}
            found = {**_evaluate_run(jaxpr, [equation], found), **found}
            run = []
        else:
            run.append(equation)
    found |= _evaluate_run(jaxpr, run, found)
    return [atom.val if isinstance(atom, Literal) else found[atom] for atom in outputs]


def _evaluate_run(
    jaxpr: Jaxpr, equations: Sequence[JaxprEqn], values: Mapping[Var, Any]
) -> dict[Var, Any]:
    """The values of all variables that some equations define."""
    defined = [v for equation in equations for v in equation.outvars if not _is_dropped(v)]
    read = {v for equation in equations for v in equation.invars if not isinstance(v, Literal)}
    inputs = list(read - set(defined))
    effects: frozenset[Any] = frozenset().union(*(equation.effects for equation in equations))
    part = jaxpr.replace(
        constvars=[], invars=inputs, outvars=defined, eqns=list(equations), effects=effects
    )
    results = jaxpr_as_fun(ClosedJaxpr(part, []))(*(values[v] for v in inputs))
    return dict(zip(defined, results))


def _is_dropped(variable: Var) -> bool:
    """Whether nothing reads the variable; JAX writes it as an underscore."""
    return type(variable).__name__ == "DropVar"


def sources_of(
    jaxpr: Jaxpr, outputs: Sequence[Any], sources: Mapping[Var, frozenset[Any]]
) -> list[frozenset[Any]]:
    """The sources that each output may depend on: the union over all that it is computed from.

    :param sources: of some variables. What these are computed from themselves does not count.
    """
    found = dict(sources)
    empty: frozenset[Any] = frozenset()
    read = lambda atom: empty if isinstance(atom, Literal) else found.get(atom, empty)
    for equation in needed_equations(jaxpr, outputs, sources.keys()):
        union = empty.union(*map(read, equation.invars))
        for variable in equation.outvars:
            found.setdefault(variable, union)
    return [read(atom) for atom in outputs]
