"""Model and guide run for one element of the data, so that each can have draws of its own."""

from collections.abc import Callable
from contextlib import suppress
from numbers import Integral
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from numpyro.primitives import CondIndepStackFrame, Messenger

from .inspection import JOINT, inspect_programs
from .sites import Params


class Elements(NamedTuple):
    """How programs written for many elements of the data are run for one of them.

    :param size: number of elements; one if programs are run as they are.
    :param data_dims: batch dimensions (negative) over which a run keeps weights apart.
    :param plate: name of the plate that is cut down to one index, or None.
    :param dim: its batch dimension, or None where there is no such plate.
    :param scale_ratio: how many times larger the scale of one element's run is.
    :param data_axes: axes along which arguments are split: a pytree like them, of integers and
        None; None where they are not split.
    """

    size: int
    data_dims: frozenset[int]
    plate: str | None = None
    dim: int | None = None
    scale_ratio: float = 1.0
    data_axes: Any = None

    @property
    def axis(self) -> int | None:
        """Where one run's weights have an axis of length one in place of the elements."""
        return None if self.dim is None else sorted(self.data_dims).index(self.dim)

    def program(self, program: Callable, index: jax.Array | None) -> Callable:
        """The program for the element with this index in its plate."""
        if self.plate is None or index is None:
            return program
        return at_index(program, self.plate, index)

    def arguments(self, args: tuple, element: jax.Array) -> tuple:
        """The arguments for one element: of a plate, with an axis of length one in its place."""
        if self.data_axes is None:
            return args
        return _element_of(args, self.data_axes, element, keep_axes=self.dim is not None)


def _element_of(args, data_axes, element, keep_axes):
    def cut(axis, leaf):
        if axis is None:
            return leaf
        return jax.lax.dynamic_index_in_dim(leaf, element, axis, keepdims=keep_axes)

    return jax.tree.map(cut, data_axes, args, is_leaf=_is_none)


class at_index(Messenger):
    """A program of whose plate one index alone is left."""

    def __init__(self, program: Callable, plate: str, index: jax.Array):
        super().__init__(program)
        self.plate, self.index = plate, index

    def process_message(self, msg):
        if msg["type"] == "plate" and msg["name"] == self.plate:
            size, _ = msg["args"]
            # A plate as long as its data is as long as one element already.
            if size > 1:
                msg["args"], msg["value"] = (size, 1), self.index[None]


def find_elements(
    model: Callable,
    guide: Callable,
    params: Params,
    args: tuple,
    kwargs: dict,
    data_axes: Any = None,
    one_by_one: bool = True,
) -> Elements:
    """Checks model and guide, and finds what they can be run for one at a time.

    These are what ``data_axes`` point at in the arguments; or, without it, the elements of a
    subsampled plate that encloses all sites, if model and guide follow its indices.

    :param data_axes: as ``in_axes`` of :func:`jax.vmap`, for the positional arguments.
    :param one_by_one: whether the elements of a subsampled plate are wanted one at a time.
    :raises ValueError: if model and guide do not fit each other, or ``data_axes`` the arguments.
    """
    if data_axes is not None:
        return _split_arguments(model, guide, params, kwargs, args, *_checked_axes(data_axes, args))
    whole = inspect_programs(model, guide, params, args, kwargs)
    programs = (model, guide, params, kwargs)
    subsampled = [f for f in whole.data_plates if whole.full_size(f) > f.size > 1]
    if one_by_one and not _has_mutable_state(whole):
        for frame in sorted(subsampled, key=lambda frame: -frame.size):
            with suppress(Exception):  # programs that cannot be cut are run as they are
                elements, misfit = _of_plate(frame, whole, *programs, args)
                if misfit is None:
                    return elements
    return Elements(1, whole.data_dims)


def _split_arguments(model, guide, params, kwargs, args, data_axes, size):
    """The elements that split arguments have: those of a plate, or data by themselves."""
    by_themselves = Elements(size, JOINT, data_axes=data_axes)
    one = by_themselves.arguments(args, jnp.array(0))
    inspect_one = lambda: inspect_programs(model, guide, params, one, kwargs)
    try:
        whole = inspect_programs(model, guide, params, args, kwargs)
    except Exception:
        # Written for one datum they need not run for many; but an error in both is one of theirs.
        with suppress(Exception):
            return by_themselves._replace(data_dims=inspect_one().data_dims)
        raise
    if _has_mutable_state(whole):
        raise ValueError(
            "Expected model and guide without mutable state, for data_axes runs them for one "
            "element at a time. Leave data_axes out."
        )
    programs = (model, guide, params, kwargs)
    misfits = {}
    for frame in whole.data_plates:
        if frame.size == size:
            elements, misfits[frame.name] = _of_plate(frame, whole, *programs, args, data_axes)
            if misfits[frame.name] is None:
                return elements if size > 1 else Elements(1, whole.data_dims)
    for name, site in misfits.items():
        raise ValueError(
            f"Expected the sites in plate '{name}', whose {size} elements data_axes splits, to "
            f"follow it; '{site}' does not. Split all arguments that have its elements."
        )
    _refuse_plates_of_arguments(whole, *programs, args, data_axes, size)
    return by_themselves._replace(data_dims=inspect_one().data_dims)


def _of_plate(frame, whole, model, guide, params, kwargs, args, data_axes=None):
    """The elements of a plate, and the site that keeps it from being cut, if any."""
    elements = Elements(frame.size, whole.data_dims, frame.name, frame.dim, data_axes=data_axes)
    index = jnp.array(0)
    programs = (elements.program(program, index) for program in (model, guide))
    found = inspect_programs(*programs, params, elements.arguments(args, index), kwargs)
    one = CondIndepStackFrame(frame.name, frame.dim, 1)
    ratio = found.full_size(one) * frame.size / whole.full_size(frame)
    return elements._replace(scale_ratio=ratio), _misfit(frame, whole, found)


def _misfit(frame, whole, found):
    """A site that has another shape than one element of it should have, if any."""

    def shapes(site):
        scale = 1.0 if site["scale"] is None else site["scale"]
        return site["fn"].batch_shape, jnp.shape(scale), jnp.shape(site["value"])

    def cut(shape, dim):
        follows = len(shape) >= -dim and shape[dim] == frame.size
        return shape[:dim] + (1,) + shape[len(shape) + dim + 1 :] if follows else shape

    one = {key: shapes(site) for key, site in found.sample_sites.items()}
    for key, site in whole.sample_sites.items():
        event_dims = (0, 0, site["fn"].event_dim)
        expected = tuple(cut(s, frame.dim - n) for s, n in zip(shapes(site), event_dims))
        if one.get(key) != expected:
            return key[1]
    return None


def _refuse_plates_of_arguments(whole, model, guide, params, kwargs, args, data_axes, size):
    """Refuses programs with a plate over what is split that does not enclose all sites.

    Run for one datum without that axis, they would be quite other programs.
    """
    one = _element_of(args, data_axes, jnp.array(0), keep_axes=True)
    sizes: dict[str, int] = {}
    with suppress(Exception):  # written for one datum, they need not run for a batch of one
        sizes = _plate_sizes(inspect_programs(model, guide, params, one, kwargs))
    for name, plate_size in _plate_sizes(whole).items():
        if plate_size == size and sizes.get(name) == 1 < size:
            raise ValueError(
                f"Expected plate '{name}', over what data_axes splits, to enclose every sample "
                "site of model and guide; it does not. Move all sites into it, or leave data_axes "
                "out."
            )


def _plate_sizes(found):
    return {
        frame.name: frame.size
        for site in found.sample_sites.values()
        for frame in site["cond_indep_stack"]
    }


def _has_mutable_state(found):
    traces = (found.model_trace, found.guide_trace)
    return any(site["type"] == "mutable" for each in traces for site in each.values())


def _checked_axes(data_axes: Any, args: tuple) -> tuple[Any, int]:
    """An axis or None for each leaf of the arguments, and the length that all these axes have."""
    if isinstance(data_axes, list):
        data_axes = tuple(data_axes)
    try:
        axes = jax.tree.broadcast(data_axes, args, is_leaf=_is_none)
    except ValueError:
        raise ValueError(
            f"Expected data_axes shaped as the {len(args)} positional arguments, or a prefix of "
            f"that; got {data_axes!r}. Give an integer or None for each argument."
        ) from None
    sizes = {}

    def measure(path, axis, leaf):
        if axis is None:
            return
        where = f"args{jax.tree_util.keystr(path)}"
        if not isinstance(axis, Integral) or isinstance(axis, bool):
            raise ValueError(
                f"Expected data_axes of integers and None; got {axis!r} for {where}. Give the "
                "axis of the data in each argument."
            )
        shape = jnp.shape(leaf) if hasattr(leaf, "shape") else ()
        if not -len(shape) <= axis < len(shape):
            raise ValueError(
                f"Expected {where} to have an axis {axis}, as data_axes says; its shape is "
                f"{shape}. Give None for arguments that are not split."
            )
        sizes[where] = shape[axis]

    jax.tree_util.tree_map_with_path(measure, axes, args, is_leaf=_is_none)
    if not sizes:
        raise ValueError(
            f"Expected data_axes to name an axis of some positional argument; got {data_axes!r} "
            f"for {len(args)} of them. Give the axis of the data, 0 for instance."
        )
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} in {where}" for where, size in sizes.items())
        raise ValueError(
            f"Expected data_axes to have one length; got {listed}. Pass as many data in each."
        )
    return axes, next(iter(sizes.values()))


def _is_none(leaf: Any) -> bool:
    return leaf is None
