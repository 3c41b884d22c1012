"""Equations that run other jaxprs, cut down to one element: branches, loops and custom rules."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
from jax import lax
from jax.extend.core import JaxprEqn, Var
import jax.numpy as jnp

from numpyro_sumo._compat import jvp_of_custom_call, scan_lengths

from .jaxprs import Atom, dtype_of

#: An axis that is cut at the element; None for an array as a whole.
Axis = int | None
#: The number of an operand or result, and how it is cut.
Place = tuple[int, Axis]


class NotElementwise(Exception):
    """Says in words why one element cannot be computed from itself alone."""


class Step(NamedTuple):
    """An equation, run for one element.

    :param run: maps (index, values of ``reads``) to values of ``writes``.
    """

    reads: Sequence[tuple[Atom, Axis]]
    writes: Sequence[tuple[Var, Axis]]
    run: Callable[[jax.Array, list[Any]], Sequence[Any]]


class Plan(Protocol):
    """What equations need of :class:`.one_element.OneElement`."""

    @property
    def inputs(self) -> list[Place]:
        """The numbers of the jaxpr's inputs that are read, and how they are cut."""

    def evaluate(self, index: jax.Array, inputs: Mapping[Place, Any]) -> list[Any]:
        """One element of the outputs."""

    def inner(
        self,
        jaxpr: Any,
        operands: Sequence[Atom],
        outputs: Iterable[Place],
        with_rules: bool | None = None,
    ) -> "Plan":
        """The plan for a jaxpr that an equation calls with operands like these."""

    def varies(self, atom: Atom) -> bool:
        """Whether the entries of an array vary from element to element."""


def step_of(
    equation: JaxprEqn,
    reads: Iterable[Place],
    writes: Iterable[Place],
    run: Callable[[jax.Array, list[Any]], Sequence[Any]],
) -> Step:
    """The step of an equation, by the numbers of its operands and results."""
    atoms, variables = equation.invars, equation.outvars
    return Step([(atoms[k], a) for k, a in reads], [(variables[k], a) for k, a in writes], run)


def cut_custom_jvp(plan: Plan, equation: JaxprEqn, wanted: list[Place]) -> Step:
    """A function with a derivative of its own, which is cut in the same way."""
    atoms, number = equation.invars, len(equation.outvars)
    operands = range(equation.params["num_consts"], len(atoms))
    moving = [k for k in operands if jnp.issubdtype(dtype_of(atoms[k]), jnp.inexact)]
    rule, is_zero = jvp_of_custom_call(equation, [k not in moving for k in operands])
    numbers = (k for k in range(number) if not is_zero[k])
    tangent_of = {k: number + place for place, k in enumerate(numbers)}
    of_tangents = [(tangent_of[k], axis) for k, axis in wanted if k in tangent_of]
    body = plan.inner(equation.params["call_jaxpr"], atoms, wanted)
    # The operand that an input of the rule is, or is the tangent of.
    operand_of = [*operands, *moving]
    # Rules that call their own function would otherwise be planned without end.
    like = [atoms[k] for k in operand_of]
    derivative = plan.inner(rule, like, wanted + of_tangents, with_rules=False)
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

    return step_of(equation, reads, wanted, lambda index, values: call(index, *values))


def cut_cond(plan: Plan, equation: JaxprEqn, wanted: list[Place]) -> Step:
    """A choice between branches; what it is made by must not vary."""
    operands = equation.invars[1:]
    bodies = [plan.inner(b, operands, wanted) for b in equation.params["branches"]]
    places = list(dict.fromkeys(place for body in bodies for place in body.inputs))

    def run(index: jax.Array, values: list[Any]) -> Sequence[Any]:
        def branch(body: Plan) -> Callable[..., list[Any]]:
            return lambda *operands: body.evaluate(index, dict(zip(places, operands)))

        results: Sequence[Any] = lax.switch(values[0], list(map(branch, bodies)), *values[1:])
        return results

    reads: list[Place] = [(0, None), *((k + 1, axis) for k, axis in places)]
    return step_of(equation, reads, wanted, run)


def cut_scan(plan: Plan, equation: JaxprEqn, wanted: list[Place]) -> Step:
    """A scan along any axis except that of the elements."""
    params, atoms = equation.params, equation.invars
    num_consts, num_carry = scan_lengths(equation)
    num_fixed = num_consts + num_carry
    # A scan is over the leading axis, which one step does not have.
    down = lambda places: [(k, None if a is None else a - 1) for k, a in places]
    stacked = [(k, axis) for k, axis in wanted if k >= num_carry]
    if any(axis == 0 for _, axis in stacked):
        raise NotElementwise("scan across the elements")
    like = [*atoms[:num_consts], *equation.outvars[:num_carry], *atoms[num_fixed:]]
    carry, body = _loop(
        partial(plan.inner, params["jaxpr"], like),
        range(num_consts, num_fixed),
        _fixed(plan, equation.outvars[:num_carry]),
        wanted,
        down(stacked),
    )
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
    return step_of(equation, [*consts, *into, *up], [*carry, *stacked], run)


def cut_while(plan: Plan, equation: JaxprEqn, wanted: list[Place]) -> Step:
    """A loop whose condition must not vary."""
    params, atoms, results = equation.params, equation.invars, equation.outvars
    num_test, num_body = params["cond_nconsts"], params["body_nconsts"]
    num_consts = num_test + num_body
    like = [*atoms[num_test:num_consts], *results]
    carry, body = _loop(
        partial(plan.inner, params["body_jaxpr"], like),
        range(num_body, len(like)),
        _fixed(plan, results),
        wanted,
        [],
    )
    test = plan.inner(params["cond_jaxpr"], [*atoms[:num_test], *results], [(0, None)])
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
    return step_of(equation, reads, carry, run)


def _fixed(plan: Plan, carried: Sequence[Var]) -> list[int]:
    """The numbers of carried arrays that do not vary."""
    return [k for k, variable in enumerate(carried) if not plan.varies(variable)]


def _loop(
    inner: Callable[[list[Place]], Plan],
    carried: range,
    fixed: Collection[int],
    wanted: Sequence[Place],
    others: Sequence[Place],
) -> tuple[list[Place], Plan]:
    """What a loop carries, each array cut along one axis, and the plan for its body.

    :param inner: maps outputs of the body to the plan for them.
    :param carried: the numbers of the carried arrays among the inputs of the body.
    :param fixed: the numbers, from 0 on, of carried arrays that do not vary.
    :param others: outputs of the body that are not carried.
    """
    axes: dict[int, Axis] = dict.fromkeys(fixed)

    def carry(places: Iterable[Place]) -> bool:
        before = len(axes)
        for k, axis in places:
            if k not in fixed and axes.setdefault(k, axis) != axis:
                raise NotElementwise("a loop that carries elements along two axes")
        return len(axes) > before

    carry((k, axis) for k, axis in wanted if k < len(carried))
    while True:
        body = inner([*axes.items(), *others])
        if not carry((k - carried.start, axis) for k, axis in body.inputs if k in carried):
            return list(axes.items()), body
