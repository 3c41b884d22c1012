"""One element of what a program computes for a batch, computed from that element alone.

A jaxpr is read from its results back: element i of a result needs element i of some operands, and
others as a whole; :mod:`.parallel_axes` tells which. A program that needs, for element i, other
elements of what varies from draw to draw looks across its batch, and is refused. Data and
parameters do not vary: they are computed as a whole, if need be, and cut at i afterwards.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax import lax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
import jax.numpy as jnp

from numpyro_sumo._compat import jvp_of_custom_call, scan_lengths

from .jaxprs import Atom, bare_jaxpr, dtype_of, evaluate_equations, inner_jaxpr, shape_of
from .parallel_axes import parallel_axes
from .varying import DRAWS, Kind, Kinds, kind_of, kinds_of_variables

#: An axis that is cut at the element; None for an array as a whole.
Axis = int | None
#: The number of an operand or result, and how it is cut.
Place = tuple[int, Axis]


class NotElementwise(Exception):
    """Says in words why one element cannot be computed from itself alone."""


class _Step(NamedTuple):
    """An equation, run for one element.

    :param run: maps (index, values of ``reads``) to values of ``writes``.
    """

    reads: Sequence[tuple[Atom, Axis]]
    writes: Sequence[tuple[Var, Axis]]
    run: Callable[[jax.Array, list[Any]], Sequence[Any]]


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
        self._steps: list[_Step] = []
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
        if axis is None and self._varies(atom):
            raise NotElementwise(self._why_not(atom, by))
        self._wanted.setdefault(atom, {})[axis] = None

    def _why_not(self, atom: Atom, by: JaxprEqn | None) -> str:
        """The operation that takes a varying array as a whole, or made it one without elements."""
        while self._size not in shape_of(atom) and atom in self._defined_by:
            by = self._defined_by[atom]
            atom = next((operand for operand in by.invars if self._varies(operand)), by.invars[0])
        where = "elements along another axis"
        return where if by is None else f"{by.primitive.name} across the elements"

    def _varies(self, atom: Atom) -> bool:
        return kind_of(atom, self._kinds) == Kind.VARYING

    def _steps_of(self, equation: JaxprEqn, wanted: list[Place]) -> list[_Step]:
        if any(map(self._varies, [*equation.invars, *equation.outvars])):
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

        return [_Step(reads, [(variable, None) for variable in results], run)]

    def _cut(self, equation: JaxprEqn, wanted: list[Place]) -> list[_Step]:
        name = equation.primitive.name
        loops = {"cond": self._cond, "scan": self._scan, "while": self._while}
        if name in loops:
            return [loops[name](equation, wanted)]
        if name == "custom_jvp_call" and self._with_rules:
            return [self._custom_jvp(equation, wanted)]
        inner = inner_jaxpr(equation)
        if inner is not None and name != "custom_vjp_call":
            body = self._inner(inner, equation.invars, wanted)
            run = lambda index, values: body.evaluate(index, dict(zip(body.inputs, values)))
            return [self._step(equation, body.inputs, wanted, run)]
        axes = list(dict.fromkeys(axis for _, axis in wanted))
        if equation.effects:
            raise NotElementwise(f"the primitive '{name}' is not known")
        if name in DRAWS and (len(axes) > 1 or not self._varies(equation.outvars[0])):
            raise NotElementwise("random numbers that are used along two axes")
        return [self._along(equation, axis) for axis in axes]

    def _along(self, equation: JaxprEqn, axis: Axis) -> _Step:
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

        return self._step(equation, reads, [(k, axis) for k in range(len(equation.outvars))], run)

    def _step(
        self,
        equation: JaxprEqn,
        reads: Iterable[Place],
        writes: Iterable[Place],
        run: Callable[[jax.Array, list[Any]], Sequence[Any]],
    ) -> _Step:
        atoms, variables = equation.invars, equation.outvars
        return _Step([(atoms[k], a) for k, a in reads], [(variables[k], a) for k, a in writes], run)

    def _inner(
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

    def _custom_jvp(self, equation: JaxprEqn, wanted: list[Place]) -> _Step:
        """A function with a derivative of its own, which is cut in the same way."""
        atoms, number = equation.invars, len(equation.outvars)
        operands = range(equation.params["num_consts"], len(atoms))
        moving = [k for k in operands if jnp.issubdtype(dtype_of(atoms[k]), jnp.inexact)]
        rule, is_zero = jvp_of_custom_call(equation, [k not in moving for k in operands])
        numbers = (k for k in range(number) if not is_zero[k])
        tangent_of = {k: number + place for place, k in enumerate(numbers)}
        of_tangents = [(tangent_of[k], axis) for k, axis in wanted if k in tangent_of]
        body = self._inner(equation.params["call_jaxpr"], atoms, wanted)
        # The operand that an input of the rule is, or is the tangent of.
        operand_of = [*operands, *moving]
        # Rules that call their own function would otherwise be planned without end.
        like = [atoms[k] for k in operand_of]
        derivative = self._inner(rule, like, wanted + of_tangents, with_rules=False)
        inputs = [*body.inputs, *((operand_of[k], axis) for k, axis in derivative.inputs)]
        reads = list(dict.fromkeys(inputs))

        @jax.custom_jvp
        def call(index: jax.Array, *values: Any) -> list[Any]:
            return body.evaluate(index, dict(zip(reads, values)))

        @call.defjvp
        def jvp(primals: Any, tangents: Any) -> tuple[list[Any], list[Any]]:
            index, *values = primals
            at, moved = dict(zip(reads, values)), dict(zip(reads, tangents[1:]))
            found = derivative.evaluate(
                index,
                {
                    (k, axis): (at if k < len(operands) else moved)[operand_of[k], axis]
                    for k, axis in derivative.inputs
                },
            )
            results, nonzero = found[: len(wanted)], iter(found[len(wanted) :])
            zero = jax.custom_derivatives.zero_from_primal
            pairs = zip(wanted, results)
            return results, [next(nonzero) if k in tangent_of else zero(y) for (k, _), y in pairs]

        return self._step(equation, reads, wanted, lambda index, values: call(index, *values))

    def _cond(self, equation: JaxprEqn, wanted: list[Place]) -> _Step:
        operands = equation.invars[1:]
        bodies = [self._inner(b, operands, wanted) for b in equation.params["branches"]]
        places = list(dict.fromkeys(place for body in bodies for place in body.inputs))

        def run(index: jax.Array, values: list[Any]) -> Sequence[Any]:
            def branch(body: OneElement) -> Callable[..., list[Any]]:
                return lambda *operands: body.evaluate(index, dict(zip(places, operands)))

            results: Sequence[Any] = lax.switch(values[0], list(map(branch, bodies)), *values[1:])
            return results

        reads: list[Place] = [(0, None), *((k + 1, axis) for k, axis in places)]
        return self._step(equation, reads, wanted, run)

    def _scan(self, equation: JaxprEqn, wanted: list[Place]) -> _Step:
        params, atoms = equation.params, equation.invars
        num_consts, num_carry = scan_lengths(equation)
        num_fixed = num_consts + num_carry
        # A scan is over the leading axis, which one step does not have.
        down = lambda places: [(k, None if a is None else a - 1) for k, a in places]
        stacked = [(k, axis) for k, axis in wanted if k >= num_carry]
        if any(axis == 0 for _, axis in stacked):
            raise NotElementwise("scan across the elements")
        like = [*atoms[:num_consts], *equation.outvars[:num_carry], *atoms[num_fixed:]]
        carried = range(num_consts, num_fixed)
        carry, body = self._loop(params["jaxpr"], like, carried, wanted, down(stacked))
        consts = [(k, axis) for k, axis in body.inputs if k < num_consts]
        slices = [(k, axis) for k, axis in body.inputs if k >= num_fixed]
        into = [(num_consts + k, axis) for k, axis in carry]

        def run(index: jax.Array, values: list[Any]) -> Sequence[Any]:
            fixed = dict(zip(consts, values))

            def step(state: list[Any], slice_: list[Any]) -> tuple[list[Any], list[Any]]:
                given = {**fixed, **dict(zip(into, state)), **dict(zip(slices, slice_))}
                results = body.evaluate(index, given)
                return results[: len(carry)], results[len(carry) :]

            start, over = values[len(consts) :][: len(carry)], values[len(consts) + len(carry) :]
            options = {key: params[key] for key in ("length", "reverse", "unroll")}
            state, stack = lax.scan(step, start, over, **options)
            return [*state, *stack]

        up = [(k, None if axis is None else axis + 1) for k, axis in slices]
        return self._step(equation, [*consts, *into, *up], [*carry, *stacked], run)

    def _while(self, equation: JaxprEqn, wanted: list[Place]) -> _Step:
        params, atoms, results = equation.params, equation.invars, equation.outvars
        num_test, num_body = params["cond_nconsts"], params["body_nconsts"]
        num_consts = num_test + num_body
        like = [*atoms[num_test:num_consts], *results]
        carried = range(num_body, len(like))
        carry, body = self._loop(params["body_jaxpr"], like, carried, wanted, [])
        test = self._inner(params["cond_jaxpr"], [*atoms[:num_test], *results], [(0, None)])
        for_test = [(k, axis) for k, axis in test.inputs if k < num_test]
        for_body = [(k, axis) for k, axis in body.inputs if k < num_body]

        def run(index: jax.Array, values: list[Any]) -> Sequence[Any]:
            tested, fixed = (
                dict(zip(for_test, values)),
                dict(zip(for_body, values[len(for_test) :])),
            )

            def given(state: Sequence[Any], first: int) -> dict[Place, Any]:
                return {(first + k, axis): value for (k, axis), value in zip(carry, state)}

            found: Sequence[Any] = lax.while_loop(
                lambda state: test.evaluate(index, {**tested, **given(state, num_test)})[0],
                lambda state: body.evaluate(index, {**fixed, **given(state, num_body)}),
                values[len(for_test) + len(for_body) :],
            )
            return found

        constants = [*for_test, *((num_test + k, axis) for k, axis in for_body)]
        reads = [*constants, *((num_consts + k, axis) for k, axis in carry)]
        return self._step(equation, reads, carry, run)

    def _loop(
        self,
        jaxpr: Any,
        like: Sequence[Atom],
        carried: range,
        wanted: Sequence[Place],
        others: Sequence[Place],
    ) -> tuple[list[Place], "OneElement"]:
        """What a loop carries, each array cut along one axis, and the plan for its body.

        :param like: for each input of the body, an atom that varies if it does.
        :param carried: the numbers of the carried arrays among them.
        :param others: outputs of the body that are not carried.
        """
        fixed = [k for k, place in enumerate(carried) if not self._varies(like[place])]
        axes: dict[int, Axis] = dict.fromkeys(fixed)

        def carry(places: Iterable[Place]) -> bool:
            before = len(axes)
            for k, axis in places:
                if k not in fixed and axes.setdefault(k, axis) != axis:
                    raise NotElementwise("a loop that carries elements along two axes")
            return len(axes) > before

        carry((k, axis) for k, axis in wanted if k < len(carried))
        while True:
            body = self._inner(jaxpr, like, [*axes.items(), *others])
            reads = [(k - carried.start, axis) for k, axis in body.inputs if k in carried]
            if not carry(reads):
                return list(axes.items()), body


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
