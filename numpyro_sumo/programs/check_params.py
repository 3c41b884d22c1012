"""Checks that params are those of a program: none missing, of the right shapes, finite."""

from collections.abc import Mapping
from typing import Any

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import block, replay, seed, substitute, trace

from .programs import Programs
from .sites import Params, Program, values_of_type


def check_params_of_both(programs: Programs) -> None:
    """Refuses params that are not those of guide and model; see :func:`check_params`.

    The model runs at a draw of the guide, since some priors cannot be sampled.
    """
    params, args, kwargs = programs.inputs

    def model_at_draws_of_the_guide(*args: Any, **kwargs: Any) -> None:
        with block():
            guide = substitute(seed(programs.guide, random.key(0)), data=params)
            guide_trace = trace(guide).get_trace(*args, **kwargs)
        # A param site of both may have its initial value in the guide alone.
        shared = values_of_type(guide_trace, "param")
        substitute(replay(programs.model, guide_trace), data=shared)(*args, **kwargs)

    check_params(programs.guide, params, args, kwargs)
    check_params(model_at_draws_of_the_guide, params, args, kwargs, role="model")


def check_params(
    program: Program,
    params: Params,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    role: str = "guide",
) -> None:
    """Refuses params that are not those of a program: missing, of other shapes, or not finite.

    The program is traced abstractly: no param is initialised.

    :param params: values by param site; those of other programs may be among them.
    :param role: name of the program in error messages.
    :raises ValueError: for the first param site that does not match.
    """
    if not isinstance(params, Mapping):
        raise ValueError(
            f"Expected params to be a dict by param site; got {type(params).__name__}. "
            "Pass svi.run(...).params or svi.get_params(svi_state)."
        )

    def initial_params() -> Params:
        sites = trace(seed(program, random.key(0))).get_trace(*args, **kwargs)
        return values_of_type(sites, "param")

    expected = jax.eval_shape(initial_params)
    missing = sorted(expected.keys() - params.keys())
    if missing:
        raise ValueError(
            f"Expected params to hold every param site of the {role}; they lack {missing}. "
            "Pass the params of the trained guide: svi.run(...).params."
        )
    for name, tree in expected.items():
        leaves = _leaves(tree), _leaves(params[name])
        for path in sorted(leaves[0].keys() | leaves[1].keys()):
            in_program, given = (_shape_in_words(each.get(path)) for each in leaves)
            if in_program != given:
                raise ValueError(
                    f"Expected params of the {role}; its '{name}{path}' has {in_program}, and "
                    f"params have {given}. Pass svi.run(...).params."
                )
            if not _is_finite(leaves[1][path]):
                raise ValueError(
                    f"Expected finite params; '{name}{path}' of the {role} contains NaN or "
                    "infinity: training diverged, at step "
                    "numpy.isnan(svi_result.losses).argmax(). Train again with a smaller learning "
                    "rate or clipped gradients."
                )


def _leaves(tree: Any) -> dict[str, Any]:
    """Leaves of a pytree by path: the empty string for a single array."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): leaf for path, leaf in leaves}


def _shape_in_words(leaf: Any) -> str:
    return "no such array" if leaf is None else f"shape {np.shape(leaf)}"


def _is_finite(leaf: Any) -> bool:
    """Whether all numbers are finite; True while they are traced."""
    if isinstance(leaf, jax.core.Tracer) or not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
        return True
    return bool(np.all(np.isfinite(np.asarray(leaf))))
