"""Draws and log-weights of independent estimates, datum by datum."""

import copy
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .elements import Elements, find_elements
from .log_weights import GuideDraw, weight_of
from .sites import Params


class PerDatumWeights:
    """Proposes and weighs draws for one datum at a time.

    A datum is an element of the data in one estimate or, if all elements share their stopping time,
    all data of one estimate. Every estimate has its own subsample.

    :param whole: model and guide as they were written, for all elements together.
    :param data_axes: as ``in_axes`` of :func:`jax.vmap`, for the positional arguments.
    :param apart: whether to run the elements of a subsampled plate one at a time, where possible.
    :raises ValueError: if model and guide cannot be weighed.
    """

    def __init__(self, whole: Elements, *, data_axes: Any = None, apart: bool = True):
        self.elements, found = find_elements(whole, data_axes, apart)
        self._scaled_apart = found.scaled_apart
        self._guide, self._model = found.guide, found.model
        self._plate_key, self._params = whole.plate_key, whole.programs.params

    @property
    def num_data(self) -> int:
        """Data in all estimates together."""
        return self.elements.num_estimates * self.elements.size

    @property
    def why_no_dreg(self) -> str | None:
        """What forbids the doubly reparameterised gradient for the guide, in words; else None."""
        return self._guide.why_no_dreg

    def with_params(self, params: Params) -> "PerDatumWeights":
        """The same at other values of the param sites."""
        others = copy.copy(self)
        others._params = params
        return others

    def propose(
        self,
        datum: jax.Array,
        rng_key: jax.Array,
        *,
        score_free: bool = False,
        detach_args: bool = False,
    ) -> GuideDraw:
        """A draw from the guide for one datum, differentiable in the parameters.

        :param score_free: whether its log-density is differentiated through the draw alone.
        :param detach_args: no gradient flows to the arguments.
        """
        return self._guide.propose(
            (self._params, datum, rng_key),
            self.elements.data_dims,
            score_free=score_free,
            detach_args=detach_args,
            scaled=self._scaled_apart,
        )

    def weigh(
        self,
        datum: jax.Array,
        rng_key: jax.Array,
        proposal: GuideDraw,
        *,
        scale: jax.Array | None = None,
        detached: bool = False,
    ) -> jax.Array:
        """The log-weight of a draw, in nats: data plates except the elements', shape ``(*rest)``.

        :param scale: the datum's, from :meth:`scale`; None takes the proposal's own.
        :param detached: whether it is differentiable in the proposal alone.
        """
        if scale is not None:
            proposal = replace(proposal, scale=self._expanded(scale))
        inputs = self._params, datum, rng_key, proposal
        log_probs = self._model.log_probs(inputs, detached)
        return self._squeezed(weight_of(log_probs, proposal, self.elements.data_dims))

    def spread(self, of_data: jax.Array, proposal: GuideDraw) -> GuideDraw:
        """Numbers of the log-weight's shape, broadcast to all arrays of a proposal."""
        return proposal.spread(self._expanded(of_data), self.elements.data_dims)

    def scale(self) -> jax.Array:
        """Factors of the estimates in the sum over the data, shape ``(num_data, *rest)``."""
        of_datum = lambda datum: self._squeezed(self.propose(datum, self._plate_key).scale)
        return jax.vmap(of_datum)(jnp.arange(self.num_data, dtype=jnp.int32))

    def scale_of(self, estimates: jax.Array) -> jax.Array:
        """The same in the shape of estimates, ``(num_data, ...)``."""
        scales = self.scale()
        scales = scales.reshape(*scales.shape, *[1] * (estimates.ndim - scales.ndim))
        return jnp.broadcast_to(scales, estimates.shape)

    def by_estimate(self, of_data: jax.Array) -> jax.Array:
        """Shape ``(num_data, *rest)`` as ``(num_estimates, *data)``, in the order of the plates."""
        values = of_data.reshape(self.elements.num_estimates, -1, *of_data.shape[1:])
        if self.elements.size == 1 and self.elements.dim is None:
            return values[:, 0]
        return jnp.moveaxis(values, 1, 1 + (self.elements.axis or 0))

    def _squeezed(self, of_one: jax.Array) -> jax.Array:
        """Without the axis of length one that stands for the elements."""
        axis = self.elements.axis
        return of_one if axis is None else jnp.squeeze(of_one, axis)

    def _expanded(self, squeezed: jax.Array) -> jax.Array:
        axis = self.elements.axis
        return squeezed if axis is None else jnp.expand_dims(squeezed, axis)
