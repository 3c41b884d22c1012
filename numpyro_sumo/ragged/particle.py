"""One log-weight as a function of a datum and a key, and the parameters it is differentiated in."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp

#: The view whose gradient goes to what ``Particle.weigh`` closes over: the model's parameters.
MODEL = "model"

#: The view whose gradient goes to the guide's parameters.
GUIDE = "guide"

#: Like GUIDE, but through reparameterised draws alone: bounds leave out the score.
PATH = "path"


def _same_for_all_leaves(of_weight: jax.Array, proposal: Any) -> Any:
    return jax.tree.map(lambda _: of_weight, proposal)


class Particle(NamedTuple):
    """One log-weight in two steps: a draw is proposed, then weighed.

    A *view* is a copy of a log-weight whose gradient reaches one set of parameters. The view
    "model" is differentiable in what ``weigh`` closes over, and the view of each proposal in what
    that proposal was computed from.

    :param weigh: maps (datum, key, proposal, detached) to a log-weight, a scalar or a small array.
        If ``detached``, a bool, no gradient may flow to what it closes over.
    :param propose: maps (datum, key) to {view: proposal}: pytrees of arrays with one structure and
        the same values. None if "model" is the only view; ``weigh`` then gets None as proposal.
    :param spread: maps an array of the log-weight's shape, and a proposal, to a pytree like the
        proposal whose leaves broadcast to its leaves. Needed if the log-weight is not a scalar.
    """

    weigh: Callable[[Any, jax.Array, Any, bool], jax.Array]
    propose: Callable[[Any, jax.Array], dict[str, Any]] | None = None
    spread: Callable[[jax.Array, Any], Any] = _same_for_all_leaves

    def views(self, datum: Any, key: jax.Array) -> dict[str, jax.Array]:
        """All views of one log-weight, under ordinary automatic differentiation."""
        if self.propose is None:
            return {MODEL: self.weigh(datum, key, None, False)}
        proposals = self.propose(datum, key)
        detached = stop_gradient(any_of(proposals))
        views = {MODEL: self.weigh(datum, key, detached, False)}
        is_positive = stop_gradient(views[MODEL]) > -jnp.inf
        for name, proposal in proposals.items():
            live = stop_gradient_where_zero(is_positive, proposal, self.spread)
            views[name] = self.weigh(datum, key, live, True)
        return views


def any_of(proposals: dict[str, Any]) -> Any:
    """One of the proposals by view, which have the same values; None if there are none."""
    return next(iter(proposals.values()), None)


def stop_gradient_where_zero(
    is_positive: jax.Array,
    proposal: Any,
    spread: Callable[[jax.Array, Any], Any] = _same_for_all_leaves,
) -> Any:
    """The proposal; gradients flow through it only where the weight is positive.

    A weight of zero has log-density −∞, by overflow for instance, whose derivative is not finite.

    :param is_positive: booleans of the log-weight's shape.
    :param spread: as in :class:`Particle`.
    """
    choose = lambda positive, value: jnp.where(positive, value, stop_gradient(value))
    return jax.tree.map(choose, spread(is_positive, proposal), proposal)


def shared_cotangent(
    cotangents: dict[str, jax.Array],
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The model's cotangent c and, for each other view, d/c, d being the view's own cotangent.

    One backward pass then serves all views. Where c = 0 and d ≠ 0, c = 2⁻⁸⁰ avoids 0/0.
    """
    of_model = cotangents[MODEL]
    others = {name: cotangent for name, cotangent in cotangents.items() if name != MODEL}
    is_wanted = jnp.zeros(of_model.shape, bool)
    for cotangent in others.values():
        is_wanted |= cotangent != 0.0
    tiny = jnp.asarray(2.0**-80, of_model.dtype)
    shared = jnp.where(is_wanted & (jnp.abs(of_model) < tiny), tiny, of_model)
    divisor = jnp.where(shared == 0.0, 1.0, shared)
    return shared, {name: cotangent / divisor for name, cotangent in others.items()}
