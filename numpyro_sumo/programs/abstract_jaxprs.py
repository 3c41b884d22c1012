"""Evaluation of jaxprs on abstract values, from which facts about their results are proven."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

V = TypeVar("V")
Atom = Var | Literal


class Traced(NamedTuple):
    """A jaxpr with what is known about its variables.

    :param consts: values of the jaxpr's constants.
    :param axis_of: variables treated as inputs, with their axis of elements (None: equal for all).
        Equations that define them are ignored.
    :param outputs: results, each with the axis (not negative) along which it may vary.
    """

    jaxpr: Jaxpr
    consts: Sequence[Any]
    axis_of: Mapping[Var, int | None]
    outputs: Sequence[tuple[Atom, int | None]]


def shape_of(atom: Atom) -> tuple[int, ...]:
    """The shape of a variable or literal; that of a token is empty."""
    return tuple(getattr(atom.aval, "shape", ()))


#: Primitives that call a jaxpr, and the parameters that hold it.
_CALLS = frozenset(
    """
    call checkpoint closed_call core_call custom_jvp_call custom_vjp_call custom_vjp_call_jaxpr jit
    pjit remat remat2
    """.split()
)
_INNER = ("jaxpr", "call_jaxpr", "fun_jaxpr")
#: Primitives that return each of their operands.
_PAIRWISE = frozenset(["device_put", "optimization_barrier"])


class Interpreter(ABC, Generic[V]):
    """Evaluates a jaxpr on abstract values."""

    @abstractmethod
    def constant(self, const: Any) -> V:
        """The abstract value of a constant."""

    @abstractmethod
    def apply(self, equation: JaxprEqn, values: list[V]) -> Sequence[V]:
        """Abstract results of an equation that is not just a call."""

    def run_traced(self, traced: Traced, inputs: Sequence[V], known: Mapping[Var, V]) -> list[V]:
        """Values of the outputs; those of the known variables are given, and not computed."""
        outputs = [atom for atom, _ in traced.outputs]
        return self._run(
            traced.jaxpr,
            traced.consts,
            {**dict(zip(traced.jaxpr.invars, inputs)), **known},
            outputs,
        )

    def run(self, jaxpr: Jaxpr | ClosedJaxpr, inputs: Sequence[V]) -> list[V]:
        """Values of the outputs of a jaxpr from an equation's parameters."""
        bare = bare_jaxpr(jaxpr)
        known = dict(zip(bare.invars, inputs))
        return self._run(bare, getattr(jaxpr, "consts", ()), known, bare.outvars)

    def _run(
        self, jaxpr: Jaxpr, consts: Sequence[Any], known: Mapping[Var, V], outputs: Sequence[Atom]
    ) -> list[V]:
        values = dict(zip(jaxpr.constvars, map(self.constant, consts))) | dict(known)

        def read(atom: Atom) -> V:
            return self.constant(atom.val) if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            operands = [read(atom) for atom in equation.invars]
            for variable, result in zip(equation.outvars, self._results(equation, operands)):
                values.setdefault(variable, result)
        return [read(atom) for atom in outputs]

    def _results(self, equation: JaxprEqn, operands: list[V]) -> Sequence[V]:
        if equation.primitive.name in _PAIRWISE:
            return operands
        inner = [equation.params[key] for key in _INNER if key in equation.params]
        if equation.primitive.name in _CALLS and inner:
            return self.run(inner[0], operands)
        return self.apply(equation, operands)


def bare_jaxpr(jaxpr: Any) -> Jaxpr:
    """A jaxpr without its constants; from JAX 0.12 on the two are of one class."""
    bare: Jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return bare


def uniform_axes(const: Any, lengths: Collection[int]) -> list[int]:
    """The axes of a constant, of the given lengths, along which all its entries are equal."""
    axes = [axis for axis, length in enumerate(np.shape(const)) if length in lengths]
    if not axes:
        return []
    try:
        array = np.asarray(const)
    except (TypeError, RuntimeError):  # traced constants and random keys have no known entries
        return []
    return [axis for axis in axes if np.all(array == np.take(array, [0], axis))]
