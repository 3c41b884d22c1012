"""How the draws behind some estimates are proposed and weighed, datum by datum."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
from jax import random
import jax.numpy as jnp

from .elements import find_elements
from .log_weights import Proposal, hold, log_weight, propose, with_shared_subsample
from .sites import Params


class Inputs(NamedTuple):
    """What model and guide are functions of."""

    params: Params
    args: tuple
    kwargs: dict

    def held(self) -> "Inputs":
        """The same values, through which no gradient flows."""
        return Inputs(*hold(tuple(self)))


class Weighing:
    """Model and guide as they propose and weigh draws for a number of estimates.

    Every estimate has a subsample of its own. A datum is an element of the data in one of them, or
    all of its data together where they share their draws; data are numbered estimate by estimate.

    :param num_estimates: how many.
    :param data_axes: as in :func:`~numpyro_sumo.programs.elements.find_elements`; likewise ``one_by_one``.
    :raises ValueError: if model and guide cannot be weighed.
    """

    def __init__(
        self,
        plate_key: jax.Array,
        model: Callable,
        guide: Callable,
        inputs: Inputs,
        *,
        num_estimates: int = 1,
        data_axes: Any = None,
        one_by_one: bool = True,
    ):
        self.plate_key, self.model, self.guide = plate_key, model, guide
        self.num_estimates = num_estimates
        params, args, kwargs = inputs
        self.elements = find_elements(
            self.subsampled(model), self.subsampled(guide), *inputs, data_axes, one_by_one
        )
        self.indices = None
        if self.elements.plate is not None:
            whole = lambda estimate: propose(
                self.subsampled(guide, estimate),
                args,
                kwargs,
                self.elements.data_dims,
                plate_key,
                params,
            )
            in_plate = lambda estimate: whole(estimate).indices[self.elements.plate]
            self.indices = jax.vmap(in_plate)(jnp.arange(num_estimates))

    @property
    def num_data(self) -> int:
        """Data in all estimates together."""
        return self.num_estimates * self.elements.size

    def subsampled(self, program: Callable, estimate: Any = 0) -> Callable:
        """The program with the subsample of an estimate."""
        return with_shared_subsample(program, random.fold_in(self.plate_key, estimate))

    def example(self, program: Callable, args: tuple) -> tuple[Callable, tuple]:
        """The program as it is run for the first datum, and its arguments."""
        return self._cut(program, args, jnp.array(0))

    def propose(
        self, datum: jax.Array, rng_key: jax.Array, inputs: Inputs, score_free: bool = False
    ) -> Proposal:
        """A draw from the guide for one datum; see :func:`~numpyro_sumo.programs.log_weights.propose`."""
        params, args, kwargs = inputs
        guide, args = self._cut(self.guide, args, datum)
        dims = self.elements.data_dims
        return propose(guide, args, kwargs, dims, rng_key, params, score_free)

    def weigh(
        self,
        datum: jax.Array,
        rng_key: jax.Array,
        proposal: Proposal,
        inputs: Inputs,
        *,
        scale: jax.Array | None = None,
    ) -> jax.Array:
        """The log-weight of a draw, in nats, shape ``(*rest)``: data plates without the elements'.

        :param scale: the datum's, from :meth:`scale`; None is the proposal's own.
        """
        params, args, kwargs = inputs
        dims = self.elements.data_dims
        if scale is not None:
            proposal = replace(proposal, scale=self._expanded(scale))
        model, args = self._cut(self.model, args, datum)
        return self._squeezed(log_weight(model, proposal, args, kwargs, dims, rng_key, params))

    def spread(self, of_data: jax.Array, proposal: Proposal) -> Proposal:
        """Numbers shaped as the log-weight, such that they broadcast to all of a proposal."""
        return proposal.spread(self._expanded(of_data), self.elements.data_dims)

    def scale(self, inputs: Inputs) -> jax.Array:
        """What finished estimates are multiplied by, shape ``(num_data, *rest)``."""

        of_datum = lambda datum: self.propose(datum, self.plate_key, inputs).scale
        return jax.vmap(lambda datum: self._squeezed(of_datum(datum)))(jnp.arange(self.num_data))

    def by_estimate(self, of_data: jax.Array) -> jax.Array:
        """Shape ``(num_data, *rest)`` as ``(num_estimates, *data)``, in the order of the plates."""
        values = of_data.reshape(self.num_estimates, -1, *of_data.shape[1:])
        if not self.elements.are_split:
            return values[:, 0]
        return jnp.moveaxis(values, 1, 1 + (self.elements.axis or 0))

    def _squeezed(self, of_one: jax.Array) -> jax.Array:
        """Without the axis of length one that stands for the elements."""
        return of_one if self.elements.axis is None else jnp.squeeze(of_one, self.elements.axis)

    def _expanded(self, squeezed: jax.Array) -> jax.Array:
        return (
            squeezed
            if self.elements.axis is None
            else jnp.expand_dims(squeezed, self.elements.axis)
        )

    def _cut(self, program, args, datum):
        """The program and its arguments for one datum."""
        estimate, element = jnp.divmod(datum, self.elements.size)
        index = None if self.indices is None else self.indices[estimate, element]
        program = self.elements.program(self.subsampled(program, estimate), index)
        return program, self.elements.arguments(args, element)
