"""All uses of private NumPyro and JAX interfaces. Adapt this file if they change."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
import copy
from functools import cache
from typing import Any

import jax
from jax import random
from jax._src.core import trace_state_clean
from jax.extend.core import ClosedJaxpr, JaxprEqn
import jax.numpy as jnp

from numpyro.distributions import biject_to
from numpyro.handlers import block, seed
from numpyro.infer import MCMC
from numpyro.infer.autoguide import AutoContinuous, AutoGuide

#: Options of XLA for :func:`jit_once`.
_FEW_PASSES: dict[str, Any] = {
    "xla_backend_optimization_level": 1,
    "xla_llvm_disable_expensive_passes": True,
    "xla_cpu_use_fusion_emitters": False,
}


class _SortedInitLocs(AutoGuide):
    """Sorts ``_init_locs``, from which :class:`AutoContinuous` makes its vector, by name.

    NumPyro takes the order of the model outside ``jit`` and the order of names inside it, so the
    same vector could stand for different sites.
    """

    def _setup_prototype(self, *args: Any, **kwargs: Any) -> None:
        super()._setup_prototype(*args, **kwargs)
        self._init_locs: dict[str, jax.Array] = dict(sorted(self._init_locs.items()))


class VectorGuide(AutoContinuous, _SortedInitLocs):
    """An automatic guide with one unconstrained vector of shape ``(latent_dim,)``, sites by name.

    Uses ``_setup_prototype``, ``_init_latent``, ``_unpack_latent`` and ``_get_posterior`` of
    :class:`~numpyro.infer.autoguide.AutoContinuous`.
    """

    def set_up(self, *args: Any, **kwargs: Any) -> None:
        """Traces the model once to find sites, shapes and initial values."""
        self._setup_prototype(*args, **kwargs)

    @property
    def initial_vector(self) -> jax.Array:
        """The unconstrained latents at their initial values, shape ``(latent_dim,)``."""
        return self._init_latent

    def unpack(self, vector: jax.Array) -> dict[str, jax.Array]:
        """The unconstrained values of each site, from a vector of shape ``(latent_dim,)``."""
        return self._unpack_latent(vector)

    def _get_posterior(self) -> Any:
        raise NotImplementedError("This guide has no posterior in closed form.")


def set_up_guide(guide: AutoGuide, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Runs an automatic guide once if it has never run, so that it knows its model's sites.

    Inside ``jit`` or ``eval_shape`` the guide would keep traced arrays, of no use outside.
    """
    if guide.prototype_trace is None:
        with seed(rng_seed=0), block():
            guide(*args, **kwargs)


def with_posterior(guide: AutoContinuous, posterior: Any) -> AutoContinuous:
    """A copy of a guide that draws its vector from another distribution.

    Replaces ``_get_posterior`` of :class:`~numpyro.infer.autoguide.AutoContinuous`.
    """
    other = copy.copy(guide)
    other._get_posterior = lambda *args, **kwargs: posterior
    return other


def pack_latents(
    guide: AutoContinuous, latents: dict[str, jax.Array]
) -> tuple[dict[str, jax.Array], set[str]]:
    """The vector that a guide draws, by the name of its site, and the latent sites it stands for.

    Uses ``_init_locs`` of :class:`~numpyro.infer.autoguide.AutoContinuous`.
    """
    supports = {name: guide.prototype_trace[name]["fn"].support for name in guide._init_locs}
    unconstrained = [
        jnp.ravel(biject_to(support).inv(latents[name])) for name, support in supports.items()
    ]
    return {f"_{guide.prefix}_latent": jnp.concatenate(unconstrained)}, set(supports)


def jit_once(function: Callable[..., Any]) -> jax.stages.Wrapped:
    """``jax.jit`` for a function that is run once.

    On CPUs XLA leaves out passes that take longer than they save: certificates of neural networks
    compile in a fifth of the time and run about as fast. Inside another ``jit``, whose options
    hold for the whole, it is ``jax.jit`` itself.
    """
    is_alone = trace_state_clean() and jax.default_backend() == "cpu"
    return jax.jit(function, compiler_options=_known_few_passes() if is_alone else None)


def at_compile_time() -> AbstractContextManager[None]:
    """Evaluates what does not depend on traced values, inside ``jit`` too.

    Outside it does nothing: JAX would compile each operation a second time.
    """
    return nullcontext() if trace_state_clean() else jax.ensure_compile_time_eval()


@cache
def _known_few_passes() -> dict[str, Any]:
    return known_compiler_options(_FEW_PASSES)


def known_compiler_options(options: dict[str, Any]) -> dict[str, Any]:
    """Those options that this version of XLA knows; it refuses to compile with others."""

    def is_known(name: str) -> bool:
        try:
            jax.jit(lambda: 0.0, compiler_options={name: options[name]}).lower().compile()
        except jax.errors.JaxRuntimeError:
            return False
        return True

    return {name: value for name, value in options.items() if is_known(name)}


def inputs_of_mcmc(mcmc: MCMC) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that chains were run with. Uses ``_args``, ``_kwargs`` and ``_states``."""
    if mcmc._states is None:
        raise ValueError("Expected MCMC that has run; it has no draws. Call mcmc.run first.")
    return mcmc._args, mcmc._kwargs


def varying_axes(tree: Any) -> frozenset[str]:
    """The mesh axes over which arrays differ between devices, inside :func:`jax.shard_map`.

    Uses the ``manual_axis_type`` of JAX's abstract arrays.
    """
    types = (jax.typeof(leaf).manual_axis_type for leaf in jax.tree.leaves(tree))
    return frozenset().union(*(kind.varying for kind in types))


def vary_over(tree: Any, axes: frozenset[str]) -> Any:
    """The arrays, marked as differing between devices over these mesh axes."""

    def mark(leaf: jax.Array) -> jax.Array:
        missing = tuple(axes - varying_axes(leaf))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(mark, tree) if axes else tree


def collectable_key(rng_key: jax.Array) -> jax.Array:
    """Keys in the old style, which MCMC can collect as an extra field; random numbers stay equal.

    ``fori_collect`` of NumPyro multiplies what it collects, which fails for keys of the new style.
    ``is_prng_key`` of NumPyro knows old-style keys of two integers only: others stay as they are.
    """
    is_new_style = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    if is_new_style and random.key_impl(rng_key) == random.key_impl(random.key(0)):
        data = random.key_data(rng_key)
        return data if data.shape[-1] == 2 else rng_key
    return rng_key


def new_style_key(rng_key: jax.Array) -> jax.Array:
    """Keys in the new style, which flowjax asks for; random numbers stay equal."""
    is_new_style = jnp.issubdtype(rng_key.dtype, jax.dtypes.prng_key)
    return rng_key if is_new_style else random.wrap_key_data(rng_key)


def scan_lengths(equation: JaxprEqn) -> tuple[int, int]:
    """The numbers of constants and of carried arrays of a scan, from its parameters."""
    if "ft_in" in equation.params:  # JAX 0.12
        consts, carry, _ = equation.params["ft_in"].unpack()
        return len(list(consts)), len(list(carry))
    return equation.params["num_consts"], equation.params["num_carry"]


def jvp_of_custom_call(
    equation: JaxprEqn, has_no_tangent: list[bool]
) -> tuple[ClosedJaxpr, list[bool]]:
    """The derivative of a function with a custom JVP rule, and which tangents it leaves zero.

    Uses the parameter ``jvp_jaxpr_fun`` of ``custom_jvp_call``.

    :param has_no_tangent: for each operand that is not a constant.
    :return: a jaxpr that maps operands and their tangents to results and those tangents of results
        that are not zero.
    """
    jaxpr, consts, is_zero = equation.params["jvp_jaxpr_fun"].call_wrapped(*has_no_tangent)
    return ClosedJaxpr(jaxpr, consts), list(is_zero)
