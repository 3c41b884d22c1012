"""Model and guide run for one element of the data, so that each has its own stopping time."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from .cut_control_flow import NotElementwise
from .data_axes import checked_axes, element_of, split_leaves, with_leaves
from .one_element import Cut
from .programs import Programs, with_fixed_subsample
from .sites import JOINT, latent_sites
from .validation import Inspection, inspect_programs


@dataclass(frozen=True)
class Elements:
    """Model and guide, and the elements of the data that they can be run for one at a time.

    Data are numbered: all elements of the first estimate, then those of the next.

    :param programs: as they were written, for all elements together.
    :param plate_key: of the subsamples; every estimate has its own.
    :param num_estimates: how many estimates there are.
    :param size: number of elements; one if the programs are run as they are.
    :param data_dims: batch dimensions (negative) over which one run keeps weights apart.
    :param dim: the batch dimension of the plate that is cut down to one element, or None.
    :param indices: of each plate of the guide, shape ``(num_estimates, size)``, by name.
    :param why_shared: why all elements share their stopping time, in words, or None.
    :param is_linear: whether an estimate is one log-weight; see :func:`inspect_programs`.
    """

    programs: Programs
    plate_key: jax.Array
    num_estimates: int = 1
    size: int = 1
    data_dims: frozenset[int] = JOINT
    dim: int | None = None
    indices: dict[str, jax.Array] = field(default_factory=dict)
    why_shared: str | None = None
    is_linear: bool = False

    @property
    def axis(self) -> int | None:
        """Where the weights of one run have an axis of length one in place of the elements."""
        return None if self.dim is None else sorted(self.data_dims).index(self.dim)

    def inspect(self, args: tuple[Any, ...] | None = None, data_axes: Any = None) -> Inspection:
        """Traces the programs as they are written, and checks them.

        :param args: other arguments.
        :param data_axes: arguments that are inputs of the traced programs, with their axes.
        """
        args = self.programs.args if args is None else args

        def programs_of(estimate: jax.Array, split: Sequence[jax.Array]) -> Programs:
            return self._of_estimate(estimate, with_leaves(args, data_axes, split))

        split = split_leaves(args, data_axes)
        return inspect_programs(programs_of, self.plate_key, self.is_linear, split)

    def inspect_datum(self, data_axes: Any) -> Inspection:
        """Traces the programs for one element of the arguments, and checks them."""

        def programs_of(datum: jax.Array, split: Sequence[jax.Array]) -> Programs:
            estimate, element = Cut(0, self.size, self.num_estimates).place(datum)
            args = element_of(self.programs.args, data_axes, element, keep_axes=False)
            return self._of_estimate(estimate, args)

        return inspect_programs(programs_of, self.plate_key, self.is_linear)

    def _of_estimate(self, estimate: jax.Array, args: tuple[Any, ...]) -> Programs:
        key = random.fold_in(self.plate_key, estimate)
        fixed = (with_fixed_subsample(key, p) for p in (self.programs.model, self.programs.guide))
        model, guide = fixed
        return self.programs.replace(model=model, guide=guide, args=args)


def find_elements(
    whole: Elements, data_axes: Any = None, apart: bool = True
) -> tuple[Elements, Inspection]:
    """Checks model and guide, and finds what they can be run for one at a time.

    These are the elements of a plate that encloses all sites, if model and guide are proven not to
    look across it; or, with ``data_axes``, what these point at in the arguments.

    :param whole: the programs as they are written.
    :param data_axes: as ``in_axes`` of :func:`jax.vmap`, for the positional arguments.
    :param apart: whether to run the elements of a plate one at a time, where possible.
    :return: the elements, and the programs as they were traced for one datum.
    :raises ValueError: if model and guide do not match, or ``data_axes`` the arguments.
    """
    if data_axes is not None:
        axes, size = checked_axes(data_axes, whole.programs.args)
        return _split_arguments(whole, axes, size)
    found, why_shared = whole.inspect(), None
    for frame in _by_dim(found) if apart else []:
        try:
            return _cut(whole, found, frame)
        except NotElementwise as why:
            why_shared = f"the {frame.size} elements of plate '{frame.name}' share one: {why}"
    return replace(whole, data_dims=found.data_dims, why_shared=why_shared), found


def plates_apart(programs: Programs, found: Inspection) -> frozenset[Any]:
    """The frames of those data plates whose elements do not affect each other, as is proven.

    :param found: the programs, inspected, with their data plates.
    """
    whole = Elements(programs, random.key(0))

    def is_apart(frame: Any) -> bool:
        if frame.size == 1:
            return True
        try:
            _cut(whole, found, frame)
        except NotElementwise:
            return False
        return True

    return frozenset(filter(is_apart, found.data_plates))


def _by_dim(found: Inspection) -> list[Any]:
    """The data plates with more than one element, the outermost first; none without latents."""
    if not latent_sites(found.guide.trace):
        return []
    plates = sorted(found.data_plates, key=lambda frame: int(frame.dim))
    return [frame for frame in plates if frame.size > 1]


def _cut(
    whole: Elements, found: Inspection, frame: Any, split_axes: Sequence[int] = ()
) -> tuple[Elements, Inspection]:
    """The elements of a data plate, and the programs for one of them.

    :param split_axes: the axes of the elements in what the programs were traced as functions of.
    """
    if found.has_mutable_state:
        raise NotElementwise("the programs have mutable state")
    cut = Cut(frame.dim, frame.size, whole.num_estimates, split_axes)
    try:
        guide, cut = found.guide.for_one_element(cut, whole.plate_key)
    except NotElementwise as why:
        raise NotElementwise(f"the guide has {why}") from None
    try:
        model = found.model.for_one_element(cut, guide)
    except NotElementwise as why:
        raise NotElementwise(f"the model has {why}") from None
    elements = replace(
        whole,
        size=frame.size,
        data_dims=found.data_dims,
        dim=frame.dim,
        indices=cut.indices,
    )
    return elements, found._replace(guide=guide, model=model)


def _split_arguments(whole: Elements, data_axes: Any, size: int) -> tuple[Elements, Inspection]:
    """The elements that split arguments have: those of a plate, or data by themselves."""

    def inspect_datum() -> tuple[Elements, Inspection]:
        by_themselves = replace(whole, size=size)
        one = _without_mutable_state(by_themselves.inspect_datum(data_axes))
        return replace(by_themselves, data_dims=one.data_dims), one

    try:
        found = whole.inspect(data_axes=data_axes)
    except Exception:
        # A program written for one datum may fail on a batch. Raise only if it also fails on one.
        with suppress(Exception):
            return inspect_datum()
        raise
    _without_mutable_state(found)
    split = split_leaves(whole.programs.args, data_axes)
    split_axes = [
        axis % leaf.ndim for axis, leaf in zip(jax.tree.leaves(data_axes), split, strict=True)
    ]
    refused = {}
    for frame in found.data_plates:
        if frame.size == size:
            if size == 1:
                return replace(whole, data_dims=found.data_dims), found
            try:
                return _cut(whole, found, frame, split_axes)
            except NotElementwise as why:
                refused[frame.name] = str(why)
    try:
        elements, one = inspect_datum()
    except Exception:
        _refuse_mixing(refused, size)
        _refuse_plates_of_arguments(whole, data_axes, size, found, None)
        raise
    # A plate that keeps its size when run for one datum is inside it (pixels, for example).
    within = _plate_sizes(one)
    _refuse_mixing({n: why for n, why in refused.items() if within.get(n) != size}, size)
    _refuse_plates_of_arguments(whole, data_axes, size, found, one)
    return elements, one


def _refuse_mixing(refused: dict[str, str], size: int) -> None:
    for name, why in refused.items():
        raise ValueError(
            f"Expected programs that do not look across the {size} elements of plate '{name}', "
            f"which data_axes splits; {why}. Split all arguments that have its elements, or leave "
            "data_axes out."
        )


def _refuse_plates_of_arguments(
    elements: Elements, data_axes: Any, size: int, whole: Inspection, one: Inspection | None
) -> None:
    """Refuses programs with a plate over the split axis that does not enclose all sites.

    Without that axis they would define another density.

    :param one: the inspection for one datum; None if they could not be run.
    """
    kept = element_of(elements.programs.args, data_axes, jnp.array(0), keep_axes=True)
    sizes: dict[str, int] = {}
    with suppress(Exception):  # written for one datum, they need not run for a batch of one
        sizes = _plate_sizes(elements.inspect(kept))
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
