"""Checks of options: each raises a ValueError of one line."""

from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

from jax.sharding import AxisType, NamedSharding


def check_positive_integer(name: str, value: Any) -> None:
    """Refuses what is not an integer ≥ 1, and ``True``."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise ValueError(f"Expected {name} to be an integer >= 1; got {value!r}. Pass at least 1.")


def check_sample_size(name: str, value: Any) -> None:
    """Refuses what is not an integer ≥ 2, the least for a standard error."""
    check_positive_integer(name, value)
    if value < 2:
        raise ValueError(f"Expected {name} >= 2, for a standard error; got {value}. Raise it.")


def check_share(name: str, value: Any) -> None:
    """Refuses what is not a number in [0, 1)."""
    if not isinstance(value, Real) or isinstance(value, bool) or not 0.0 <= float(value) < 1.0:
        raise ValueError(
            f"Expected {name} to be in [0, 1); got {value!r}. Pass 0.01, for instance."
        )


def check_one_of(name: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuses a value that is not among the allowed ones."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"Expected {name} to be one of {allowed}; got {value!r}.")


def check_sharding(value: Any) -> None:
    """Refuses what is not a sharding over one mesh axis of type Auto, which XLA may split."""
    names = tuple(value.spec) if isinstance(value, NamedSharding) else ()
    if len(names) != 1 or not isinstance(names[0], str):
        raise ValueError(
            f"Expected sharding to be a NamedSharding over one axis of a mesh; got {value!r}. Pass "
            'NamedSharding(mesh, PartitionSpec("draws")), for instance.'
        )
    kind = dict(zip(value.mesh.axis_names, value.mesh.axis_types))[names[0]]
    if kind != AxisType.Auto:
        raise ValueError(
            f"Expected mesh axis '{names[0]}' to be of type Auto; it is {kind.name}. Make "
            "the mesh with axis_types=(AxisType.Auto,)."
        )
