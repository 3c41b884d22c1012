"""A model and a guide together with what both are run with."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jax import random

from numpyro.handlers import replay, seed, substitute, trace

from .handlers import detach
from .sites import Params


@dataclass(frozen=True)
class Programs:
    """A model and a guide with their parameters and arguments: one value, one order.

    :param model: a NumPyro program with the latent sites z and the observed sites x.
    :param guide: a NumPyro program that samples the latent sites.
    :param params: values of the param sites of both, constrained, by name.
    :param args: positional arguments of both; likewise ``kwargs``.
    """

    model: Callable
    guide: Callable
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
        """Adds the values of the model's deterministic sites to those of its latent sites."""
        sites = self._trace(seed(self.model, random.key(0)), {**self.params, **latents})
        deterministic = {n: s["value"] for n, s in sites.items() if s["type"] == "deterministic"}
        return {**latents, **deterministic}

    def updated_mutable_state(self, rng_key: jax.Array) -> dict[str, Any]:
        """Values of the mutable sites after a draw from the guide, with the model run at it."""
        mutable = lambda sites: {n: s["value"] for n, s in sites.items() if s["type"] == "mutable"}
        guide_key, model_key = random.split(rng_key)
        guide_trace = self._trace(seed(self.guide, guide_key), self.params)
        state = mutable(guide_trace)
        model = replay(seed(self.model, model_key), guide_trace)
        return {**state, **mutable(self._trace(model, {**self.params, **state}))}

    def _trace(self, program: Callable, values: Params) -> dict[str, dict[str, Any]]:
        sites = trace(substitute(program, data=values)).get_trace(*self.args, **self.kwargs)
        return dict(sites)
