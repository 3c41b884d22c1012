"""Every log-weight kept, in a row of its own."""

from dataclasses import dataclass

import jax.numpy as jnp


@dataclass(frozen=True)
class EachSlot:
    """Keeps the log-weight of every slot in a row of its own; see :class:`~.kept.Kept`.

    :param num_rows: the largest possible number of draws.
    :param num_head: how many of them are always made.
    :param views: names of the views; those in ``head_only`` have the rows that are always made.
    """

    num_rows: int
    num_head: int
    views: tuple[str, ...]
    head_only: frozenset[str]

    def begin(self, pile, num_data, given):
        rest = pile.log_weights.shape[2:]
        rows = jnp.zeros((self.num_rows, num_data, *rest), pile.log_weights.dtype)
        return self.add(rows, pile, given), None

    def add(self, kept, pile, given):
        slots = pile.slots
        row = jnp.where(slots.valid, slots.block, self.num_rows)
        return kept.at[row, slots.datum].set(pile.log_weights[:, 0], mode="drop")

    def by_view(self, kept):
        rows = lambda view: kept[: self.num_head] if view in self.head_only else kept
        return {view: rows(view) for view in self.views}

    def nothing_behind(self, kept, given, views):
        return None

    def pull_back(self, cotangents, kept, pile, given, views, behind):
        slots = pile.slots

        def of_slots(rows):
            there = slots.valid & (slots.block < len(rows))
            of_rows = rows[jnp.minimum(slots.block, len(rows) - 1), slots.datum]
            return slots._replace(valid=there).mask(of_rows)[:, None]

        return {view: of_slots(cotangents[view]) for view in views}, None

    def pull_back_first(self, cotangents, kept, pile, given, behind, besides):
        return self.pull_back(cotangents, kept, pile, given, self.views, behind)
