"""Axes along which arguments are split, with the meaning of ``in_axes`` in ``jax.vmap``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

import jax
import jax.numpy as jnp


def checked_axes(data_axes: Any, args: tuple[Any, ...]) -> tuple[Any, int]:
    """An axis or None for each leaf of the arguments, and the length that all these axes have.

    :raises ValueError: where axes and arguments do not match, in one line.
    """
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

    def measure(path: Any, axis: Any, leaf: Any) -> None:
        if axis is None:
            return
        where = f"args{jax.tree_util.keystr(path)}"
        if not isinstance(axis, int | np.integer) or isinstance(axis, bool):
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
            f"for {len(args)} of them. Pass the data by position, for "
            "keyword arguments are not split, and give their axis: 0, for instance."
        )
    if 0 in sizes.values():
        raise ValueError("Expected data in what data_axes splits; got none. Pass at least one.")
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} in {where}" for where, size in sizes.items())
        raise ValueError(
            f"Expected data_axes to have one length; got {listed}. Pass as many data in each."
        )
    return axes, next(iter(sizes.values()))


def element_of(
    args: tuple[Any, ...], data_axes: Any, element: jax.Array, *, keep_axes: bool
) -> tuple[Any, ...]:
    """The arguments for one element of the data.

    :param data_axes: from :func:`checked_axes`.
    :param keep_axes: whether its axes stay, of length one.
    """

    def cut(axis: int | None, leaf: jax.Array) -> jax.Array:
        if axis is None:
            return leaf
        return jax.lax.dynamic_index_in_dim(leaf, element, axis, keepdims=keep_axes)

    return jax.tree.map(cut, data_axes, args, is_leaf=_is_none)


def split_leaves(args: tuple[Any, ...], data_axes: Any) -> list[jax.Array]:
    """The leaves of the arguments that have an axis; none without ``data_axes``."""
    if data_axes is None:
        return []
    found: list[Any] = []
    add = lambda axis, leaf: None if axis is None else found.append(leaf)
    jax.tree.map(add, data_axes, args, is_leaf=_is_none)
    return list(map(jnp.asarray, found))


def with_leaves(
    args: tuple[Any, ...], data_axes: Any, leaves: Sequence[jax.Array]
) -> tuple[Any, ...]:
    """The arguments with other arrays in the places of :func:`split_leaves`."""
    if data_axes is None:
        return args
    others = iter(leaves)
    replaced = lambda axis, leaf: leaf if axis is None else next(others)
    return tuple(jax.tree.map(replaced, data_axes, args, is_leaf=_is_none))


def _is_none(leaf: Any) -> bool:
    return leaf is None
