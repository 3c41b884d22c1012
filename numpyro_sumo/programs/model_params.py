"""The scalar parameters of a model: their names, and the unconstrained space they live in."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import jax
from jax import random
from jax.flatten_util import ravel_pytree
import jax.numpy as jnp

from numpyro.distributions import biject_to, constraints
from numpyro.distributions.transforms import ExpTransform
from numpyro.handlers import replay, seed, substitute, trace

from .programs import Programs
from .sites import Params, Trace


@dataclass(frozen=True)
class ModelParams:
    """Values of a model's param sites, as a vector in unconstrained space and back.

    A positive parameter, for instance, is its logarithm there.

    :param values: constrained, by site: arrays, or pytrees of them.
    :param constraints: by site.
    :param unconstrained: all of them, shape ``(num_free,)``.
    :param names: of the constrained scalars, "beta[0]" for instance.
    """

    values: Params
    constraints: dict[str, Any]
    unconstrained: jax.Array
    names: tuple[str, ...]
    _unravel: Callable[[jax.Array], Params]

    @staticmethod
    def of(programs: Programs) -> "ModelParams":
        """The param sites of the model, those that the guide shares with it included.

        :raises ValueError: if the model has none, or one is at the edge of its support.
        """
        constraint_of = _constraints(programs)
        if not constraint_of:
            raise ValueError(
                "Expected a model with param sites; it has none. Write what is to be estimated as "
                "numpyro.param: latent sites are integrated out."
            )
        as_float = lambda leaf: jnp.asarray(leaf, jnp.result_type(float))
        values = {name: jax.tree.map(as_float, programs.params[name]) for name in constraint_of}
        free = {n: _unconstrained(n, value, constraint_of[n]) for n, value in values.items()}
        vector, unravel = ravel_pytree(free)
        return ModelParams(values, constraint_of, vector, tuple(names_of(values)), unravel)

    def at(self, displacement: jax.Array) -> Params:
        """Constrained values at a displacement of the unconstrained vector."""
        return self.constrained(self.unconstrained + displacement)

    def constrained(self, unconstrained: jax.Array) -> Params:
        """Constrained values by site."""
        free = self._unravel(unconstrained)
        return {
            name: value if constraint is None else biject_to(constraint)(value)
            for name, value in free.items()
            for constraint in [self.constraints[name]]
        }

    def vector(self, unconstrained: jax.Array) -> jax.Array:
        """Constrained scalars in the order of ``names``, shape ``(num_params,)``."""
        return ravel_pytree(self.constrained(unconstrained))[0]

    @property
    def free_names(self) -> tuple[str, ...]:
        """Names of the unconstrained scalars, "log(sigma)" for instance."""
        found: list[str] = []
        free = self._unravel(self.unconstrained)
        for name, value in free.items():
            label = _label(name, self.constraints[name])
            found += names_of({label: value})
        return tuple(found)

    @property
    def groups(self) -> list[tuple[Any, tuple[int, ...]]]:
        """Constraint and shape of each array, in the order of ``names``.

        The constraint is that of single elements; None where they have none, or constrain each
        other, as in a simplex.
        """
        return [
            (_of_elements(self.constraints[name]), jnp.shape(leaf))
            for name, value in self.values.items()
            for leaf in jax.tree.leaves(value)
        ]


def _constraints(programs: Programs) -> dict[str, Any]:
    """The constraint of each param site of the model, by name; None for pytrees of arrays."""
    params, args, kwargs = programs.inputs
    guide = substitute(seed(programs.guide, random.key(0)), data=params)
    guide_trace = trace(guide).get_trace(*args, **kwargs)
    # The model runs at a draw of the guide, since some priors cannot be sampled.
    model = substitute(replay(seed(programs.model, random.key(0)), guide_trace), data=params)
    model_trace = trace(model).get_trace(*args, **kwargs)
    return {n: _constraint(n, (model_trace, guide_trace)) for n in sorted(_params(model_trace))}


def _params(program_trace: Trace) -> Trace:
    return {name: site for name, site in program_trace.items() if site["type"] == "param"}


def _constraint(name: str, traces: tuple[Trace, ...]) -> Any:
    """The constraint that one of the programs gives a param site; None for a pytree of arrays."""
    sites = [_params(program_trace).get(name) for program_trace in traces]
    found = [site for site in sites if site is not None]
    if not jax.tree_util.treedef_is_leaf(jax.tree.structure(found[0]["value"])):
        return None
    given = [site["kwargs"]["constraint"] for site in found if "constraint" in site["kwargs"]]
    return given[0] if given else constraints.real


def _unconstrained(name: str, value: Any, constraint: Any) -> Any:
    """The value in unconstrained space.

    :raises ValueError: if it is at the edge of its support, or outside.
    """
    if constraint is None:
        return value
    free = biject_to(constraint).inv(value)
    if not np.all(np.isfinite(free)):
        raise ValueError(
            f"Expected params inside their support; '{name}' is {_short(value)}, at the edge of "
            f"{constraint} or outside. Leave what is zero out of the model: standard errors do not "
            "hold there."
        )
    return free


def _of_elements(constraint: Any) -> Any:
    """The constraint of single elements; None if they have none, or constrain each other."""
    base = _base(constraint)
    return None if base is None or base is constraints.real or base.event_dim > 0 else base


def _base(constraint: Any) -> Any:
    while hasattr(constraint, "base_constraint"):
        constraint = constraint.base_constraint
    return constraint


def _label(name: str, constraint: Any) -> str:
    """How an array is called in unconstrained space."""
    if constraint is None or _base(constraint) is constraints.real:
        return name
    is_log = isinstance(biject_to(_base(constraint)), ExpTransform)
    return f"log({name})" if is_log else f"unconstrained({name})"


def names_of(values: dict[str, Any]) -> list[str]:
    """A name for each scalar, in the order of :func:`jax.flatten_util.ravel_pytree`."""
    found = []
    for path, leaf in jax.tree_util.tree_flatten_with_path(values)[0]:
        label = path[0].key + jax.tree_util.keystr(path[1:])
        shape = jnp.shape(leaf)
        for index in np.ndindex(shape):
            found.append(label + (f"[{','.join(map(str, index))}]" if shape else ""))
    return found


def _short(value: jax.Array) -> str:
    return np.array2string(np.asarray(value), precision=4, threshold=6).replace("\n", " ")
