"""What is accumulated of log-weights chunk by chunk, and how derivatives go back to a chunk."""

from typing import Any, NamedTuple, Protocol

import jax

from .queue import Slots


class Chunk(NamedTuple):
    """Log-weights that were evaluated together.

    :param log_weights: shape ``(slots, block_size, *rest)``, in nats.
    :param slots: their data and blocks.
    """

    log_weights: jax.Array
    slots: Slots


class Accumulator(Protocol):
    """Accumulates what an estimate needs of the log-weights, chunk by chunk.

    It is additive: a chunk's derivative depends on the final state and on that chunk alone, so that
    chunks may be visited in any order and their gradients are summed.
    """

    @property
    def fixed_only(self) -> frozenset[str]:
        """Views of which only the fixed draws are wanted."""

    def init(self, first: Chunk, num_data: int, generating: jax.Array | None) -> Any:
        """The state after the first chunk, which begins with block 0 of every datum.

        :param generating: log-weights of the draws that generated the data, shape
            ``(num_data, *rest)``, or None.
        """

    def update(self, state: Any, chunk: Chunk, generating: jax.Array | None) -> Any:
        """The state after one more chunk."""

    def finalize(self, state: Any, view: str) -> Any:
        """What the estimators are given of a view."""

    def vjp(
        self, cotangent: Any, state: Any, chunk: Chunk, view: str, generating: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Cotangents of a chunk's log-weights and of the generating draws', in one view.

        :param cotangent: of what :meth:`finalize` returned for the view.
        :param state: the final one.
        """
