"""Levels: log-sums of weights by level, with the gradients of every draw."""

from functools import cache, partial
import itertools

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_sumo.estimators import importance_weighted_bound
from numpyro_sumo.ragged import PATH, Layout, Levels, LevelSums, evaluate_ragged
from numpyro_sumo.ragged.queue import Chunk, Queue

from .examples import KEY, counted, draw_key, params_for, particle_of, weigh

LEVELS = np.array([1, 4, 2, 3, 1])
BLOCK_SIZE, MAX_LEVEL = 3, 4
LAYOUTS = {
    "chunks_of_one": Layout(2, 0, 1, BLOCK_SIZE),
    "a_first_chunk": Layout(2, 7, 5, BLOCK_SIZE),
    "one_chunk_for_all": Layout(2, 0, 64, BLOCK_SIZE),
    "the_first_in_parts": Layout(2, 7, 5, BLOCK_SIZE, max_first_chunk=4),
    "a_limit_that_is_not_reached": Layout(2, 0, 3, BLOCK_SIZE, max_first_chunk=30),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def sums_by_level(weigh, levels, layout, max_level=MAX_LEVEL):
    """:class:`LevelSums` of all draws, from a function of (datum, key)."""
    kept = Levels(max_level, frozenset())
    return evaluate_ragged(
        KEY, particle_of(weigh), Queue.of(2 ** jnp.asarray(levels), layout), kept
    )["model"]


def reference_sums(params, levels):
    """Each draw evaluated by itself, summed by level; lists over data."""
    log_sums, bounds = [], []
    for i, level in enumerate(levels):
        draw = lambda j, i=i: weigh(params, i, draw_key(i, j))
        rows = jax.vmap(draw)(jnp.arange(2**level * BLOCK_SIZE))
        blocks = logsumexp(rows.reshape(2**level, BLOCK_SIZE, 2), axis=1)
        ends = [0, 1, *(2**k for k in range(1, level + 1))]
        log_sums.append([logsumexp(blocks[a:b], axis=0) for a, b in zip(ends, ends[1:])])
        bounds.append(jnp.sum(blocks - np.log(BLOCK_SIZE), axis=0))
    return log_sums, bounds


def read(log_sums_of, bound_of):
    """A scalar that reads every level that was drawn, each with a factor of its own."""
    total = 0.0
    for i, level in enumerate(LEVELS):
        for k in range(1 + level):
            total += jnp.cos(k + 2.0 * i) * jnp.sum(log_sums_of(i, k) * jnp.array([1.0, 0.3]))
        total += (1.0 + i) * jnp.sum(bound_of(i) * jnp.array([1.0, 0.5]))
    return total


def total(scale, layout):
    sums = sums_by_level(partial(weigh, params_for(scale)), LEVELS, layout)
    return read(
        lambda i, k: sums.log_sums[k, i] + sums.reference[i],
        lambda i: sums.bounds[i] + 2 ** LEVELS[i] * sums.reference[i],
    )


def reference_total(scale):
    log_sums, bounds = reference_sums(params_for(scale), LEVELS)
    return read(lambda i, k: log_sums[i][k], lambda i: bounds[i])


@cache
def expected_value_and_gradient():
    return jax.jit(jax.value_and_grad(reference_total))(0.7)


@every_layout
def test_sums_by_level_and_their_gradients_are_those_of_the_draws_one_by_one(layout):
    function = jax.value_and_grad(lambda scale: total(scale, layout))
    np.testing.assert_allclose(jax.jit(function)(0.7), expected_value_and_gradient(), rtol=2e-4)


def test_sums_have_one_row_per_level():
    weigh_draw = partial(weigh, params_for(jnp.array(0.7)))
    sums = jax.eval_shape(lambda: sums_by_level(weigh_draw, LEVELS, LAYOUTS["chunks_of_one"]))
    assert sums.log_sums.shape == (1 + MAX_LEVEL, 5, 2)
    assert sums.bounds.shape == sums.reference.shape == (5, 2)
    assert sums.bounds_with_generating is None


def test_sums_of_many_equal_blocks_keep_their_digits_far_from_zero():
    """At −10⁵ float32 resolves 2⁻⁷ only; n blocks of equal weight must sum to n times one."""
    far = lambda datum, key: jnp.asarray(-1e5) + 0.0 * random.normal(key)
    function = lambda levels: sums_by_level(far, levels, Layout(2), max_level=12)
    sums = jax.jit(function)(jnp.array([12]))
    expected = np.log(2.0) * np.maximum(np.arange(13) - 1, 0)
    np.testing.assert_allclose(sums.log_sums[:, 0], expected, atol=1e-3)
    assert (sums.reference[0], sums.bounds[0]) == (-1e5, 0.0)


@pytest.mark.parametrize("levels, num_chunks", [([1, 1], 0), ([2, 1], 1), ([4, 2], 4)])
def test_no_more_blocks_are_evaluated_than_were_drawn_rounded_up_to_chunks(levels, num_chunks):
    evaluations = []
    normal = counted(evaluations, lambda datum, key: random.normal(key))
    layout = Layout(2, chunk_size=4, block_size=2)
    jax.block_until_ready(jax.jit(lambda: sums_by_level(normal, levels, layout, 5))())
    jax.effects_barrier()
    assert len(evaluations) == 2 * (2 * len(levels) + 4 * num_chunks)


def test_blocks_of_zero_weights_add_nothing_to_a_level():
    often_zero = lambda _, key: jnp.log(jnp.maximum(random.normal(key), 0.0))
    layout = Layout(2, chunk_size=3)
    sums = jax.jit(lambda levels: sums_by_level(often_zero, levels, layout, 5))(jnp.array([5]))
    weights = [max(float(random.normal(draw_key(0, b))), 0.0) for b in range(32)]
    expected = [weights[0], *(sum(weights[2 ** (k - 1) : 2**k]) for k in range(1, 6))]
    absolute = sums.log_sums[:, 0] + sums.reference[0]
    np.testing.assert_allclose(np.exp(absolute), expected, rtol=1e-5)
    assert sums.bounds[0] == -np.inf


# The accumulator by itself: log-weights of shape (blocks, data, block size, 2).

ALL = np.random.default_rng(0).normal(size=(2**MAX_LEVEL, 5, BLOCK_SIZE, 2)).astype(np.float32)
GENERATING = np.random.default_rng(1).normal(size=(5, 2)).astype(np.float32)
# Block 5 of datum 3 has a weight of zero, and all weights of its block 3 are zero.
ALL[5, 3, 0], ALL[3, 3] = -np.inf, -np.inf
CHUNKED = Layout(2, first_chunk=6, chunk_size=5, block_size=BLOCK_SIZE)
KEPT = Levels(MAX_LEVEL, frozenset({"guide"}))


def chunks(log_weights=ALL):
    """The first chunk and the others, with zero log-weights where a slot does not exist."""
    queue = Queue.of(2 ** jnp.asarray(LEVELS), CHUNKED)
    of_queue = [queue.slots(jnp.array(i)) for i in range(int(queue.num_chunks))]
    return [
        Chunk(slots.mask(jnp.asarray(log_weights)[slots.block, slots.datum]), slots)
        for slots in (queue.first_slots(), *of_queue)
    ]


def final_state(first, others, generating):
    state = KEPT.init(first, 5, generating)
    for chunk in others:
        state = KEPT.update(state, chunk, generating)
    return state


def plain_sums(log_weights, generating, reference, *, score_free=False):
    """The definition of :class:`LevelSums`, from all log-weights at once."""
    bound = partial(importance_weighted_bound, score_free=score_free)
    blocks = bound(jnp.moveaxis(log_weights, 2, 0)) - reference
    log_sums = np.log(BLOCK_SIZE) + blocks
    block = np.arange(len(log_weights))[:, None]
    is_drawn = (block < 2**LEVELS)[..., None]
    rows = [log_sums[0]]
    for k in range(1, MAX_LEVEL + 1):
        in_level = (block >= 2 ** (k - 1)) & (block < 2**k)
        of_level = jnp.where(in_level[..., None] & is_drawn, log_sums, -jnp.inf)
        rows.append(importance_weighted_bound(of_level) + np.log(len(log_weights)))
    over_blocks = lambda values: jnp.sum(jnp.where(is_drawn, values, 0.0), axis=0)
    with_generating = None
    if generating is not None:
        each = jnp.broadcast_to(generating, (len(log_weights), 1, *generating.shape))
        particles = jnp.concatenate([jnp.moveaxis(each, 1, 2), log_weights], axis=2)
        with_generating = over_blocks(
            importance_weighted_bound(jnp.moveaxis(particles, 2, 0)) - reference
        )
    return LevelSums(jnp.stack(rows), over_blocks(blocks), with_generating, reference)


every_generating = pytest.mark.parametrize(
    "generating", [None, GENERATING], ids=["without", "with"]
)


@every_generating
def test_chunks_in_any_order_give_the_same_sums(generating):
    first, *others = chunks()
    assert len(others) == 4
    fold = jax.jit(lambda order, generating: final_state(first, order, generating))
    expected_of = jax.jit(lambda reference: plain_sums(jnp.asarray(ALL), generating, reference))
    for order in itertools.permutations(others):
        state = fold(order, generating)
        expected = expected_of(state.reference)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), state, expected)


def cotangent_of(sums):
    """Numbers of all sizes; none for the reference, which has no gradient."""
    leaves, structure = jax.tree.flatten(sums)
    numbers = [np.cos(1.0 + i + np.arange(leaf.size)) for i, leaf in enumerate(leaves)]
    shaped = [jnp.asarray(n, jnp.float32).reshape(leaf.shape) for n, leaf in zip(numbers, leaves)]
    return jax.tree.unflatten(structure, shaped)


@every_generating
@pytest.mark.parametrize("view", ["model", "guide", PATH])
def test_gradients_of_all_chunks_add_up_to_that_of_the_definition(view, generating):
    first, *others = chunks()
    state = jax.jit(final_state)(first, others, generating)
    found = KEPT.finalize(state, view)
    vjp = jax.jit(lambda cotangent, chunk: KEPT.vjp(cotangent, state, chunk, view, generating))
    cotangent = cotangent_of(found)._replace(reference=jnp.zeros_like(state.reference))
    if view == "guide":
        assert found.log_sums.shape == (2, 5, 2)
        assert found.bounds is found.bounds_with_generating is None
    got, of_generating = np.zeros_like(ALL), 0.0
    for chunk in (*others, first):
        of_chunk, of_generating_here = vjp(cotangent, chunk)
        np.add.at(got, (chunk.slots.block, chunk.slots.datum), of_chunk)
        of_generating += of_generating_here if generating is not None else 0.0

    def definition(log_weights, generating):
        score_free = view == PATH
        sums = plain_sums(log_weights, generating, state.reference, score_free=score_free)
        # The view of the fixed draws has the first two log-sums and no bounds.
        return sums if view != "guide" else LevelSums(sums.log_sums[:2], None, None, sums.reference)

    pull_back = lambda *arguments: jax.vjp(definition, *arguments)[1](cotangent)
    expected, expected_of_generating = jax.jit(pull_back)(jnp.asarray(ALL), generating)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
    if generating is not None:
        np.testing.assert_allclose(of_generating, expected_of_generating, rtol=1e-4, atol=1e-6)
        assert np.any(np.asarray(of_generating) != 0.0) == (view != "guide")


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (6, 0)])
def test_an_infinite_weight_without_cotangent_has_finite_gradients(place):
    """An estimate that an infinite weight makes infinite has cotangents of zero."""
    (block, particle), log_weights = place, ALL.copy()
    log_weights[block, 1, particle] = np.inf
    first, *others = chunks(log_weights)
    state = jax.jit(final_state)(first, others, None)
    np.testing.assert_array_equal(np.isposinf(state.bounds)[:, 0], np.arange(5) == 1)
    cotangent = cotangent_of(state)
    without = jax.tree.map(lambda leaf: leaf.at[..., 1, :].set(0.0), cotangent)
    vjp = jax.jit(lambda chunk: KEPT.vjp(without, state, chunk, "model", None))
    for chunk in (first, *others):
        of_chunk, _ = vjp(chunk)
        assert np.all(np.isfinite(of_chunk))
        np.testing.assert_array_equal(of_chunk[chunk.slots.datum == 1], 0.0)
