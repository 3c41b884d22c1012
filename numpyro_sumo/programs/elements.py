"""Model and guide run for one element of the data, so that each can have draws of its own."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

import jax
import jax.numpy as jnp

from numpyro.primitives import Messenger

from .data_axes import checked_axes, element_of
from .programs import Programs
from .sites import JOINT, scale_of
from .validation import inspect_programs, known_scale


class Elements(NamedTuple):
    """How programs written for many elements of the data are run for one of them.

    :param size: number of elements; one if programs are run as they are.
    :param data_dims: batch dimensions (negative) over which a run keeps weights apart.
    :param plate: name of the plate that is cut down to one index, or None.
    :param dim: its batch dimension, or None where there is no such plate.
    :param full_size: the number of elements that the plate was subsampled from.
    :param data_axes: axes along which arguments are split: a pytree like them, of integers and
        None; None where they are not split.
    """

    size: int
    data_dims: frozenset[int]
    plate: str | None = None
    dim: int | None = None
    full_size: int = 1
    data_axes: Any = None

    @property
    def are_split(self) -> bool:
        """Whether programs are run otherwise than as they are."""
        return self.plate is not None or self.data_axes is not None

    @property
    def axis(self) -> int | None:
        """Where one run's weights have an axis of length one in place of the elements."""
        return None if self.dim is None else sorted(self.data_dims).index(self.dim)

    def program(self, program: Callable, index: jax.Array | None) -> Callable:
        """The program for the element with this index in its plate."""
        if self.plate is None or index is None:
            return program
        return at_index(program, self.plate, index, self.full_size, self.size)

    def arguments(self, args: tuple, element: jax.Array) -> tuple:
        """The arguments for one element: of a plate, with an axis of length one in its place."""
        if self.data_axes is None:
            return args
        return element_of(args, self.data_axes, element, keep_axes=self.dim is not None)


class at_index(Messenger):
    """A program of whose plate one index alone is left, scaled as with all of them.

    :param full_size: the number of elements that the plate was subsampled from, and ``size`` the
        number of those that were taken.
    """

    def __init__(self, program: Callable, plate: str, index: jax.Array, full_size: int, size: int):
        super().__init__(program)
        self.plate, self.index = plate, index
        self.full_size, self.size = full_size, size

    def process_message(self, msg):
        if msg["type"] == "plate" and msg["name"] == self.plate:
            self.declared_size, _ = msg["args"]
            # A plate as long as its data has one element already, the first of what it is given.
            index = self.index if self.declared_size > 1 else jnp.zeros_like(self.index)
            msg["args"], msg["value"] = (self.full_size, 1), index[None]
        elif msg["type"] == "sample" and any(
            frame.name == self.plate for frame in msg["cond_indep_stack"]
        ):
            # The plate has scaled one element up to as many as it was declared with.
            msg["scale"] = scale_of(msg) / self.declared_size * (self.full_size / self.size)


def find_elements(programs: Programs, data_axes: Any = None, one_by_one: bool = True) -> Elements:
    """Checks model and guide, and finds what they can be run for one at a time.

    These are what ``data_axes`` point at in the arguments; or, without it, the elements of a
    subsampled plate that encloses all sites, if model and guide follow its indices.

    :param data_axes: as ``in_axes`` of :func:`jax.vmap`, for the positional arguments.
    :param one_by_one: whether the elements of a subsampled plate are wanted one at a time.
    :raises ValueError: if model and guide do not fit each other, or ``data_axes`` the arguments.
    """
    if data_axes is not None:
        return _split_arguments(programs, *checked_axes(data_axes, programs.args))
    whole = inspect_programs(programs)
    if one_by_one and not _has_mutable_state(whole):
        for frame in _by_dim(whole):
            in_guide = frame.name in whole.guide_trace
            if whole.full_size(frame) > frame.size > 1 and in_guide:
                elements, misfit = _of_plate(frame, whole, programs)
                if misfit is None:
                    return elements
    return Elements(1, whole.data_dims)


def _by_dim(whole):
    """The data plates, the outermost first."""
    return sorted(whole.data_plates, key=lambda frame: frame.dim)


def _split_arguments(programs, data_axes, size):
    """The elements that split arguments have: those of a plate, or data by themselves."""
    by_themselves = Elements(size, JOINT, data_axes=data_axes)
    first = by_themselves.arguments(programs.args, jnp.array(0))
    inspect_one = lambda: _without_mutable_state(inspect_programs(programs.replace(args=first)))
    try:
        whole = inspect_programs(programs)
    except Exception:
        # Written for one datum they need not run for many; but an error in both is one of theirs.
        with suppress(Exception):
            return by_themselves._replace(data_dims=inspect_one().data_dims)
        raise
    _without_mutable_state(whole)
    misfits = {}
    for frame in _by_dim(whole):
        if frame.size == size:
            elements, misfits[frame.name] = _of_plate(frame, whole, programs, data_axes)
            if misfits[frame.name] is None:
                return elements if size > 1 else Elements(1, whole.data_dims)
    try:
        one = inspect_one()
    except Exception:
        _refuse_misfits(misfits, size)
        _refuse_plates_of_arguments(whole, None, programs, data_axes, size)
        raise
    # A plate that is as long for one datum is within the data, and not over them.
    within = _plate_sizes(one)
    _refuse_misfits({n: site for n, site in misfits.items() if within.get(n) != size}, size)
    _refuse_plates_of_arguments(whole, one, programs, data_axes, size)
    return by_themselves._replace(data_dims=one.data_dims)


def _refuse_misfits(misfits, size):
    for name, site in misfits.items():
        raise ValueError(
            f"Expected the sites in plate '{name}', whose {size} elements data_axes splits, to "
            f"follow it; '{site}' does not. Split all arguments that have its elements, and scale "
            "by no number of them."
        )


def _of_plate(frame, whole, programs, data_axes=None):
    """The elements of a plate, and the site that keeps it from being cut, if any."""
    full_size = whole.full_size(frame)
    elements = Elements(
        frame.size, whole.data_dims, frame.name, frame.dim, full_size, data_axes=data_axes
    )
    index = jnp.array(0)
    cut = programs.replace(
        model=elements.program(programs.model, index),
        guide=elements.program(programs.guide, index),
        args=elements.arguments(programs.args, index),
    )
    try:
        found = inspect_programs(cut)
    except Exception:  # programs that cannot be run for one are misfits like those that differ
        return elements, next(iter(whole.sample_sites))[1]
    return elements, _misfit(elements, whole, found)


def _misfit(elements, whole, found):
    """A site that has another shape or scale than one element of it should have, if any."""

    def shapes(site):
        return site["fn"].batch_shape, jnp.shape(scale_of(site)), jnp.shape(site["value"])

    def cut(shape, dim):
        follows = len(shape) >= -dim and shape[dim] == elements.size
        return shape[:dim] + (1,) + shape[len(shape) + dim + 1 :] if follows else shape

    one = found.sample_sites
    for key in one.keys() ^ whole.sample_sites.keys():
        return key[1]
    for key, site in whole.sample_sites.items():
        event_dims = (0, 0, site["fn"].event_dim)
        expected = tuple(cut(s, elements.dim - n) for s, n in zip(shapes(site), event_dims))
        scales = [known_scale(scale_of(each)) for each in (one[key], site)]
        if shapes(one[key]) != expected or not _agree(*scales):
            return key[1]
    return None


def _agree(one, other):
    """Whether two scales are the same, if they are known and single numbers."""
    if one is None or other is None or one.size * other.size > 1:
        return True
    return bool(np.isclose(one, other, rtol=1e-5))


def _refuse_plates_of_arguments(whole, one, programs, data_axes, size):
    """Refuses programs with a plate over what is split that they cannot be cut along.

    Run for one datum without that axis, they would be quite other programs.

    :param one: what was found in them for one datum; None if they could not be run.
    """
    kept = element_of(programs.args, data_axes, jnp.array(0), keep_axes=True)
    sizes: dict[str, int] = {}
    with suppress(Exception):  # written for one datum, they need not run for a batch of one
        sizes = _plate_sizes(inspect_programs(programs.replace(args=kept)))
    for key, site in whole.sample_sites.items():
        of_one = None if one is None else one.sample_sites.get(key)
        for frame in site["cond_indep_stack"]:
            if whole.full_size(frame) == size > frame.size:
                raise ValueError(
                    f"Expected no subsampled plate over what data_axes splits; '{frame.name}' is. "
                    "Leave data_axes out: its elements have stopping times of their own."
                )
            follows = frame.size == size and sizes.get(frame.name) == 1 < size
            lost = of_one is not None and _has_axis(site, frame) > _has_axis(of_one, frame)
            if follows or (site["is_observed"] and lost):
                raise ValueError(
                    f"Expected plate '{frame.name}', over what data_axes splits, to enclose every "
                    "sample site of model and guide; it does not. Move all sites into it, or leave "
                    "data_axes out."
                )


def _has_axis(site, frame):
    """Whether the value of a site has the elements of a plate, and is not the same for all."""
    shape, dim = jnp.shape(site["value"]), frame.dim - site["fn"].event_dim
    return len(shape) >= -dim and shape[dim] == frame.size


def _plate_sizes(found):
    return {
        frame.name: frame.size
        for site in found.sample_sites.values()
        for frame in site["cond_indep_stack"]
    }


def _without_mutable_state(found):
    """What was found, if running it for one element has no effect on the others."""
    if _has_mutable_state(found):
        raise ValueError(
            "Expected model and guide without mutable state, for data_axes runs them for one "
            "element at a time. Leave data_axes out."
        )
    return found


def _has_mutable_state(found):
    traces = (found.model_trace, found.guide_trace)
    return any(site["type"] == "mutable" for each in traces for site in each.values())
