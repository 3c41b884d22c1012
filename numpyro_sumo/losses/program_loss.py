"""A loss as a function of a model and a guide with their arguments, one value."""

from abc import abstractmethod
from typing import Any

import jax

from numpyro.infer import ELBO

from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Program


class ProgramLoss(ELBO):
    """Base of all losses: a subclass gives :meth:`loss_of` and :meth:`batch_of`."""

    @abstractmethod
    def loss_of(self, rng_key: jax.Array, programs: Programs) -> jax.Array:
        """The loss, a number in nats."""

    @abstractmethod
    def batch_of(self, rng_key: jax.Array, programs: Programs) -> tuple[jax.Array, Programs]:
        """The key of one more draw, and the programs with the subsample that ``loss_of`` takes."""

    def loss(
        self,
        rng_key: jax.Array,
        param_map: Params,
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> jax.Array:
        """The loss in nats; see :meth:`numpyro.infer.ELBO.loss`.

        Differentiable in the parameters, and in arrays among ``args`` and ``kwargs``.
        """
        return self.loss_of(rng_key, Programs(model, guide, param_map, args, kwargs))

    def loss_with_mutable_state(
        self,
        rng_key: jax.Array,
        param_map: Params,
        model: Program,
        guide: Program,
        *args: Any,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """The loss, and mutable state (batch statistics, ...) updated by one draw of the guide.

        The draw is one more than those of the loss; it sees the same subsample of the data.
        """
        draw_key, batch = self.batch_of(rng_key, Programs(model, guide, param_map, args, kwargs))
        return {
            "loss": self.loss(rng_key, param_map, model, guide, *args, **kwargs),
            "mutable_state": batch.updated_mutable_state(draw_key),
        }
