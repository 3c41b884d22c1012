"""One element of what a program computes for a batch, computed from that element alone.

A jaxpr is read from its results back: element i of a result needs element i of some operands, and
others as a whole; :mod:`.parallel_axes` tells which. A program that needs, for element i, other
elements of what varies from draw to draw looks across its batch, and is refused. Data and
parameters do not vary: they are computed as a whole, if need be, and cut at i afterwards.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
import jax.numpy as jnp

from .cut_control_flow import (
    Axis,
    NotElementwise,
    Place,
    Step,
    cut_cond,
    cut_custom_jvp,
    cut_scan,
    cut_while,
    step_of,
)
from .jaxprs import Atom, bare_jaxpr, evaluate_equations, inner_jaxpr, shape_of
from .parallel_axes import parallel_axes
from .varying import DRAWS, Kind, Kinds, kind_of, kinds_of_variables

_CUTS = {"cond": cut_cond, "custom_jvp_call": cut_custom_jvp, "scan": cut_scan, "while": cut_while}


#: Primitives that return each of their operands.
_PAIRWISE = frozenset(["device_put", "optimization_barrier"])


class Cut(NamedTuple):
    """How traced programs are cut down to one element of a plate.

    :param dim: the plate's batch dimension, negative; ``size`` is its length.
    :param num_estimates: how many estimates there are. Data are numbered: all elements of the first
        estimate, then those of the next.
    :param split_axes: for each array that is split, the axis that must have the elements.
    :param indices: of each plate of the guide, shape ``(num_estimates, size)``, by name.
    """

    dim: int
    size: int
    num_estimates: int = 1
    split_axes: Sequence[int] = ()
    indices: dict[str, jax.Array] = {}

    def place(self, datum: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The estimate that a datum belongs to, and its element."""
        if self.num_estimates == 1:
            return jnp.zeros_like(datum), datum
        return lax.div(datum, jnp.int32(self.size)), lax.rem(datum, jnp.int32(self.size))

    def axis_of(self, ndim: int, event_dim: int = 0) -> int | None:
        """The axis of the elements in an array, or None where it has none."""
        axis = ndim - event_dim + self.dim
        return axis if axis >= 0 else None


class OneElement:
    """A plan for computing one element of some outputs of a jaxpr.

    :param jaxpr: with its constants, if it is closed.
    :param size: number of elements: the length of every axis that is cut.
    :param outputs: each with the axis to cut, or None for the whole.
    :param sources: the kinds of inputs that are not fixed, and of variables that are given, and
        not computed.
    :param with_rules: whether custom derivatives are kept.
    :raises NotElementwise: if an output needs other elements of what varies.
    """

    def __init__(
        self,
        jaxpr: Jaxpr | ClosedJaxpr,
        size: int,
        outputs: Iterable[tuple[Atom, Axis]],
        sources: Kinds,
        with_rules: bool = True,
    ):
        self._jaxpr, self._size = bare_jaxpr(jaxpr), size
        self._consts = dict(zip(self._jaxpr.constvars, getattr(jaxpr, "consts", ())))
        self._given = {*self._jaxpr.invars, *self._consts, *sources}
        self._with_rules = with_rules
        self._kinds = kinds_of_variables(self._jaxpr, sources, size)
        self._wanted: dict[Var, dict[Axis, None]] = {}
        self._outputs = [(atom, self._if_elements(atom, axis)) for atom, axis in outputs]
        self._steps: list[Step] = []
        self._defined_by = {v: equation for equation in self._jaxpr.eqns for v in equation.outvars}
        self._plan()

    @property
    def inputs(self) -> list[Place]:
        """The numbers of the jaxpr's inputs that are read, and how they are cut."""
        inputs = enumerate(self._jaxpr.invars)
        return [(k, axis) for k, v in inputs for axis in self._wanted.get(v, ())]

    def require_axes(self, axes: Mapping[int, Axis]) -> None:
        """Refuses inputs that are cut along other axes than these."""
        if any(axes.get(k, axis) != axis for k, axis in self.inputs):
            raise NotElementwise("elements along another axis")

    def evaluate(
        self,
        index: jax.Array,
        inputs: Mapping[Place, Any],
        known: Mapping[Var, Any] | None = None,
    ) -> list[Any]:
        """Element ``index`` of the outputs, with an axis of length one where they are cut.

        :param inputs: arrays by number and cut; a whole one serves any cut.
        """
        wholes = {**self._consts, **(known or {})}
        values: dict[tuple[Var, Axis], Any] = {(v, None): whole for v, whole in wholes.items()}
        values |= {(self._jaxpr.invars[k], axis): value for (k, axis), value in inputs.items()}

        def read(atom: Atom, axis: Axis) -> Any:
            if isinstance(atom, Literal):
                return atom.val
            if (atom, axis) not in values:
                whole = values[atom, None]
                values[atom, axis] = lax.dynamic_index_in_dim(whole, index, axis or 0)
            return values[atom, axis]

        for step in reversed(self._steps):
            values.update(zip(step.writes, step.run(index, [read(*each) for each in step.reads])))
        return [read(*output) for output in self._outputs]

    def _plan(self) -> None:
        for atom, axis in self._outputs:
            self._want(atom, axis, None)
        for equation in reversed(self._jaxpr.eqns):
            wanted = [
                (k, axis)
                for k, variable in enumerate(equation.outvars)
                if variable not in self._given
                for axis in self._wanted.get(variable, ())
            ]
            if not wanted and not equation.effects:
                continue
            for step in self._steps_of(equation, wanted):
                for atom, axis in step.reads:
                    self._want(atom, axis, equation)
                self._steps.append(step)

    def _if_elements(self, atom: Atom, axis: Axis) -> Axis:
        """The axis if the array has the elements along it, else None."""
        return axis if axis is not None and shape_of(atom)[axis] == self._size else None

    def _want(self, atom: Atom, axis: Axis, by: JaxprEqn | None) -> None:
        if isinstance(atom, Literal):
            return
        if axis is None and self.varies(atom):
            raise NotElementwise(self._why_not(atom, by))
        self._wanted.setdefault(atom, {})[axis] = None

    def _why_not(self, atom: Atom, by: JaxprEqn | None) -> str:
        """The operation that takes a varying array as a whole, or made it one without elements."""
        while self._size not in shape_of(atom) and atom in self._defined_by:
            by = self._defined_by[atom]
            sources = [operand for operand in by.invars if self.varies(operand)]
            if not sources:
                break
            atom = sources[0]
        where = "elements along another axis"
        return where if by is None else f"{by.primitive.name} across the elements"

    def varies(self, atom: Atom) -> bool:
        return kind_of(atom, self._kinds) == Kind.VARYING

    def _steps_of(self, equation: JaxprEqn, wanted: list[Place]) -> list[Step]:
        if any(map(self.varies, [*equation.invars, *equation.outvars])):
            return self._cut(equation, wanted)
        with_effects_or_whole = equation.effects or any(axis is None for _, axis in wanted)
        if not with_effects_or_whole:
            try:
                return self._cut(equation, wanted)
            except NotElementwise:
                pass
        reads = [(atom, None) for atom in equation.invars if not isinstance(atom, Literal)]
        results = list(dict.fromkeys(equation.outvars[k] for k, _ in wanted))

        def run(_: jax.Array, values: list[Any]) -> Sequence[Any]:
            operands = {atom: value for (atom, _), value in zip(reads, values)}
            return evaluate_equations(self._jaxpr, [equation], operands, results)

        return [Step(reads, [(variable, None) for variable in results], run)]

    def _cut(self, equation: JaxprEqn, wanted: list[Place]) -> list[Step]:
        name = equation.primitive.name
        if name in _CUTS and (name != "custom_jvp_call" or self._with_rules):
            return [_CUTS[name](self, equation, wanted)]
        if name in _PAIRWISE:
            run = lambda index, values: values
            return [step_of(equation, [place], [place], run) for place in wanted]
        inner = inner_jaxpr(equation)
        if inner is not None and name != "custom_vjp_call":
            body = self.inner(inner, equation.invars, wanted)
            run = lambda index, values: body.evaluate(index, dict(zip(body.inputs, values)))
            return [step_of(equation, body.inputs, wanted, run)]
        axes = list(dict.fromkeys(axis for _, axis in wanted))
        if equation.effects:
            raise NotElementwise(f"the primitive '{name}' is not known")
        if name in DRAWS and (len(axes) > 1 or not self.varies(equation.outvars[0])):
            raise NotElementwise("random numbers that are used along two axes")
        return [self._along(equation, axis) for axis in axes]

    def _along(self, equation: JaxprEqn, axis: Axis) -> Step:
        """An equation all of whose results are cut along one axis."""
        primitive, maps = equation.primitive, parallel_axes(equation)
        if maps is None or axis is None:
            raise NotElementwise(f"the primitive '{primitive.name}' is not known")
        reads: list[Place] = []
        for k, (atom, axes) in enumerate(zip(equation.invars, maps)):
            source = next((a for a, result in axes.items() if result == axis), None)
            reads.append((k, self._if_elements(atom, source)))
        makes_axis = primitive.name in {"broadcast_in_dim", *DRAWS}
        if not makes_axis and all(source is None for _, source in reads):
            raise NotElementwise(f"{primitive.name} across the elements")
        params = _params_for_one(equation, axis, reads)

        def run(_: jax.Array, values: list[Any]) -> Sequence[Any]:
            results = primitive.bind(*values, **params)
            return results if primitive.multiple_results else [results]

        return step_of(equation, reads, [(k, axis) for k in range(len(equation.outvars))], run)

    def inner(
        self,
        jaxpr: Any,
        operands: Sequence[Atom],
        outputs: Iterable[Place],
        with_rules: bool | None = None,
    ) -> "OneElement":
        """The plan for a jaxpr that an equation calls with operands like these."""
        bare = bare_jaxpr(jaxpr)
        kinds = {v: kind_of(atom, self._kinds) for v, atom in zip(bare.invars, operands)}
        atoms = [(bare.outvars[k], axis) for k, axis in outputs]
        with_rules = self._with_rules if with_rules is None else with_rules
        return OneElement(jaxpr, self._size, atoms, kinds, with_rules)


def _params_for_one(equation: JaxprEqn, axis: int, reads: Sequence[Place]) -> dict[str, Any]:
    """The parameters of an equation with length one along an axis of its result."""
    params, name = dict(equation.params), equation.primitive.name
    one = lambda lengths, axis: (*lengths[:axis], 1, *lengths[axis + 1 :])
    if name in ("broadcast_in_dim", "random_bits"):
        # The leading axes of random bits are those of their keys.
        keys = len(shape_of(equation.invars[0])) if name == "random_bits" else 0
        if axis >= keys:
            params["shape"] = one(params["shape"], axis - keys)
    elif name == "reshape":
        params["new_sizes"] = one(params["new_sizes"], axis)
    elif name == "slice":
        params["limit_indices"] = one(params["limit_indices"], axis)
    elif name in ("dynamic_slice", "gather") and reads[0][1] is not None:
        params["slice_sizes"] = one(params["slice_sizes"], reads[0][1])
    return params
