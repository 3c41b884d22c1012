"""The queue of slots: which draws are evaluated together, and how their log-weights accumulate.

A slot is a place in the queue: a datum and a block of its draws. The first ``num_fixed`` blocks of
every datum come first, whatever the counts; the blocks beyond follow, datum after datum.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

#: Up to this number of comparisons, their cost is negligible next to that of a chunk.
_FEW_COMPARISONS = 2**20


class Layout(NamedTuple):
    """How draws are split into slots, and slots into chunks.

    :param num_fixed: blocks of each datum that are evaluated whatever the counts.
    :param first_chunk: slots beyond these that are evaluated together with them, before the loop.
    :param chunk_size: slots evaluated together in one iteration of the loop.
    :param block_size: draws in a block.
    :param max_first_chunk: largest number of slots evaluated at once before the loop (None: no
        limit). If exceeded, slots are evaluated in parts and recomputed in the backward pass.
    :param sharding: the mesh axis over whose devices chunks are split; None for one device.
    """

    num_fixed: int
    first_chunk: int = 0
    chunk_size: int = 1
    block_size: int = 1
    max_first_chunk: int | None = None
    sharding: NamedSharding | None = None

    def splits_first(self, num_slots: int) -> bool:
        """Whether there are too many slots before the loop to evaluate them together."""
        return self.max_first_chunk is not None and num_slots > self.max_first_chunk

    def parts(self, tree: Any) -> Any:
        """Splits arrays (slots, …) into (parts, size, …), padded with invalid slots."""
        limit = self.max_first_chunk or 1

        def in_parts(leaf: jax.Array) -> jax.Array:
            num_parts = -(-len(leaf) // limit)
            size = -(-len(leaf) // num_parts)
            widths = [(0, num_parts * size - len(leaf)), *[(0, 0)] * (leaf.ndim - 1)]
            return jnp.pad(leaf, widths).reshape(num_parts, size, *leaf.shape[1:])

        return jax.tree.map(in_parts, tree)

    def shard(self, tree: Any) -> Any:
        """The arrays, split over the devices along their leading axis."""
        if self.sharding is None:
            return tree
        num_devices = self.sharding.mesh.shape[self.sharding.spec[0]]

        def split(leaf: jax.Array) -> jax.Array:
            # Outside jit JAX can only split axes whose length the device count divides.
            if leaf.shape[0] % num_devices and not isinstance(leaf, jax.core.Tracer):
                return leaf
            return lax.with_sharding_constraint(leaf, self.sharding)

        return jax.tree.map(split, tree)

    def gather(self, leaf: jax.Array) -> jax.Array:
        """The array, put together again on every device."""
        if self.sharding is None:
            return leaf
        everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
        return lax.with_sharding_constraint(leaf, everywhere)


class Slots(NamedTuple):
    """Some slots of the queue: the datum, the block of its draws, and whether the slot exists.

    All of shape ``(slots,)``.
    """

    datum: jax.Array
    block: jax.Array
    valid: jax.Array

    def mask(self, leaf: jax.Array, otherwise: float = 0) -> jax.Array:
        """The leaf, with ``otherwise`` where the slot does not exist."""
        return jnp.where(self.valid.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, otherwise)

    def take(self, of_data: jax.Array) -> jax.Array:
        """The elements of the slots' data, from an array with a leading axis of data."""
        # One gather: XLA would otherwise gather again in every operation that reads it.
        return lax.optimization_barrier(of_data.at[self.datum].get(mode="promise_in_bounds"))


@partial(jax.tree_util.register_dataclass, data_fields=["counts", "ends"], meta_fields=["layout"])
@dataclass(frozen=True)
class Queue:
    """Where the blocks beyond the fixed ones begin and end in the queue, by datum.

    :param counts: blocks of each datum, fixed ones included, shape ``(num_data,)``.
    :param ends: where each datum's blocks end, of that shape.
    """

    counts: jax.Array
    ends: jax.Array
    layout: Layout

    @staticmethod
    def of(counts: jax.Array, layout: Layout) -> "Queue":
        """The queue of data with these counts."""
        return Queue(counts, jnp.cumsum(jnp.maximum(counts - layout.num_fixed, 0)), layout)

    @property
    def num_chunks(self) -> jax.Array:
        """Iterations of the loop: chunks that the queue has after the first."""
        beyond = jnp.maximum(self.ends[-1] - self.layout.first_chunk, 0)
        return -(-beyond // self.layout.chunk_size)

    def first_slots(self) -> Slots:
        """All fixed blocks, and the first chunk of the queue."""
        num_data, layout = len(self.counts), self.layout
        datum = jnp.tile(jnp.arange(num_data, dtype=jnp.int32), layout.num_fixed)
        block = jnp.repeat(jnp.arange(layout.num_fixed, dtype=jnp.int32), num_data)
        fixed = Slots(datum, block, block < self.counts[datum])
        if not layout.first_chunk:
            return fixed
        beyond = self._slots(jnp.array(0), layout.first_chunk)
        return Slots(*map(jnp.concatenate, zip(fixed, beyond)))

    def slots(self, index: jax.Array) -> Slots:
        """Chunk ``index`` of the loop."""
        layout = self.layout
        return self._slots(layout.first_chunk + index * layout.chunk_size, layout.chunk_size)

    def _slots(self, start: jax.Array, size: int) -> Slots:
        slot = start + jnp.arange(size)
        valid = slot < self.ends[-1]
        # Slots past the end repeat the last one: a valid draw whose result is dropped.
        slot = jnp.maximum(jnp.minimum(slot, self.ends[-1] - 1), 0)
        # Comparing with all ends compiles faster than a binary search, but costs their product.
        method = "compare_all" if len(self.ends) * size <= _FEW_COMPARISONS else "scan"
        datum = jnp.searchsorted(self.ends, slot, side="right", method=method).astype(jnp.int32)
        datum = jnp.minimum(datum, len(self.ends) - 1)
        num_fixed = self.layout.num_fixed
        lengths = jnp.maximum(self.counts - num_fixed, 0)
        block = num_fixed + (slot - (self.ends - lengths)[datum]).astype(jnp.int32)
        return Slots(datum, block, valid)


class Chunk(NamedTuple):
    """Log-weights that were evaluated together.

    :param log_weights: shape ``(slots, block_size, *rest)``, in nats.
    :param slots: their data and blocks.
    """

    log_weights: jax.Array
    slots: Slots


class Accumulator(Protocol):
    """Accumulates the statistics of log-weights that an estimate reads, chunk by chunk.

    It is additive: a chunk's derivative depends on the final state and on that chunk alone, so that
    chunks may be visited in any order and their gradients are summed.
    """

    @property
    def fixed_only(self) -> frozenset[str]:
        """Views that need the fixed draws only."""

    def init(self, first: Chunk, num_data: int, generating: jax.Array | None) -> Any:
        """The state after the first chunk, which begins with block 0 of every datum.

        :param generating: log-weights of the draws that generated the data, shape
            ``(num_data, *rest)``, or None.
        """

    def update(self, state: Any, chunk: Chunk, generating: jax.Array | None) -> Any:
        """The state after one more chunk."""

    def finalize(self, state: Any, view: str) -> Any:
        """The accumulated values of a view that ``estimate`` reads."""

    def vjp(
        self, cotangent: Any, state: Any, chunk: Chunk, view: str, generating: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Cotangents of a chunk's log-weights and of the generating draws', in one view.

        :param cotangent: of what :meth:`finalize` returned for the view.
        :param state: the final one.
        """
