"""A queue of slots (datum, block of draws), as many as were drawn, worked off a chunk at a time."""

from collections.abc import Callable
from functools import partial
import math
from typing import Any, NamedTuple

import jax
from jax import lax, random
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from .accumulator import Kept, Pile
from .particle import MODEL, shared_cotangents
from .slots import Slots


class Layout(NamedTuple):
    """How draws are cut up into slots, and slots into chunks.

    :param num_head: blocks of each datum that are evaluated whatever was drawn.
    :param first_chunk: slots of the queue that are evaluated together with these, before the loop.
    :param chunk_size: slots that are evaluated together after that, once more on the way back.
    :param block_size: draws in a block.
    :param at_once: the most slots before the loop that are evaluated together; None for no limit.
        If they are no more, what their derivative needs is kept; else they are evaluated in parts,
        and again on the way back.
    :param sharding: along which axis of which mesh a chunk is split over devices; None leaves it
        whole.
    """

    num_head: int
    first_chunk: int
    chunk_size: int
    block_size: int
    at_once: int | None
    sharding: NamedSharding | None

    def first_in_parts(self, num_slots: int) -> bool:
        """Whether so many slots before the loop are too many to be evaluated together."""
        return self.at_once is not None and num_slots > self.at_once

    def parts(self, tree: Any) -> Any:
        """The arrays in the fewest parts, alike, filled up with zeros: slots that do not exist."""

        def in_parts(leaf):
            num_parts = -(-len(leaf) // self.at_once)
            size = -(-len(leaf) // num_parts)
            widths = [(0, num_parts * size - len(leaf)), *[(0, 0)] * (leaf.ndim - 1)]
            return jnp.pad(leaf, widths).reshape(num_parts, size, *leaf.shape[1:])

        return jax.tree.map(in_parts, tree)

    def split(self, tree: Any) -> Any:
        """The arrays, split over devices along their leading axis."""
        if self.sharding is None:
            return tree
        num_devices = self.sharding.mesh.shape[self.sharding.spec[0]]

        def split(leaf):
            # Outside jit JAX has no way to split what does not divide.
            if leaf.shape[0] % num_devices and not isinstance(leaf, jax.core.Tracer):
                return leaf
            return lax.with_sharding_constraint(leaf, self.sharding)

        return jax.tree.map(split, tree)

    def whole(self, leaf: jax.Array) -> jax.Array:
        """The array, put together again on every device."""
        if self.sharding is None:
            return leaf
        everywhere = NamedSharding(self.sharding.mesh, PartitionSpec())
        return lax.with_sharding_constraint(leaf, everywhere)


class Steps(NamedTuple):
    """The two steps of a particle, of one slot; they close over nothing that is traced.

    A custom derivative could not see it.

    :param propose: maps a key, constants, and what is known of the datum, to proposals by view.
    :param weigh: maps a key and a proposal, and likewise, to a log-weight.
    :param spread: see :class:`~numpyro_sumo.ragged.Particle`.
    :param proposal: shapes and types of one, or None.
    """

    propose: Callable[..., dict[str, Any]]
    weigh: Callable[..., jax.Array]
    spread: Callable[[jax.Array, Any], Any]
    proposal: Any


class Inputs(NamedTuple):
    """What log-weights are functions of, besides the slots.

    :param steps: of each of the two steps constants, and what is known of the data, with a leading
        axis: pytrees of arrays.
    :param datum_keys: shape ``(num_data,)``.
    :param counts: blocks of each datum, of that shape.
    """

    steps: tuple[Any, Any]
    datum_keys: jax.Array
    counts: jax.Array


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def work_off(steps: Steps, keep: Kept, layout: Layout, inputs: Inputs, given: Any) -> Any:
    """What is kept of all draws, by view.

    The backward pass goes over the queue once more, from its end, and evaluates it again, but for
    what was evaluated before the loop all together: log-weights are held for two chunks at a time,
    however many slots there are.

    :param keep: what is done with log-weights.
    :param given: by view, log-weights of the draws that generated the data, for ``keep``.
    """
    slots = _first_slots(layout, inputs.counts)
    first = Pile(_first_evaluated(steps, layout, inputs, slots), slots, None)
    return keep.by_view(_all_kept(steps, keep, layout, inputs, given, first)[0])


def _all_kept(steps, keep, layout, inputs, given, first):
    """What is kept of the first slots and of all chunks, and what the first ask for besides."""

    def work_chunk(state):
        index, kept = state
        slots = _slots(layout, inputs.counts, index)
        pile = Pile(_evaluated(steps, layout, inputs, slots), slots, index)
        return index + 1, keep.add(kept, pile, given)

    num_chunks = _num_chunks(layout, inputs.counts)
    kept, besides = keep.begin(first, len(inputs.counts), given)
    _, kept = lax.while_loop(lambda state: state[0] < num_chunks, work_chunk, (0, kept))
    return kept, besides


def _forward(steps, keep, layout, inputs, given):
    slots = _first_slots(layout, inputs.counts)
    if layout.first_in_parts(len(slots.datum)):
        log_weights, pull_back_first = _first_evaluated(steps, layout, inputs, slots), None
    else:
        log_weights, pull_back_first = _linearised(steps, layout, inputs, slots, keep.views)
    first = Pile(log_weights, slots, None)
    kept, besides = _all_kept(steps, keep, layout, inputs, given, first)
    return keep.by_view(kept), (inputs, given, kept, besides, first, pull_back_first)


def _backward(steps, keep, layout, residuals, cotangents):
    inputs, given, kept, besides, first, pull_back_first = residuals
    views = tuple(view for view in keep.views if view not in keep.head_only)

    def add_chunk(state):
        index, gradients, behind = state
        slots = _slots(layout, inputs.counts, index)
        log_weights, pull_back = _linearised(steps, layout, inputs, slots, views)
        pile = Pile(log_weights, slots, index)
        of_slots, behind = keep.pull_back(cotangents, kept, pile, given, views, behind)
        here = _pulled_back(steps, layout, pull_back, log_weights, of_slots)
        return index - 1, jax.tree.map(jnp.add, gradients, here), behind

    last = _num_chunks(layout, inputs.counts) - 1
    nothing = tuple(list(map(jnp.zeros_like, _floats_of(step))) for step in inputs.steps)
    start = (last, nothing, keep.nothing_behind(kept, given, views))
    _, gradients, behind = lax.while_loop(lambda state: state[0] >= 0, add_chunk, start)
    of_slots, of_given = keep.pull_back_first(cotangents, kept, first, given, behind, besides)
    if pull_back_first is None:

        def add_part(gradients, part):
            slots, of_slots = part
            log_weights, pull_back = _linearised(steps, layout, inputs, slots, keep.views)
            here = _pulled_back(steps, layout, pull_back, log_weights, of_slots)
            return jax.tree.map(jnp.add, gradients, here), None

        parts = layout.parts((first.slots, of_slots))
        gradients, _ = lax.scan(add_part, gradients, parts)
    else:
        of_first = _pulled_back(steps, layout, pull_back_first, first.log_weights, of_slots)
        gradients = jax.tree.map(jnp.add, gradients, of_first)
    return Inputs(tuple(map(_cotangent, inputs.steps, gradients)), None, None), of_given


work_off.defvjp(_forward, _backward)


def _evaluated(steps, layout, inputs, slots):
    """Log-weights of slots, shape ``(slots, block_size, *rest)``."""
    slots, (of_propose, of_weigh) = layout.split(slots), inputs.steps
    keys = _keys(layout, inputs, slots)
    proposals = _over_draws(steps.propose, slots, keys, *of_propose)
    return layout.whole(_over_draws(steps.weigh, slots, (keys, any_of(proposals)), *of_weigh))


def _first_evaluated(steps, layout, inputs, slots):
    """The same, of the slots before the loop."""
    num_slots = len(slots.datum)
    if not layout.first_in_parts(num_slots):
        return _evaluated(steps, layout, inputs, slots)
    parts = lax.map(partial(_evaluated, steps, layout, inputs), layout.parts(slots))
    return parts.reshape(-1, *parts.shape[2:])[:num_slots]


def _linearised(steps, layout, inputs, slots, views):
    """Log-weights of slots, and what pulls cotangents back through each of the two steps."""
    slots, (of_propose, of_weigh) = layout.split(slots), inputs.steps
    keys = _keys(layout, inputs, slots)

    def propose(floats):
        proposals = _over_draws(steps.propose, slots, keys, *_with_floats(of_propose, floats))
        return {view: _floats_of(proposals[view]) for view in views[1:]}, any_of(proposals)

    def weigh(floats, draws):
        draws = keys, _with_floats(proposal, draws)
        return _over_draws(steps.weigh, slots, draws, *_with_floats(of_weigh, floats))

    _, pull_propose, proposal = jax.vjp(propose, _floats_of(of_propose), has_aux=True)
    log_weights, pull_weigh = jax.vjp(weigh, _floats_of(of_weigh), _floats_of(proposal))
    return layout.whole(log_weights), (pull_propose, pull_weigh)


def _pulled_back(steps, layout, pull_back, log_weights, cotangents):
    """Derivatives in the floats of each of the two steps, from cotangents by view."""
    pull_propose, pull_weigh = pull_back
    cotangents = layout.split(cotangents)

    def times(factor, of_draw):
        factors = zip(*map(jax.tree.leaves, (steps.spread(factor, steps.proposal), steps.proposal)))
        factors = [factor for factor, like in factors if _is_float(like)]
        scaled = lambda f, leaf: jnp.where(f == 0.0, 0.0, f * leaf).astype(leaf.dtype)
        return list(map(scaled, factors, of_draw))

    over_draws = jax.vmap(jax.vmap(times))
    if math.prod(log_weights.shape[2:]) == 1:
        shared, ratios = shared_cotangents(cotangents)
        of_weigh, of_draws = pull_weigh(shared)
        by_view = {view: over_draws(ratio, of_draws) for view, ratio in ratios.items()}
    else:
        # Elements of a log-weight may depend on each other's draws: no ratio is that of a draw.
        others = [view for view in cotangents if view != MODEL]
        of_weigh, _ = pull_weigh(cotangents[MODEL])
        counts = (log_weights > -jnp.inf).astype(log_weights.dtype)
        by_view = {view: over_draws(counts, pull_weigh(cotangents[view])[1]) for view in others}
    return *pull_propose(by_view), of_weigh


def _keys(layout, inputs, slots):
    """The key of each draw, shape ``(slots, block_size)``."""
    draws = slots.block[:, None] * layout.block_size + jnp.arange(layout.block_size)
    over_block = jax.vmap(random.fold_in, in_axes=(None, 0))
    return jax.vmap(over_block)(inputs.datum_keys[slots.datum], draws)


def _over_draws(function, slots, draws, constants, of_data):
    """A function of (draw, constants, datum) at every draw of every slot."""
    of_slots = jax.tree.map(slots.of_data, of_data)
    if jax.tree.leaves(draws)[0].shape[1] > 1:
        function = jax.vmap(function, in_axes=(0, None, None))
        return jax.vmap(function, in_axes=(0, None, 0))(draws, constants, of_slots)
    # An axis of length one under all that model and guide do would cost them a tenth.
    only = jax.tree.map(lambda leaf: leaf[:, 0], draws)
    values = jax.vmap(function, in_axes=(0, None, 0))(only, constants, of_slots)
    return jax.tree.map(lambda leaf: leaf[:, None], values)


def any_of(proposals):
    """One of the proposals by view: they have the same values. None if there are none."""
    return next(iter(proposals.values()), None)


def _is_float(leaf):
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def _floats_of(tree):
    """The leaves that have derivatives."""
    return [leaf for leaf in jax.tree.leaves(tree) if _is_float(leaf)]


def _with_floats(tree, floats):
    """The tree with others in their places."""
    floats = iter(floats)
    return jax.tree.map(lambda leaf: next(floats) if _is_float(leaf) else leaf, tree)


def _cotangent(tree, of_floats):
    """The cotangent of a tree, from those of its leaves that have one."""
    of_floats = iter(of_floats)
    return jax.tree.map(lambda leaf: next(of_floats) if _is_float(leaf) else None, tree)


def _lengths(layout, counts):
    """Blocks of each datum in the queue."""
    return jnp.maximum(counts - layout.num_head, 0)


def _num_chunks(layout, counts):
    """Chunks of the queue after the first."""
    beyond = jnp.maximum(jnp.sum(_lengths(layout, counts)) - layout.first_chunk, 0)
    return -(-beyond // layout.chunk_size)


def _first_slots(layout, counts):
    """All blocks of the head, and the first chunk of the queue."""
    num_data = len(counts)
    datum = jnp.tile(jnp.arange(num_data, dtype=jnp.int32), layout.num_head)
    block = jnp.repeat(jnp.arange(layout.num_head, dtype=jnp.int32), num_data)
    head = Slots(datum, block, block < counts[datum])
    if not layout.first_chunk:
        return head
    queue = _queued(layout, counts, 0, layout.first_chunk)
    return Slots(*map(jnp.concatenate, zip(head, queue)))


def _slots(layout, counts, index):
    """A chunk of the queue after the first."""
    start = layout.first_chunk + index * layout.chunk_size
    return _queued(layout, counts, start, layout.chunk_size)


def _queued(layout, counts, start, size):
    lengths = _lengths(layout, counts)
    ends = jnp.cumsum(lengths)
    slot = start + jnp.arange(size)
    valid = slot < ends[-1]
    # Slots past the end repeat the last one: a sound draw, of which nothing is kept.
    slot = jnp.maximum(jnp.minimum(slot, ends[-1] - 1), 0)
    datum = jnp.searchsorted(ends, slot, side="right", method="scan_unrolled").astype(jnp.int32)
    datum = jnp.minimum(datum, len(lengths) - 1)
    block = layout.num_head + (slot - (ends[datum] - lengths[datum])).astype(jnp.int32)
    return Slots(datum, block, valid)
