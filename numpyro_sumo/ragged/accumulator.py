"""What is kept of the log-weights that a queue works off, and how derivatives go back to them."""

from typing import Any, NamedTuple, Protocol

import jax

from .slots import Slots


class Pile(NamedTuple):
    """Log-weights that were evaluated together.

    :param log_weights: shape ``(slots, block_size, *rest)``.
    :param slots: which they are of. In the first pile they are all data for each block of the head,
        in turns, and then the beginning of the queue; in the others they follow the queue.
    :param index: which pile of the loop it is, from 0; None for the first.
    """

    log_weights: jax.Array
    slots: Slots
    index: Any


class Kept(Protocol):
    """A way of keeping what an estimate needs of the log-weights, and no more.

    Piles are kept in the order of the queue, and derivatives go back to them from the last to the
    first. Everywhere ``kept`` is, on the way back, what was kept in the end; and ``given`` holds
    the log-weights of the draws that generated the data, by view.

    What was kept before a pile bears on what later piles add. So on the way back each pile hands to
    the one before it the cotangents of that: ``behind``.

    :param views: names of the views.
    :param head_only: those that are wanted of the draws that are always made, alone.
    """

    views: tuple[str, ...]
    head_only: frozenset[str]

    def begin(self, pile: Pile, num_data: int, given: Any) -> tuple[Any, Any]:
        """What is kept of the first pile; and what pulls back to it, for :meth:`pull_back_first`.

        The second is None where that needs nothing besides.
        """

    def add(self, kept: Any, pile: Pile, given: Any) -> Any:
        """What is kept with another."""

    def by_view(self, kept: Any) -> dict[str, Any]:
        """What became of it."""

    def nothing_behind(self, kept: Any, given: Any, views: tuple[str, ...]) -> Any:
        """Zero cotangents: what flows to the last pile from behind it."""

    def pull_back(
        self,
        cotangents: Any,
        kept: Any,
        pile: Pile,
        given: Any,
        views: tuple[str, ...],
        behind: Any,
    ) -> tuple[dict[str, jax.Array], Any]:
        """Cotangents of a pile's log-weights by view, and of what was kept before it."""

    def pull_back_first(
        self, cotangents: Any, kept: Any, pile: Pile, given: Any, behind: Any, besides: Any
    ) -> tuple[dict[str, jax.Array], Any]:
        """Cotangents of the first pile's log-weights by view, and of the given ones.

        :param besides: the second value of :meth:`begin`.
        """
