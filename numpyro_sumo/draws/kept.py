"""What is kept of the log-weights that a queue works off, and how derivatives go back to them."""

from dataclasses import dataclass

import jax
from jax import lax
import jax.numpy as jnp


@dataclass(frozen=True)
class EachSlot:
    """Keeps the value of every slot in a row of its own."""

    first: int
    num_rows: int
    head_only: frozenset[str]

    def reference(self, head):
        return None

    def relative(self, values, reference):
        return without(values, self.head_only)

    def nothing(self, shapes, num_data):
        shape = (self.num_rows, num_data)
        return jax.tree.map(lambda leaf: jnp.zeros((*shape, *leaf.shape), leaf.dtype), shapes)

    def add(self, kept, values, slots):
        row = jnp.where(slots.valid, slots.draw - self.first, self.num_rows)
        write = lambda rows, value: rows.at[row, slots.datum].set(value, mode="drop")
        return jax.tree.map(write, kept, values)

    def pull_back(self, cotangents, kept, values, slots):
        row = slots.draw - self.first
        return jax.tree.map(lambda leaf: slots.mask(leaf[row, slots.datum]), cotangents)


@dataclass(frozen=True)
class Levels:
    """Keeps log-sums of the blocks from the third on by level, and sums over all of them."""

    num_rows: int
    head_only: frozenset[str]

    def reference(self, head):
        first = jax.tree.map(lambda leaf: lax.stop_gradient(leaf[0]), head[0])
        return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0.0), first)

    def relative(self, values, reference):
        here = without(reference, self.head_only)
        values = tuple(without(part, self.head_only) for part in values)
        return jax.tree.map(jnp.subtract, values, (here, here))

    def nothing(self, shapes, num_data):
        log_sums, bounds = shapes
        rows = lambda leaf: jnp.full((self.num_rows, num_data, *leaf.shape), -jnp.inf, leaf.dtype)
        sums = lambda leaf: jnp.zeros((num_data, *leaf.shape), leaf.dtype)
        return jax.tree.map(rows, log_sums), jax.tree.map(sums, bounds)

    def add(self, kept, values, slots):
        row = self._row(slots.draw)

        def add_log(log_sum, value):
            value = slots.mask(value, -jnp.inf)
            top = log_sum.at[row, slots.datum].max(value)
            shift = jnp.where(jnp.isneginf(top), 0.0, top)
            terms = jnp.exp(value - shift[row, slots.datum])
            return shift + jnp.log(jnp.exp(log_sum - shift).at[row, slots.datum].add(terms))

        add = lambda bound, value: bound.at[slots.datum].add(slots.mask(value))
        return jax.tree.map(add_log, kept[0], values[0]), jax.tree.map(add, kept[1], values[1])

    def pull_back(self, cotangents, kept, values, slots):
        row = self._row(slots.draw)

        def share(cotangent, log_sum, value):
            """The log-sum's derivative in one of its terms is that term's share."""
            log_share = jnp.where(jnp.isneginf(value), -jnp.inf, value - log_sum[row, slots.datum])
            return slots.mask(cotangent[row, slots.datum] * jnp.exp(log_share))

        whole = lambda cotangent: slots.mask(cotangent[slots.datum])
        of_log_sums = jax.tree.map(share, cotangents[0], kept[0], values[0])
        return of_log_sums, jax.tree.map(whole, cotangents[1])

    def _row(self, block):
        """Blocks 2 and 3 are level 2 and row 0, blocks 4 to 7 are level 3 and row 1, and so on."""
        return 30 - lax.clz(block)


def without(values, names):
    """A dict without some of its entries; anything else as it is."""
    return {n: v for n, v in values.items() if n not in names} if names else values
