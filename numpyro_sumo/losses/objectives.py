r"""The guide objectives, and the gradient that each parameter gets.

An unbiased estimate of log p(x) does not depend on the guide in expectation, and so cannot fit it:
model and guide maximise different functions of the same log-weights :math:`\ell_j`. The value of a
loss is always minus the estimate F. Its gradient is a sum over draws of a coefficient times the
gradient of the draw's log-weight:

==================== ======================== ===================================== ===============
objective            model's parameters       guide's parameters                    arguments
==================== ======================== ===================================== ===============
``"estimate"``       ∂F/∂ℓ · ∇ log p          ∂F/∂ℓ · ∇ℓ                            as both
``"iwelbo"``         ∂F/∂ℓ · ∇ log p          ∂L/∂ℓ · ∇ℓ                            as the model
same, score-free     ∂F/∂ℓ · ∇ log p          (∂L/∂ℓ)² · ∇ℓ along the draw alone    as the model
``"variance"``       ∂F/∂ℓ · ∇ log p          −2 (F − b) ∂F/∂ℓ · ∇ℓ                 as the model
``"forward_kl"``     ∂F/∂ℓ · ∇ log p          ∇ log r(u | x) at the generating u    as the model
==================== ======================== ===================================== ===============

L is the importance-weighted bound over the draws that are always made, b a baseline from
independent draws. In :class:`~numpyro_sumo.IWELBO` L is F, and the arguments move through both
programs. A parameter that model and guide share gets the sum. Inside
:class:`~numpyro_sumo.ReverseKL` "model" is the sampler and "guide" the reverse model. There the
coefficients of F have the opposite sign, and its path gradient leaves out ∇ log q at fixed x.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro_sumo.estimators.bounds import importance_weighted_bound
from numpyro_sumo.ragged.particle import GUIDE, PATH


class Sample(NamedTuple):
    """Log-weights of the draws behind some estimates, in nats.

    :param kept: log-weights of shape ``(draws, num_data, ...)``: only the first m + K rows of
        each datum are to be read, m being the draws that are always made; or, for
        :class:`~numpyro_sumo.MultilevelSUMO`, :class:`~numpyro_sumo.ragged.LevelSums`.
    :param stopping_times: K of each datum, shape ``(num_data,)``; zeros where there is no tail.
    :param generating: log-weights of the draws that generated the data, shape ``(num_data, ...)``,
        if these are particles; else None.
    """

    kept: Any
    stopping_times: jax.Array
    generating: jax.Array | None = None

    @property
    def log_weights(self) -> jax.Array:
        """Log-weights of shape ``(draws, num_data, ...)``, the generating draw's first."""
        rows: jax.Array = self.kept
        return rows if self.generating is None else jnp.concatenate([self.generating[None], rows])

    def times_for(self, estimates: jax.Array) -> jax.Array:
        """K in a shape that broadcasts to that of estimates, ``(num_data, ...)``."""
        return self.stopping_times.reshape(-1, *[1] * (estimates.ndim - 1))


class SampleViews(NamedTuple):
    """A sample in several views (see :class:`~numpyro_sumo.ragged.Particle`).

    :param kept: {view: as in :class:`Sample`}; likewise ``generating``, empty without such draws.
    :param log_reverse: log r(u | x) of the draws u that generated x, shape ``(num_data, ...)``, if
        the guide is fitted by it; else None.
    """

    kept: dict[str, Any]
    stopping_times: jax.Array
    generating: dict[str, jax.Array]
    log_reverse: jax.Array | None = None

    def merged(self, *views: str) -> Sample:
        """One sample with the gradients of all these views."""
        kept = _merged([self.kept[view] for view in views])
        generating = _merged([self.generating[view] for view in views]) if self.generating else None
        return Sample(kept, self.stopping_times, generating)


class Objective(ABC):
    """A function that the guide minimises: one number for each estimate.

    :cvar maximizes_estimate: whether it is minus the estimate that the model maximises.
    :cvar fixed_only: whether it needs only the draws that are always made.
    :cvar of_generating: whether it is a function of the draws that generated x, which only
        ReverseKL knows, and of no log-weight.
    :cvar num_baseline: independent draws that it needs for each estimate.
    """

    maximizes_estimate = False
    fixed_only = False
    of_generating = False
    num_baseline = 0

    @abstractmethod
    def value(
        self, loss: Any, views: SampleViews, draw_baseline: Callable[[int], jax.Array]
    ) -> jax.Array:
        """The objective in nats, shape ``(num_data, ...)``.

        :param loss: an :class:`~numpyro_sumo.losses.base.ImportanceLoss`.
        :param views: with a view GUIDE, or PATH for the score-free gradient.
        :param draw_baseline: maps a number to log-weights of as many independent draws, without
            gradient, shape ``(number, num_data, ...)``.
        """


class MaximizeEstimate(Objective):
    """The guide maximises the estimate, as the model does."""

    maximizes_estimate = True

    def value(
        self, loss: Any, views: SampleViews, draw_baseline: Callable[[int], jax.Array]
    ) -> jax.Array:
        return -loss.estimate(views.merged(GUIDE))


class MaximizeBound(Objective):
    """The guide maximises the importance-weighted bound over the draws that are always made."""

    fixed_only = True

    def value(
        self, loss: Any, views: SampleViews, draw_baseline: Callable[[int], jax.Array]
    ) -> jax.Array:
        if loss.num_fresh < 1:
            raise ValueError(
                "Expected num_particles >= 2, for the generating draw is one of them and "
                f"guide_objective='iwelbo' needs another; got {loss!r}. Raise num_particles."
            )
        view = PATH if PATH in views.kept else GUIDE
        fresh = views._replace(generating={}).merged(view)
        return -loss.fixed_bound(fresh, score_free=view == PATH)


class MinimizeVariance(Objective):
    """The squared difference between the estimate and a baseline from independent draws.

    Subtracting a baseline independent of F keeps the mean gradient, ∇ Var[F], with less variance.
    """

    num_baseline = 32

    def value(
        self, loss: Any, views: SampleViews, draw_baseline: Callable[[int], jax.Array]
    ) -> jax.Array:
        baseline = importance_weighted_bound(draw_baseline(self.num_baseline))
        difference = loss.estimate(views.merged(GUIDE)) - baseline
        # If all weights of either are zero, the gradient is zero, not 0·∞.
        return jnp.where(jnp.isfinite(difference), difference, 0.0) ** 2


class ForwardKL(Objective):
    """−log r(u | x) at the draw u that generated x."""

    fixed_only = True
    of_generating = True

    def value(
        self, loss: Any, views: SampleViews, draw_baseline: Callable[[int], jax.Array]
    ) -> jax.Array:
        assert views.log_reverse is not None
        return -views.log_reverse


#: Guide objectives by the names that users give them.
OBJECTIVES: dict[str, Objective] = {
    "estimate": MaximizeEstimate(),
    "iwelbo": MaximizeBound(),
    "variance": MinimizeVariance(),
    "forward_kl": ForwardKL(),
}


def gradient_only(x: jax.Array) -> jax.Array:
    """Zero, with the gradient of x."""
    x = jnp.where(jnp.isfinite(x), x, 0.0)
    return x - stop_gradient(x)


def _merged(views: list[Any]) -> Any:
    """One of the views, with the gradients of all."""
    first, *others = views
    for view in others:
        first = jax.tree.map(lambda leaf, other: leaf + gradient_only(other), first, view)
    return first
