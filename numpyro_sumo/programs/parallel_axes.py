"""Which axes of its operands each JAX primitive treats entry by entry.

An axis of an operand is parallel if it has a counterpart in the result such that entry i of the
result is computed from entry i of the operand, by the same rule for every i. A rule maps an
equation to one dict for each operand: from its parallel axes to their counterparts, which all
results share. Axes of length one may be repeated. An axis that is left out is never wrong; it only
proves less.
"""

from collections.abc import Callable, Collection
import math

from jax.extend.core import JaxprEqn

from .jaxprs import shape_of

Axes = dict[int, int]
Rule = Callable[[JaxprEqn], list[Axes]]


def parallel_axes(equation: JaxprEqn) -> list[Axes] | None:
    """The parallel axes of each operand of an equation; None if its primitive is not known."""
    rule = RULES.get(equation.primitive.name)
    return None if rule is None else rule(equation)


def _shape(equation: JaxprEqn, operand: int = 0) -> tuple[int, ...]:
    return shape_of(equation.invars[operand])


def _result_shape(equation: JaxprEqn) -> tuple[int, ...]:
    return shape_of(equation.outvars[0])


def _first_only(equation: JaxprEqn, axes: Axes) -> list[Axes]:
    """The axes of the first operand; the others have no parallel ones."""
    return [axes, *({} for _ in equation.invars[1:])]


def _without(ndim: int, mixed: Collection[int]) -> Axes:
    """All axes except those that an operation mixes; they keep their places."""
    return {axis: axis for axis in range(ndim) if axis not in mixed}


def _elementwise(equation: JaxprEqn) -> list[Axes]:
    ndim = len(_result_shape(equation))
    ndims = [len(shape_of(operand)) for operand in equation.invars]
    return [_without(ndim, ()) if each == ndim else {} for each in ndims]


def _broadcast_in_dim(equation: JaxprEqn) -> list[Axes]:
    return _first_only(equation, dict(enumerate(equation.params["broadcast_dimensions"])))


def _reshape(equation: JaxprEqn) -> list[Axes]:
    """An axis survives if its length and the number of entries that a step passes do."""
    if equation.params.get("dimensions") is not None:
        return _first_only(equation, {})
    results = {step: axis for axis, step in enumerate(_steps(_result_shape(equation)))}
    operand = enumerate(_steps(_shape(equation)))
    return _first_only(equation, {a: results[step] for a, step in operand if step in results})


def _steps(shape: tuple[int, ...]) -> list[tuple[int, int]]:
    """The length of each axis, and the number of entries that one step along it passes."""
    return [(length, math.prod(shape[axis + 1 :])) for axis, length in enumerate(shape)]


def _remove(equation: JaxprEqn, removed: Collection[int]) -> list[Axes]:
    kept = [axis for axis in range(len(_shape(equation))) if axis not in removed]
    return _first_only(equation, {axis: place for place, axis in enumerate(kept)})


def _transpose(equation: JaxprEqn) -> list[Axes]:
    return [{old: new for new, old in enumerate(equation.params["permutation"])}]


def _apart_from(parameter: str) -> Rule:
    """A rule for operations along the axes that a parameter names."""

    def rule(equation: JaxprEqn) -> list[Axes]:
        named = equation.params[parameter]
        axes = named if isinstance(named, tuple) else (named,)
        ndim = len(_shape(equation))
        mixed = {axis % ndim for axis in axes}
        return [_without(ndim, mixed) for _ in equation.invars]

    return rule


def _slice(equation: JaxprEqn) -> list[Axes]:
    params, shape = equation.params, _shape(equation)
    strides = params["strides"] or (1,) * len(shape)
    taken = list(zip(params["start_indices"], params["limit_indices"], strides))
    whole = [(0, length, 1) for length in shape]
    return [{axis: axis for axis in range(len(shape)) if taken[axis] == whole[axis]}]


def _dynamic_slice(equation: JaxprEqn) -> list[Axes]:
    """A slice as long as its axis takes all of it: starts are clamped."""
    lengths = zip(_shape(equation), _result_shape(equation))
    return _first_only(equation, {a: a for a, (old, new) in enumerate(lengths) if old == new})


def _dynamic_update_slice(equation: JaxprEqn) -> list[Axes]:
    lengths = enumerate(zip(_shape(equation), _shape(equation, 1)))
    axes = {axis: axis for axis, (old, new) in lengths if old == new}
    return [axes, axes, *({} for _ in equation.invars[2:])]


def _pad(equation: JaxprEqn) -> list[Axes]:
    config = enumerate(equation.params["padding_config"])
    return [{axis: axis for axis, padding in config if tuple(padding) == (0, 0, 0)}, {}]


def _reduce_window(equation: JaxprEqn) -> list[Axes]:
    params = equation.params
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    by_axis = enumerate(zip(*(params[name] for name in names)))
    trivial = (1, 1, (0, 0), 1, 1)
    return _first_only(equation, {axis: axis for axis, window in by_axis if window == trivial})


def _dot_general(equation: JaxprEqn) -> list[Axes]:
    contracted, batch = equation.params["dimension_numbers"]
    maps: list[Axes] = [{axis: place for place, axis in enumerate(axes)} for axes in batch]
    place = len(batch[0])
    for operand in range(2):
        for axis in range(len(_shape(equation, operand))):
            if axis not in contracted[operand] and axis not in batch[operand]:
                maps[operand][axis] = place
                place += 1
    return maps


def _convolution(equation: JaxprEqn) -> list[Axes]:
    numbers, params = equation.params["dimension_numbers"], equation.params
    alone = params["batch_group_count"] == 1
    return _first_only(equation, {numbers.lhs_spec[0]: numbers.out_spec[0]} if alone else {})


def _gather(equation: JaxprEqn) -> list[Axes]:
    numbers, slice_sizes = equation.params["dimension_numbers"], equation.params["slice_sizes"]
    dropped = {*numbers.collapsed_slice_dims, *numbers.operand_batching_dims}
    kept = [axis for axis in range(len(slice_sizes)) if axis not in dropped]
    shape, places = _shape(equation), range(len(_result_shape(equation)))
    slices = {
        axis: place
        for axis, place in zip(kept, numbers.offset_dims)
        if slice_sizes[axis] == shape[axis]
    }
    # The last axis of the indices holds the coordinates; the others become axes of the result.
    indices = dict(enumerate(place for place in places if place not in numbers.offset_dims))
    batched = zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims)
    return [slices | {axis: indices[batch] for axis, batch in batched}, indices]


def _scatter(equation: JaxprEqn) -> list[Axes]:
    """Axes that every update covers as a whole, and those of a batch of scatters."""
    numbers, shape = equation.params["dimension_numbers"], _shape(equation)
    updates = _shape(equation, 2)
    dropped = {*numbers.inserted_window_dims, *numbers.operand_batching_dims}
    window = [axis for axis in range(len(shape)) if axis not in dropped]
    moved = {*numbers.scatter_dims_to_operand_dims}
    covered = {
        place: axis
        for axis, place in zip(window, numbers.update_window_dims)
        if updates[place] == shape[axis] and axis not in moved
    }
    # The other axes of the updates are those of the indices, whose last one holds coordinates.
    places = [axis for axis in range(len(updates)) if axis not in numbers.update_window_dims]
    pairs = zip(numbers.scatter_indices_batching_dims, numbers.operand_batching_dims)
    indices = dict(pairs)
    covered |= {places[batch]: axis for batch, axis in indices.items()}
    return [{axis: axis for axis in covered.values()}, indices, covered]


def _linear_algebra(event_dim: int) -> Rule:
    """A rule for operations on the last axes, with leading batch axes that all operands share."""

    def rule(equation: JaxprEqn) -> list[Axes]:
        batch_dim = len(_shape(equation)) - event_dim
        return [_without(batch_dim, ()) for _ in equation.invars]

    return rule


def _triangular_solve(equation: JaxprEqn) -> list[Axes]:
    """The right-hand sides, columns or rows of the second operand, are solved one by one."""
    matrix, sides = _linear_algebra(2)(equation)
    ndim = len(_shape(equation))
    apart = ndim - 1 if equation.params["left_side"] else ndim - 2
    return [matrix, sides | {apart: apart}]


def _stack(equation: JaxprEqn) -> list[Axes]:
    """The operands become entries along a new axis."""
    new, ndim = equation.params["axis"], len(_shape(equation))
    return [{axis: axis + (axis >= new) for axis in range(ndim)} for _ in equation.invars]


def _of_keys(equation: JaxprEqn) -> list[Axes]:
    """Leading axes of random numbers are those of their keys; parameters have all axes."""
    ndim = len(_result_shape(equation))
    keys = {axis: axis for axis in range(len(_shape(equation)))}
    return [keys, *(_without(ndim, ()) for _ in equation.invars[1:])]


_ELEMENTWISE = """
    abs acos acosh add add_any and asin asinh atan atan2 atanh bessel_i0e bessel_i1e
    bitcast_convert_type cbrt ceil clamp clz complex conj convert_element_type copy copy_p cos
    cosh digamma div eq eq_to erf erf_inv erfc exp exp2 expm1 floor ge gt igamma igamma_grad_a
    igammac imag integer_pow is_finite le le_to lgamma log log1p log2 logistic lt lt_to max min
    mul mulhi name ne neg nextafter not one_minus_square or polygamma polynomial
    population_count pow random_gamma_grad real reduce_precision regularized_incomplete_beta rem
    round rsqrt select_n sharding_constraint shift_left shift_right_arithmetic
    shift_right_logical sign sin sinh sqrt square stop_gradient sub tan tanh xor zeta
"""

_REDUCTIONS = """
    argmax argmin reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum reduce_xor
"""

RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE.split(), _elementwise),
    **dict.fromkeys(_REDUCTIONS.split(), lambda e: _remove(e, e.params["axes"])),
    **dict.fromkeys(
        ["cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum", "split", "top_k"],
        _apart_from("axis"),
    ),
    **dict.fromkeys(["concatenate", "sort"], _apart_from("dimension")),
    **dict.fromkeys(
        ["scatter", "scatter-add", "scatter-max", "scatter-min", "scatter-mul"], _scatter
    ),
    **dict.fromkeys(
        ["reduce_window_max", "reduce_window_min", "reduce_window_sum"], _reduce_window
    ),
    **dict.fromkeys(
        ["cholesky", "eigh", "householder_product", "lu", "qr", "svd"],
        _linear_algebra(2),
    ),
    "broadcast_in_dim": _broadcast_in_dim,
    "conv_general_dilated": _convolution,
    "dot_general": _dot_general,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "lu_pivots_to_permutation": _linear_algebra(1),
    "fft": lambda e: _linear_algebra(len(e.params["fft_lengths"]))(e),
    "gather": _gather,
    "pad": _pad,
    "random_bits": _of_keys,
    "random_gamma": _of_keys,
    "reshape": _reshape,
    "rev": _apart_from("dimensions"),
    "slice": _slice,
    "squeeze": lambda e: _remove(e, e.params["dimensions"]),
    "stack": _stack,
    "tile": lambda e: _first_only(e, {a: a for a, n in enumerate(e.params["reps"]) if n == 1}),
    "transpose": _transpose,
    "triangular_solve": _triangular_solve,
    "unstack": lambda e: _remove(e, [e.params["axis"]]),
}
