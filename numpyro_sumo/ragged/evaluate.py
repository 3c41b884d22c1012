"""Evaluation of a random number of log-weights inside ``jit``, at the cost of what was drawn.

XLA needs static shapes. Here log-weights, which cost a run of model and guide each, are evaluated
for the slots (datum, draw) that were drawn, a chunk at a time, in a loop with a traced bound. What
is kept of them is sums; where all are wanted, *scalars* are padded to the largest possible count.
"""

from collections.abc import Collection
from functools import partial

import jax
from jax import random
import jax.numpy as jnp
from jax.sharding import NamedSharding

from numpyro_sumo.stopping_times import StoppingTime

from .hoisting import in_stages
from .levels import Levels, LevelSums
from .particle import MODEL, Particle
from .queue import Inputs, Layout, Steps, any_of, work_off
from .rows import EachSlot
from .tails import Tails, TailSums


def evaluate_log_weights(
    particle: Particle,
    rng_key: jax.Array,
    counts: jax.Array,
    *,
    max_count: int,
    num_head: int,
    chunk_size: int,
    first_chunk: int = 0,
    at_once: int | None = None,
    head_only: Collection[str] = (),
    sharding: NamedSharding | None = None,
) -> dict[str, jax.Array]:
    """Evaluates ``counts[i]`` log-weights for every datum i, and keeps each.

    Draw j of datum i has a key of its own, made from (i, j) alone: the numbers do not depend on
    ``num_head``, ``chunk_size`` or the other data's counts.

    The first ``num_head`` draws of every datum are evaluated whatever the counts. The rest form one
    queue of slots. Its first ``first_chunk`` are evaluated together with these; the others are
    worked off ``chunk_size`` at a time, and the backward pass goes over them once more and
    re-evaluates each chunk, so that the memory needed does not depend on how many slots there are.
    Without a rest, and all at once, it is done under ordinary automatic differentiation.

    :param particle: how a log-weight comes about, from (datum, key), an int32 scalar and a key. Its
        steps may close over traced values, and are differentiable with respect to them.
    :param rng_key: a key.
    :param counts: draws for each datum, integers ≤ ``max_count`` of shape ``(num_data,)``.
    :param max_count: the largest possible count.
    :param num_head: draws of each datum that are made whatever the counts.
    :param chunk_size: slots evaluated at a time in the loop.
    :param first_chunk: slots evaluated before it.
    :param at_once: the most slots before the loop that are evaluated together; if there are more,
        they are evaluated in parts, and again on the way back. None for no limit.
    :param head_only: views that are wanted of the first draws alone; they have ``num_head`` rows,
        and cost nothing beyond.
    :param sharding: splits what is evaluated together over the devices along one axis of a mesh:
        slots and not data, so that none waits for another's long stopping time.
    :return: by view, log-weights of shape ``(max_count, num_data, ...)``; rows from ``counts[i]``
        on are not to be read.
    """
    layout = Layout(num_head, first_chunk, chunk_size, 1, at_once, sharding)
    if max_count <= num_head and not layout.first_in_parts(num_head * len(counts)):
        return _evaluate_rows(particle, rng_key, counts, layout)
    return _evaluate(
        particle,
        rng_key,
        counts,
        layout,
        lambda views: EachSlot(max_count, num_head, views, frozenset(head_only)),
    )


def evaluate_levels(
    particle: Particle,
    rng_key: jax.Array,
    levels: jax.Array,
    *,
    block_size: int,
    max_level: int,
    chunk_size: int,
    first_chunk: int = 0,
    at_once: int | None = None,
    given: dict[str, jax.Array] | None = None,
    head_only: Collection[str] = (),
    sharding: NamedSharding | None = None,
) -> dict[str, LevelSums]:
    """Evaluates ``2**levels[i]`` blocks of log-weights for every datum i, and keeps their sums.

    Memory is that of two chunks and of ``max_level`` scalars for each datum, and draws have the
    keys they have in :func:`evaluate_log_weights`.

    :param levels: integers in 1 … ``max_level`` of shape ``(num_data,)``.
    :param block_size: draws in a block.
    :param chunk_size: blocks evaluated at a time in the loop; likewise ``first_chunk``
        and ``at_once``.
    :param given: by view, log-weights of draws that are particles of each block's bound, shape
        ``(num_data, ...)``.
    :param head_only: views that are wanted of the first two blocks alone: log-sums of two rows, and
        no bounds.
    :return: sums, by view. A view "path" is differentiated without its score, as the score-free
        :func:`~numpyro_sumo.estimators.importance_weighted_bound` is.
    """
    given = given or {}
    return _evaluate(
        particle,
        rng_key,
        jnp.left_shift(1, levels),
        Layout(2, first_chunk, chunk_size, block_size, at_once, sharding),
        lambda views: Levels(1 + max_level, views, frozenset(head_only), bool(given)),
        given,
    )


def evaluate_tails(
    particle: Particle,
    rng_key: jax.Array,
    stopping_times: jax.Array,
    stopping_time: StoppingTime,
    *,
    num_always: int,
    chunk_size: int,
    first_chunk: int = 0,
    at_once: int | None = None,
    given: dict[str, jax.Array] | None = None,
    head_only: Collection[str] = (),
    sharding: NamedSharding | None = None,
) -> dict[str, TailSums]:
    """Evaluates ``num_always + stopping_times[i]`` log-weights, and sums increments of their bound.

    Memory is that of two chunks and of a scalar for each datum and for each chunk that the longest
    stopping times would ask for. Draws have the keys they have in :func:`evaluate_log_weights`.

    :param stopping_times: K of each datum, integers in 1 … cap of shape ``(num_data,)``.
    :param stopping_time: the distribution that they were drawn from.
    :param num_always: draws of each datum that are always made, which are the head: an integer ≥ 1,
        or 0 if there are ``given`` ones.
    :param given: as in :func:`evaluate_levels`.
    :param head_only: views that are wanted of the draws that are always made, alone.
    :return: sums, by view.
    """
    given = given or {}
    num_data, cap = len(stopping_times), stopping_time.cap
    num_piles = -(-(num_data * cap - first_chunk) // chunk_size)
    return _evaluate(
        particle,
        rng_key,
        num_always + stopping_times,
        Layout(num_always, first_chunk, chunk_size, 1, at_once, sharding),
        lambda views: Tails(
            num_always,
            max(num_piles, 1),
            stopping_time,
            views,
            frozenset(head_only),
            bool(given),
        ),
        given,
    )


def _evaluate(particle, rng_key, counts, layout, keep_views, given=None):
    data, datum_keys, of_datum = _data_of(rng_key, counts)
    propose = particle.propose or (lambda i, key: {})
    proposing = in_stages(of_datum(propose), data[0], datum_keys[0])
    known = any_of(proposing.values)

    def weigh(i, draw):
        key, proposal = draw
        return particle.weigh(i, key, jax.tree.map(_integers_as_known, known, proposal), False)

    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), known)
    weighing = in_stages(of_datum(weigh), data[0], (datum_keys[0], shapes))
    steps = Steps(proposing.of_draw, weighing.of_draw, particle.spread, shapes)
    inputs = Inputs(
        tuple((step.constants, jax.vmap(step.of_datum)(data)) for step in (proposing, weighing)),
        datum_keys,
        counts,
    )
    keep = keep_views((MODEL, *proposing.values))
    return work_off(steps, keep, layout, inputs, given)


def _integers_as_known(known, leaf):
    """Integers that no draw changes, the indices of a plate say: so they are not its input."""
    is_known = isinstance(known, jax.Array) and jnp.issubdtype(known.dtype, jnp.integer)
    return known if is_known else leaf


def _evaluate_rows(particle, rng_key, counts, layout):
    """The draws of the head, and no others."""
    data, datum_keys, of_datum = _data_of(rng_key, counts)
    views = in_stages(of_datum(particle.views), data[0], datum_keys[0])
    of_data = jax.vmap(views.of_datum)(data)

    def evaluate_row(j):
        """Draw j of every datum."""
        draw = lambda key, of_datum: views.of_draw(
            random.fold_in(key, j), views.constants, of_datum
        )
        if len(data) == 1:
            # An axis of length one under all that model and guide do would cost them a tenth.
            return jax.tree.map(lambda leaf: leaf[None], draw(datum_keys[0], of_data))
        return jax.vmap(draw)(*layout.split((datum_keys, of_data)))

    rows = jnp.arange(layout.num_head, dtype=jnp.int32)
    return jax.vmap(evaluate_row)(layout.split(rows) if len(data) == 1 else rows)


def _data_of(rng_key, counts):
    """The data, their keys, and what makes a function of a datum one of an only datum, if it is."""
    data = jnp.arange(counts.shape[0], dtype=jnp.int32)
    datum_keys = jax.vmap(partial(random.fold_in, rng_key))(data)
    if len(data) > 1:
        return data, datum_keys, lambda function: function
    # What depends on an only datum is the same for all draws.
    return data, datum_keys, lambda function: lambda i, draw: function(data[0], draw)
