"""How the draws behind some estimates are proposed and weighed, datum by datum."""

from dataclasses import replace
from typing import Any

import jax
from jax import random
import jax.numpy as jnp

from .elements import find_elements
from .handlers import with_fixed_subsample
from .log_weights import Proposal, log_weight, propose
from .programs import Programs


class PerDatumWeights:
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
        programs: Programs,
        *,
        num_estimates: int = 1,
        data_axes: Any = None,
        one_by_one: bool = True,
    ):
        self.plate_key, self.programs = plate_key, programs
        self.num_estimates = num_estimates
        self.elements = find_elements(self.subsampled(), data_axes, one_by_one)
        self.indices = None
        if self.elements.plate is not None:
            dims = self.elements.data_dims
            whole = lambda estimate: propose(plate_key, self.subsampled(estimate), dims)
            in_plate = lambda estimate: whole(estimate).indices[self.elements.plate]
            self.indices = jax.vmap(in_plate)(jnp.arange(num_estimates))

    @property
    def num_data(self) -> int:
        """Data in all estimates together."""
        return self.num_estimates * self.elements.size

    def subsampled(self, estimate: Any = 0, programs: Programs | None = None) -> Programs:
        """The programs with the subsample of an estimate."""
        programs = programs or self.programs
        key = random.fold_in(self.plate_key, estimate)
        return programs.replace(
            model=with_fixed_subsample(key, programs.model),
            guide=with_fixed_subsample(key, programs.guide),
        )

    def example(self) -> Programs:
        """The programs as they are run for the first datum."""
        return self._cut(self.programs, jnp.array(0))

    def propose(
        self, datum: jax.Array, rng_key: jax.Array, programs: Programs, score_free: bool = False
    ) -> Proposal:
        """A draw from the guide for one datum; see :func:`~numpyro_sumo.programs.log_weights.propose`."""
        dims = self.elements.data_dims
        return propose(rng_key, self._cut(programs, datum), dims, score_free)

    def weigh(
        self,
        datum: jax.Array,
        rng_key: jax.Array,
        proposal: Proposal,
        programs: Programs,
        *,
        scale: jax.Array | None = None,
    ) -> jax.Array:
        """The log-weight of a draw, in nats, shape ``(*rest)``: data plates without the elements'.

        :param scale: the datum's, from :meth:`scale`; None is the proposal's own.
        """
        dims = self.elements.data_dims
        if scale is not None:
            proposal = replace(proposal, scale=self._expanded(scale))
        return self._squeezed(log_weight(rng_key, self._cut(programs, datum), proposal, dims))

    def spread(self, of_data: jax.Array, proposal: Proposal) -> Proposal:
        """Numbers shaped as the log-weight, such that they broadcast to all of a proposal."""
        return proposal.spread(self._expanded(of_data), self.elements.data_dims)

    def scale(self, programs: Programs) -> jax.Array:
        """What finished estimates are multiplied by, shape ``(num_data, *rest)``."""

        of_datum = lambda datum: self.propose(datum, self.plate_key, programs).scale
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

    def _cut(self, programs: Programs, datum: jax.Array) -> Programs:
        """The programs and their arguments for one datum."""
        estimate, element = jnp.divmod(datum, self.elements.size)
        index = None if self.indices is None else self.indices[estimate, element]
        programs = self.subsampled(estimate, programs)
        return programs.replace(
            model=self.elements.program(programs.model, index),
            guide=self.elements.program(programs.guide, index),
            args=self.elements.arguments(programs.args, element),
        )
