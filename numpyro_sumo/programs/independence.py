"""Proofs, from jaxprs, that element i of a result depends on element i of the batch only.

Elements of a subsampled plate are run one at a time only if that is proven, by the same rule for
every i, and if the constants are the same for one element as for many.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
import hashlib
from typing import Any, NamedTuple

import numpy as np

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var

from .abstract_jaxprs import Interpreter, Traced, bare_jaxpr, shape_of, uniform_axes
from .parallel_axes import RULES, Axes, parallel_axes


def why_not_elementwise(traced: Traced, size: int) -> str | None:
    """Why element i of the outputs may depend on other elements, or on i itself, in words.

    :param size: number of elements: the length of every axis of elements.
    :return: the operation that mixes elements or is not known; None if it is proven that none does.
    """
    known = {variable: _Entries(axis) for variable, axis in traced.axis_of.items()}
    inputs = [known.get(variable, _Entries()) for variable in traced.jaxpr.invars]
    found = _Elements(size).run_traced(traced, inputs, known)
    for entries, (atom, axis) in zip(found, traced.outputs):
        if entries.why_not is not None:
            return entries.why_not
        if shape_of(atom) and not entries.follow(axis, shape_of(atom)):
            return _BY_POSITION if entries.axis is None else "elements along another axis"
    return None


_BY_POSITION = "an array of the batch's length that is not indexed by the plate"


class _Entries(NamedTuple):
    """How the entries of an array depend on the elements.

    :param axis: entry i along this axis depends on element i alone; None if none depends on any.
    :param uniform: axes of an array without such an axis along which all entries are equal.
    :param why_not: why neither is known, in words, or None.
    """

    axis: int | None = None
    uniform: frozenset[int] = frozenset()
    why_not: str | None = None

    def follow(self, axis: int | None, shape: Sequence[int]) -> bool:
        """Whether entry i along an axis depends on element i alone, by the same rule for all i."""
        if self.axis is not None or axis is None:
            return self.axis == axis
        return shape[axis] == 1 or axis in self.uniform

    def moved(self, by: int) -> "_Entries":
        """The same with all axes moved; those that become negative are dropped."""
        axis = None if self.axis is None else self.axis + by
        return self._replace(axis=axis, uniform=frozenset(a + by for a in self.uniform if a >= -by))


def _refused(why_not: str) -> _Entries:
    return _Entries(why_not=why_not)


def _joined(one: _Entries, other: _Entries, shape: Sequence[int]) -> _Entries:
    """What holds for an array that is one of two."""
    for each in (one, other):
        if each.why_not is not None:
            return each
    axis = other.axis if one.axis is None else one.axis
    if one.follow(axis, shape) and other.follow(axis, shape):
        return _Entries(axis, one.uniform & other.uniform)
    return _refused(_BY_POSITION)


class _Elements(Interpreter[_Entries]):
    """Finds how arrays depend on the elements."""

    def __init__(self, size: int):
        self.size = size
        self.control_flow = {"cond": self._cond, "scan": self._scan, "while": self._while}

    def constant(self, const: Any) -> _Entries:
        return _Entries(uniform=frozenset(uniform_axes(const, [self.size])))

    def apply(self, equation: JaxprEqn, values: list[_Entries]) -> Sequence[_Entries]:
        name = equation.primitive.name
        refused = [value for value in values if value.why_not is not None]
        if refused:
            return refused[:1] * len(equation.outvars)
        with suppress(AttributeError, KeyError):  # parameters may change with the version of JAX
            if name in self.control_flow:
                return self.control_flow[name](equation, values)
            maps = parallel_axes(equation)
            if maps is not None:
                return [_followed(equation, values, maps)] * len(equation.outvars)
        if name == "iota":
            others = set(range(len(equation.params["shape"]))) - {equation.params["dimension"]}
            return [_Entries(uniform=frozenset(others))]
        varies = any(value.axis is not None for value in values)
        result = _refused(f"the primitive '{name}' is not known") if varies else _Entries()
        return [result] * len(equation.outvars)

    def _cond(self, equation: JaxprEqn, values: list[_Entries]) -> Sequence[_Entries]:
        branches = [self.run(branch, values[1:]) for branch in equation.params["branches"]]
        results = branches[0]
        for branch in branches[1:]:
            results = _joined_each(results, branch, equation.outvars)
        return results

    def _scan(self, equation: JaxprEqn, values: list[_Entries]) -> Sequence[_Entries]:
        num_consts, num_carry = _scan_lengths(equation)
        consts, others = values[:num_consts], values[num_consts:]
        carry, slices = others[:num_carry], others[num_carry:]
        if any(value.axis == 0 for value in slices):
            return [_refused("scan across the elements")] * len(equation.outvars)
        step = [value.moved(-1) for value in slices]

        def body(carry: Sequence[_Entries]) -> list[_Entries]:
            return self.run(equation.params["jaxpr"], [*consts, *carry, *step])

        carry = _fixed_point(carry, lambda carry: body(carry)[:num_carry], equation.outvars)
        return [*carry, *(value.moved(1) for value in body(carry)[num_carry:])]

    def _while(self, equation: JaxprEqn, values: list[_Entries]) -> Sequence[_Entries]:
        params = equation.params
        for_test, for_body = params["cond_nconsts"], params["body_nconsts"]
        consts, carry = values[for_test : for_test + for_body], values[for_test + for_body :]

        def body(carry: Sequence[_Entries]) -> list[_Entries]:
            return self.run(params["body_jaxpr"], [*consts, *carry])

        carry = _fixed_point(carry, body, equation.outvars)
        (test,) = self.run(params["cond_jaxpr"], [*values[:for_test], *carry])
        return carry if test.why_not is None else [test] * len(carry)


def _scan_lengths(equation: JaxprEqn) -> tuple[int, int]:
    """The numbers of constants and of carried arrays of a scan."""
    if "ft_in" in equation.params:  # JAX 0.12
        consts, carry, _ = equation.params["ft_in"].unpack()
        return len(list(consts)), len(list(carry))
    return equation.params["num_consts"], equation.params["num_carry"]


def _joined_each(
    ones: Sequence[_Entries], others: Sequence[_Entries], variables: Sequence[Var]
) -> list[_Entries]:
    shapes = (shape_of(variable) for variable in variables)
    return [_joined(*each) for each in zip(ones, others, shapes)]


def _fixed_point(
    carry: Sequence[_Entries],
    body: Callable[[Sequence[_Entries]], Sequence[_Entries]],
    variables: Sequence[Var],
) -> list[_Entries]:
    """What holds for the carry of a loop before and after every step."""
    while (following := _joined_each(carry, body(carry), variables)) != carry:
        carry = following
    return following


def _followed(equation: JaxprEqn, values: list[_Entries], maps: list[Axes]) -> _Entries:
    """The result of an equation whose operands have these parallel axes."""
    name = equation.primitive.name
    targets = {axes.get(value.axis) for value, axes in zip(values, maps) if value.axis is not None}
    if None in targets:
        return _refused(f"{name} across the elements")
    if len(targets) > 1:
        return _refused(f"{name} of elements along two axes")
    sources: dict[int, list[bool]] = {}
    for value, axes, atom in zip(values, maps, equation.invars):
        for axis, result in axes.items():
            sources.setdefault(result, []).append(value.follow(axis, shape_of(atom)))
    if targets:
        (target,) = targets
        together = target is not None and all(sources[target])
        return _Entries(target) if together else _refused(_BY_POSITION)
    uniform = {result for result, follow in sources.items() if all(follow)}
    if name == "broadcast_in_dim":
        uniform |= set(range(len(shape_of(equation.outvars[0])))) - sources.keys()
    return _Entries(uniform=frozenset(uniform))


def why_numbers_differ(whole: Traced, one: Traced, size: int) -> str | None:
    """Why a constant may differ between a run for the batch and a run for one element, in words.

    An example is the batch's length. The outputs of both must be the same expressions of the known
    variables and of the inputs, which are matched by their order.

    :param one: as ``whole``, with axes of elements of length one instead of ``size``.
    :return: None if all constants are provably equal.
    """
    shared = {id(const) for const in whole.consts} & {id(const) for const in one.consts}
    expressions = _Expressions(size, shared)
    same = expressions.of_outputs(whole) == expressions.of_outputs(one)
    return None if same else "a number that depends on the batch's length"


#: Primitives that keep all entries in their order, or repeat them along other axes.
_SHAPING = frozenset("broadcast_in_dim copy copy_p reshape sharding_constraint squeeze".split())

#: Primitives whose parameters are understood; all operands' shapes count in others.
_KNOWN = frozenset([*RULES, "iota", "cond", "scan", "while"])

#: Parameters that have no effect on numbers, or are lengths, which are compared apart.
_SHAPES = frozenset(
    """
    broadcast_dimensions limit_indices new_sizes out_sharding shape sharding slice_sizes
    start_indices strides
    """.split()
)

#: Parameters that JAX writes in other ways for an axis of elements of length one. They are compared
#: where no operand varies over elements, and operand by operand in products of matrices.
_AXES = frozenset(["axes", "dimension_numbers", "permutation"])


class _Expressions(Interpreter[int]):
    """Numbers the expressions that occur in jaxprs, such that equal ones have equal numbers.

    :param size: number of elements, by which shapes may differ.
    :param shared: identities of constants that are compared by identity alone.
    """

    def __init__(self, size: int, shared: set[int]):
        self.size, self.shared = size, shared
        self.numbers: dict[tuple[Any, ...], int] = {}
        self.varying: set[int] = set()

    def of_outputs(self, traced: Traced) -> list[int]:
        known = {v: self.number("known", i) for i, v in enumerate(traced.axis_of)}
        inputs = [self.number("input", i) for i in range(len(traced.jaxpr.invars))]
        self.varying |= {known[v] for v, axis in traced.axis_of.items() if axis is not None}
        return self.run_traced(traced, inputs, known)

    def number(self, *expression: Any) -> int:
        return self.numbers.setdefault(expression, len(self.numbers))

    def constant(self, const: Any) -> int:
        if id(const) in self.shared:
            return self.number("constant", id(const))
        try:
            array = np.asarray(const)
        except (TypeError, RuntimeError):  # a traced constant, or a random key
            return self.number("constant", id(const))
        for axis in reversed(uniform_axes(array, [1, self.size])):
            array = array.take(0, axis)
        entries = hashlib.sha256(array.tobytes()).digest()
        return self.number("entries", array.dtype.name, array.shape, entries)

    def apply(self, equation: JaxprEqn, values: list[int]) -> Sequence[int]:
        name = equation.primitive.name
        varies = not self.varying.isdisjoint(values)
        lengths = self._order(equation) if name in _SHAPING else _lengths(equation)
        if name in _SHAPING | {"slice"} and not lengths or name == "transpose" and varies:
            return values[:1]
        left_out = _SHAPES | _AXES if varies else _SHAPES
        params = tuple(
            (key, self._parameter(value))
            for key, value in sorted(equation.params.items())
            if key not in left_out or name not in _KNOWN
        )
        if name == "dot_general":
            contracted, batch = equation.params["dimension_numbers"]
            axes = zip(values, contracted, batch)
            lengths += tuple((c, b) for value, c, b in axes if value not in self.varying)
        if name == "square":  # what NumPyro writes for one element, and ** 2 for many
            name, params = "integer_pow", (("y", "2"),)
        expression = self.number(name, params, lengths, *values)
        results = [self.number("result", expression, i) for i in range(len(equation.outvars))]
        self.varying |= set(results) if varies else set()
        return results

    def _order(self, equation: JaxprEqn) -> tuple[Any, ...]:
        """How an operation changes the axes that are not of elements; empty if it does not."""
        lengths = [shape_of(atom) for atom in (equation.invars[0], equation.outvars[0])]
        before, after = ([n for n in each if n not in (1, self.size)] for each in lengths)
        sources = equation.params.get("broadcast_dimensions")
        if sources is not None:
            # Where each axis comes from, and the lengths of new ones.
            kept = [axis for axis in sources if lengths[1][axis] not in (1, self.size)]
            after = [n for axis, n in enumerate(lengths[1]) if n not in (1, self.size)]
            new = len(after) - len(kept)
            return (tuple(sources), tuple(after)) if new else ()
        return () if before == after else (tuple(before), tuple(after))

    def _parameter(self, value: Any) -> Any:
        """A parameter as something to compare; a jaxpr as the expressions of its outputs."""
        if isinstance(value, Jaxpr | ClosedJaxpr):
            inputs = [self.number("input", i) for i in range(len(bare_jaxpr(value).invars))]
            return tuple(self.run(value, inputs))
        if isinstance(value, tuple | list):
            return tuple(self._parameter(each) for each in value)
        return repr(value)


def _lengths(equation: JaxprEqn) -> tuple[Any, ...]:
    """The lengths that the entries of an equation's results depend on."""
    name, params = equation.primitive.name, equation.params
    if name not in _KNOWN:
        # What is not known may depend on anything.
        return tuple(shape_of(atom) for atom in equation.invars)
    if name == "iota":
        return (params["shape"][params["dimension"]],)
    shape = shape_of(equation.invars[0]) if equation.invars else ()
    if name == "slice":
        strides = params["strides"] or (1,) * len(shape)
        slices = zip(params["start_indices"], params["limit_indices"], strides)
        return tuple(each for each, length in zip(slices, shape) if each != (0, length, 1))
    if name in ("dynamic_slice", "gather"):
        batched = getattr(params.get("dimension_numbers"), "operand_batching_dims", ())
        taken = enumerate(zip(params["slice_sizes"], shape))
        return tuple((a, *each) for a, each in taken if each[0] != each[1] and a not in batched)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        return tuple(shape[axis] for axis in contracted)
    if name == "stack":  # along a new axis
        return ()
    named = params.get("axes", params.get("axis", params.get("dimension", ())))
    axes = named if isinstance(named, tuple) else (named,)
    return tuple((axis, shape[axis]) for axis in axes if axis < len(shape) and shape[axis] > 1)
