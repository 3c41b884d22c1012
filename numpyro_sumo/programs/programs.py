"""A model and a guide as one value, and programs with some of their sites fixed."""

from dataclasses import dataclass, field
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import block, replay, seed, substitute, trace
from numpyro.infer.initialization import init_to_uniform
from numpyro.primitives import Messenger

from .jaxprs import detach
from .sites import Params, Program, Trace, is_enumerated, latent_sites


@dataclass(frozen=True)
class Programs:
    """A model and a guide with their parameters and arguments: one value, one order.

    :param model: a NumPyro program with the latent sites z and the observed sites x.
    :param guide: a NumPyro program that samples the latent sites.
    :param params: values of the param sites of both, constrained, by name.
    :param args: positional arguments of both; likewise ``kwargs``.
    """

    model: Program
    guide: Program
    params: Params = field(default_factory=dict)
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Params, tuple[Any, ...], dict[str, Any]]:
        """Parameters, positional and keyword arguments."""
        return self.params, self.args, self.kwargs

    def replace(self, **changes: Any) -> "Programs":
        """The same with other values of the fields that are named."""
        return Programs(**{**self.__dict__, **changes})

    def detached(self) -> "Programs":
        """The same values; no gradient flows through parameters and arguments."""
        params, args, kwargs = detach(self.inputs)
        return self.replace(params=params, args=args, kwargs=kwargs)

    def with_deterministic(self, latents: Params) -> Params:
        """Adds the values of the model's deterministic sites to those of its latent sites.

        Not for models with sites that are summed out, whose values are unknown.
        """
        sites = self.trace_at(seed(self.model, random.key(0)), {**self.params, **latents})
        if any(map(is_enumerated, latent_sites(sites).values())):
            return latents
        deterministic = {n: s["value"] for n, s in sites.items() if s["type"] == "deterministic"}
        return {**latents, **deterministic}

    def updated_mutable_state(self, rng_key: jax.Array) -> dict[str, Any]:
        """Values of the mutable sites after a draw from the guide, with the model run at it."""
        mutable = lambda sites: {n: s["value"] for n, s in sites.items() if s["type"] == "mutable"}
        guide_key, model_key = random.split(rng_key)
        guide_trace = self.trace_at(seed(self.guide, guide_key), self.params)
        state = mutable(guide_trace)
        model = replay(seed(self.model, model_key), guide_trace)
        return {**state, **mutable(self.trace_at(model, {**self.params, **state}))}

    def trace_at(self, program: Program, values: Params) -> Trace:
        """The sites of a program, seeded if it draws, run at these params and latents."""
        sites = trace(substitute(program, data=values)).get_trace(*self.args, **self.kwargs)
        return dict(sites)


def with_fixed_subsample(rng_key: jax.Array, program: Program) -> Program:
    """The program with its plates subsampled by ``rng_key``: one batch for all particles."""
    seeded: Program = seed(program, rng_key, hide_types=["sample", "prng_key", "control_flow"])
    return seeded


class at_full_size(Messenger):
    """Handler: run a program with all elements of its plates, subsampled or not.

    ``is_subsampled`` says, after a run, whether one of them was.
    """

    is_subsampled = False

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "plate":
            size, subsample_size = msg["args"]
            self.is_subsampled |= subsample_size not in (None, size)
            msg["args"], msg["value"] = (size, size), jnp.arange(size)


def with_initial_latents(rng_key: jax.Array, program: Program) -> Program:
    """The program, seeded, with continuous latents near zero in unconstrained space.

    Improper and other priors, which cannot be drawn from, need this.
    """
    near_zero: Program = substitute(seed(program, rng_key), substitute_fn=init_to_uniform)
    return near_zero


def with_params(program: Program, params: Params) -> Program:
    """The program with the values of its param sites fixed, and without these sites."""
    fixed: Program = block(substitute(program, data=params), hide_fn=_is_param)
    return fixed


def _is_param(site: dict[str, Any]) -> bool:
    return bool(site["type"] == "param")
