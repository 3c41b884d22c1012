"""Parts of a jaxpr: which equations some outputs need, what they depend on, and their values."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun
from jax.lax import stop_gradient
import jax.numpy as jnp

Atom = Var | Literal
Tree = TypeVar("Tree")

#: Primitives that call a jaxpr, and the parameters that hold it.
_CALLS = frozenset(
    """
    call checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit
    pjit remat remat2
    """.split()
)
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def shape_of(atom: Atom) -> tuple[int, ...]:
    """The shape of a variable or literal; that of a token is empty."""
    return tuple(getattr(atom.aval, "shape", ()))


def dtype_of(atom: Atom) -> Any:
    """The type of the entries of a variable or literal; None for a token."""
    return getattr(atom.aval, "dtype", None)


def bare_jaxpr(jaxpr: Any) -> Jaxpr:
    """A jaxpr without its constants; from JAX 0.12 on the two are of one class."""
    bare: Jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return bare


def inner_jaxpr(equation: JaxprEqn) -> Any:
    """The jaxpr that an equation does nothing but call; None for other equations."""
    inner = [equation.params[key] for key in _INNER if key in equation.params]
    return inner[0] if inner and equation.primitive.name in _CALLS else None


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


class PartialEvaluator:
    """A function traced once as a jaxpr; any part of its outputs can be evaluated by itself."""

    def __init__(self, function: Callable[..., Any], *examples: Any):
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*examples)
        self.jaxpr, self._consts, self.closed = traced.jaxpr, traced.consts, traced
        #: The outputs, a pytree, with variables of the jaxpr in place of arrays.
        self.outputs = jax.tree.unflatten(jax.tree.structure(shapes), self.jaxpr.outvars)

    def evaluate(
        self,
        outputs: Any,
        inputs: Any,
        known: dict[Any, jax.Array] | None = None,
        detach_closure: bool = False,
    ) -> Any:
        """Some of the outputs at these inputs.

        :param known: variables whose values are known, and so not computed.
        :param detach_closure: no gradient flows to what the function closes over.
        """
        consts = detach(self._consts) if detach_closure else self._consts
        values = dict(zip(self.jaxpr.constvars, consts))
        values |= zip(self.jaxpr.invars, jax.tree.leaves(inputs))
        values |= known or {}
        atoms, structure = jax.tree.flatten(outputs)
        equations = needed_equations(self.jaxpr, atoms, values.keys())
        return jax.tree.unflatten(
            structure, evaluate_equations(self.jaxpr, equations, values, atoms)
        )


def detach(tree: Tree) -> Tree:
    """The same values, with ``stop_gradient`` on every array."""
    has_gradient = lambda x: isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jnp.inexact)
    detached: Tree = jax.tree.map(lambda x: stop_gradient(x) if has_gradient(x) else x, tree)
    return detached
