"""Model and guide run for one element of the data, so that each has its own stopping time."""

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.primitives import Messenger

from .data_axes import checked_axes, element_of
from .independence import why_not_elementwise, why_numbers_differ
from .programs import Programs, with_fixed_subsample
from .sites import JOINT, Program, scale_of
from .validation import Inspection, inspect_programs, known_scale


@dataclass(frozen=True)
class Elements:
    """Model and guide, and the elements of the data that they can be run for one at a time.

    Data are numbered: all elements of the first estimate, then those of the next.

    :param programs: as they were written, for all elements together.
    :param plate_key: of the subsamples; every estimate has its own.
    :param num_estimates: how many estimates there are.
    :param size: number of elements; one if the programs are run as they are.
    :param data_dims: batch dimensions (negative) over which one run keeps weights apart.
    :param plate: name of the plate that is cut down to one index, or None.
    :param dim: its batch dimension, or None where there is no such plate.
    :param full_size: the number of elements that the plate is subsampled from.
    :param indices: of the subsampled plate's elements, shape ``(num_estimates, size)``, or None.
    :param data_axes: axes along which arguments are split: a pytree like them, of integers and
        None; None where they are not split.
    :param why_shared: why all elements share their stopping time, in words, or None.
    :param is_linear: whether an estimate is one log-weight; see :func:`inspect_programs`.
    """

    programs: Programs
    plate_key: jax.Array
    num_estimates: int = 1
    size: int = 1
    data_dims: frozenset[int] = JOINT
    plate: str | None = None
    dim: int | None = None
    full_size: int = 1
    indices: jax.Array | None = None
    data_axes: Any = None
    why_shared: str | None = None
    is_linear: bool = False

    @property
    def are_split(self) -> bool:
        """Whether the programs are run for one element at a time."""
        return self.plate is not None or self.data_axes is not None

    @property
    def axis(self) -> int | None:
        """Where the weights of one run have an axis of length one in place of the elements."""
        return None if self.dim is None else sorted(self.data_dims).index(self.dim)

    def programs_of(self, datum: jax.Array) -> Programs:
        """The programs for one datum: with its estimate's subsample, for its element alone."""
        estimate, element = self._place(datum)
        key = random.fold_in(self.plate_key, estimate)

        def cut(program: Program) -> Program:
            program = with_fixed_subsample(key, program)
            if self.plate is None:
                return program
            index = element if self.indices is None else self.indices[estimate, element]
            return at_index(program, self.plate, index, self.full_size, self.size)

        programs = self.programs
        return programs.replace(
            model=cut(programs.model), guide=cut(programs.guide), args=self._arguments(element)
        )

    def _place(self, datum: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The estimate that a datum belongs to, and its element."""
        if self.num_estimates == 1:
            return jnp.zeros_like(datum), datum
        return lax.div(datum, jnp.int32(self.size)), lax.rem(datum, jnp.int32(self.size))

    def _arguments(self, element: jax.Array) -> tuple[Any, ...]:
        """The arguments for one element: of a plate, with an axis of length one in its place."""
        if self.data_axes is None:
            return self.programs.args
        keep_axes = self.dim is not None
        return element_of(self.programs.args, self.data_axes, element, keep_axes=keep_axes)

    def inspect(self) -> Inspection:
        """Traces the programs for one datum, and checks them."""
        return inspect_programs(self.programs_of, self.plate_key, self.is_linear)


class at_index(Messenger):
    """Handler: run a program with one index of a plate, keeping the scale of the full batch.

    :param full_size: the number of elements that the plate is subsampled from.
    :param size: the number of elements in the batch.
    """

    def __init__(self, program: Program, plate: str, index: jax.Array, full_size: int, size: int):
        super().__init__(program)
        self.plate, self.index = plate, index
        self.full_size, self.size = full_size, size

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate" and msg["name"] == self.plate:
            self.declared_size, _ = msg["args"]
            # With plate size len(x) and a batch of one, the plate has size 1: use index 0.
            index = self.index if self.declared_size > 1 else jnp.zeros_like(self.index)
            msg["args"], msg["value"] = (self.full_size, 1), index[None]
        elif msg["type"] == "sample" and any(
            frame.name == self.plate for frame in msg["cond_indep_stack"]
        ):
            # The plate has multiplied the scale by its declared size.
            msg["scale"] = scale_of(msg) / self.declared_size * (self.full_size / self.size)


def find_elements(
    whole: Elements, data_axes: Any = None, apart: bool = True
) -> tuple[Elements, Inspection]:
    """Checks model and guide, and finds what they can be run for one at a time.

    These are what ``data_axes`` point at in the arguments; or, without it, the elements of a
    subsampled plate that encloses all sites, if model and guide follow its indices.

    :param whole: the programs as they are written.
    :param data_axes: as ``in_axes`` of :func:`jax.vmap`, for the positional arguments.
    :param apart: whether to run the elements of a subsampled plate one at a time, where possible.
    :return: the elements, and the programs as they were traced for one datum.
    :raises ValueError: if model and guide do not match, or ``data_axes`` the arguments.
    """
    if data_axes is not None:
        axes, size = checked_axes(data_axes, whole.programs.args)
        return _split_arguments(whole, axes, size)
    found = whole.inspect()
    why_shared = None
    if apart:
        for frame in _by_dim(found):
            if frame.size == 1:
                continue
            shared = f"the {frame.size} elements of plate '{frame.name}' share one: "
            if found.has_mutable_state:
                why_shared = shared + "the programs have mutable state"
            elif found.full_size(frame) == frame.size:
                why_shared = shared + "it is not subsampled"
            elif frame.name not in found.guide.trace:
                why_shared = shared + "the guide does not have it"
            else:
                at_estimate = lambda i: found.guide.indices(i, frame.name, whole.plate_key)  # noqa: B023
                indices = jax.vmap(at_estimate)(jnp.arange(whole.num_estimates, dtype=jnp.int32))
                elements = replace(_of_plate(whole, found, frame), indices=indices)
                one, why_not = _inspect_plate(elements, found)
                if one is not None and why_not is None:
                    why_not = _why_not_apart(elements, found, one)
                    if why_not is None:
                        return elements, one
                why_shared = shared + str(why_not)
    return replace(whole, data_dims=found.data_dims, why_shared=why_shared), found


def _why_not_apart(elements: Elements, whole: Inspection, one: Inspection) -> str | None:
    """Why a run for one element may differ from one for all, in words; None if proven equal."""
    plate: Any = elements.plate, elements.dim
    for program in ("guide", "model"):
        of_all, of_one = (getattr(found, program).batch(*plate) for found in (whole, one))
        why_not = why_not_elementwise(of_all, elements.size)
        why_not = why_not or why_numbers_differ(of_all, of_one, elements.size)
        if why_not is not None:
            return f"the {program} has {why_not}"
    return None


def _by_dim(found: Inspection) -> list[Any]:
    """The data plates, the outermost first."""
    return sorted(found.data_plates, key=lambda frame: int(frame.dim))


def _of_plate(whole: Elements, found: Inspection, frame: Any) -> Elements:
    """The elements of a data plate."""
    return replace(
        whole,
        size=frame.size,
        data_dims=found.data_dims,
        plate=frame.name,
        dim=frame.dim,
        full_size=found.full_size(frame),
    )


def _inspect_plate(elements: Elements, whole: Inspection) -> tuple[Inspection | None, str | None]:
    """The programs traced for one element, and why the plate cannot be split, or None."""
    try:
        one = elements.inspect()
    except Exception as error:  # programs that fail for one element do not follow the plate
        cause = str(error).partition("\n")[0] or type(error).__name__
        return None, f'run for one element, they raise "{cause.rstrip(".")}"'
    site = _misfit(elements, whole, one)
    if site is None:
        return one, None
    return one, f"site '{site}' does not have the shape and scale of one element"


def _split_arguments(whole: Elements, data_axes: Any, size: int) -> tuple[Elements, Inspection]:
    """The elements that split arguments have: those of a plate, or data by themselves."""
    by_themselves = replace(whole, size=size, data_axes=data_axes)

    def inspect_one() -> tuple[Elements, Inspection]:
        one = _without_mutable_state(by_themselves.inspect())
        return replace(by_themselves, data_dims=one.data_dims), one

    try:
        found = whole.inspect()
    except Exception:
        # A program written for one datum may fail on a batch. Raise only if it also fails on one.
        with suppress(Exception):
            return inspect_one()
        raise
    _without_mutable_state(found)
    misfits = {}
    for frame in _by_dim(found):
        if frame.size == size:
            elements = replace(_of_plate(whole, found, frame), data_axes=data_axes)
            one, misfits[frame.name] = _inspect_plate(elements, found)
            if one is not None and misfits[frame.name] is None:
                if size > 1:
                    return elements, one
                return replace(whole, data_dims=found.data_dims), found
    try:
        elements, one = inspect_one()
    except Exception:
        _refuse_misfits(misfits, size)
        _refuse_plates_of_arguments(by_themselves, found, None)
        raise
    # A plate that keeps its size when run for one datum is inside it (pixels, for example).
    within = _plate_sizes(one)
    _refuse_misfits({n: site for n, site in misfits.items() if within.get(n) != size}, size)
    _refuse_plates_of_arguments(by_themselves, found, one)
    return elements, one


def _refuse_misfits(misfits: dict[str, Any], size: int) -> None:
    for name, cause in misfits.items():
        raise ValueError(
            f"Expected programs that can be run for one of the {size} elements of plate '{name}', "
            f"which data_axes splits; {cause}. Split all arguments that have its elements, and "
            "write no length or scale of the batch as a number."
        )


def _misfit(elements: Elements, whole: Inspection, found: Inspection) -> str | None:
    """A site whose shape or scale is not that of one element; None if there is none."""

    dim: int = elements.dim  # type: ignore[assignment]  # these are elements of a plate

    def shapes(site: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
        return site["fn"].batch_shape, jnp.shape(scale_of(site)), jnp.shape(site["value"])

    def cut(shape: tuple[int, ...], dim: int) -> tuple[int, ...]:
        follows = len(shape) >= -dim and shape[dim] == elements.size
        return shape[:dim] + (1,) + shape[len(shape) + dim + 1 :] if follows else shape

    one = found.sample_sites
    for key in one.keys() ^ whole.sample_sites.keys():
        return key[1]
    for key, site in whole.sample_sites.items():
        event_dims = (0, 0, site["fn"].event_dim)
        expected = tuple(cut(s, dim - n) for s, n in zip(shapes(site), event_dims))
        scales = [known_scale(scale_of(each)) for each in (one[key], site)]
        if shapes(one[key]) != expected or not _agree(*scales):
            return key[1]
    return None


def _agree(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    """Whether two scales are the same, if they are known and single numbers."""
    if one is None or other is None or one.size * other.size > 1:
        return True
    return bool(np.isclose(one, other, rtol=1e-5))


def _refuse_plates_of_arguments(
    elements: Elements, whole: Inspection, one: Inspection | None
) -> None:
    """Refuses programs with a plate over the split axis that does not enclose all sites.

    Without that axis they would define another density.

    :param one: the inspection for one datum; None if they could not be run.
    """
    programs, size = elements.programs, elements.size
    kept = element_of(programs.args, elements.data_axes, jnp.array(0), keep_axes=True)
    batch_of_one = replace(elements, size=1, data_axes=None, programs=programs.replace(args=kept))
    sizes: dict[str, int] = {}
    with suppress(Exception):  # written for one datum, they need not run for a batch of one
        sizes = _plate_sizes(batch_of_one.inspect())
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


def _has_axis(site: dict[str, Any], frame: Any) -> bool:
    """Whether the value of a site has the elements of a plate, and is not the same for all."""
    shape, dim = jnp.shape(site["value"]), frame.dim - site["fn"].event_dim
    return len(shape) >= -dim and bool(shape[dim] == frame.size)


def _plate_sizes(found: Inspection) -> dict[str, int]:
    return {
        frame.name: frame.size
        for site in found.sample_sites.values()
        for frame in site["cond_indep_stack"]
    }


def _without_mutable_state(found: Inspection) -> Inspection:
    """What was found, if running it for one element has no effect on the others."""
    if found.has_mutable_state:
        raise ValueError(
            "Expected model and guide without mutable state, for data_axes runs them for one "
            "element at a time. Leave data_axes out."
        )
    return found
