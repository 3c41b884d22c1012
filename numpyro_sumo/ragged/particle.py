"""How one log-weight comes about, and what it is differentiated in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp

#: The view that is differentiable in what ``Particle.weigh`` closes over.
MODEL = "model"

#: A view of draws that are differentiated along their path: its bounds leave out the score.
PATH = "path"


def _alike(of_weight: jax.Array, proposal: Any) -> Any:
    return jax.tree.map(lambda _: of_weight, proposal)


class Particle(NamedTuple):
    """One log-weight in two steps: a draw is proposed, then weighed.

    It has several views: one and the same number, each differentiable in parameters of its own. The
    view "model" is differentiable in what ``weigh`` closes over; and each proposal is a view,
    differentiable in what it was made from. Where log-weights are scalars, one pass back through
    ``weigh`` serves all views of a random number of draws.

    :param weigh: maps (datum, key, proposal, held) to a log-weight, a scalar or a small array; no
        gradient may flow through what it closes over if ``held``, a bool.
    :param propose: maps (datum, key) to proposals by the name of their view: pytrees of arrays,
        alike in structure and in values. None is for a log-weight whose only view is "model": it
        is given None for a proposal.
    :param spread: maps an array shaped as the log-weight, and a proposal, to a pytree like the
        proposal whose leaves broadcast to its. Needed where the log-weight is not a scalar.
    """

    weigh: Callable[[Any, jax.Array, Any, bool], jax.Array]
    propose: Callable[[Any, jax.Array], dict[str, Any]] | None = None
    spread: Callable[[jax.Array, Any], Any] = _alike

    def views(self, datum: Any, key: jax.Array) -> dict[str, jax.Array]:
        """All views of a log-weight, under ordinary automatic differentiation."""
        if self.propose is None:
            return {MODEL: self.weigh(datum, key, None, False)}
        proposals = self.propose(datum, key)
        held = stop_gradient(next(iter(proposals.values())))
        views = {MODEL: self.weigh(datum, key, held, False)}
        counts = stop_gradient(views[MODEL]) > -jnp.inf
        for name, proposal in proposals.items():
            live = held_unless(counts, proposal, self.spread)
            views[name] = self.weigh(datum, key, live, True)
        return views


def held_unless(
    counts: jax.Array, proposal: Any, spread: Callable[[jax.Array, Any], Any] = _alike
) -> Any:
    """A proposal through which gradients flow only where ``counts``.

    For weights that are zero: their log-density is −∞ by overflow, say, and has no derivative, and
    nought times that would be no number.

    :param counts: booleans shaped as the log-weight.
    :param spread: as in :class:`Particle`.
    """
    choose = lambda count, value: jnp.where(count, value, stop_gradient(value))
    return jax.tree.map(choose, spread(counts, proposal), proposal)


def shared_cotangents(
    cotangents: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """One cotangent of a log-weight for all its views, and the ratio of each other's to it.

    It is the model's; where that is nought and another is not, a number too small to matter.
    """
    of_model = cotangents[MODEL]
    others = {name: cotangent for name, cotangent in cotangents.items() if name != MODEL}
    wanted = jnp.zeros(of_model.shape, bool)
    for cotangent in others.values():
        wanted |= cotangent != 0.0
    least = jnp.asarray(2.0**-80, of_model.dtype)
    shared = jnp.where(wanted & (jnp.abs(of_model) < least), least, of_model)
    divisor = jnp.where(shared == 0.0, 1.0, shared)
    return shared, {name: cotangent / divisor for name, cotangent in others.items()}
