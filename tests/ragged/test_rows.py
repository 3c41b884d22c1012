"""Rows: every log-weight in a row of its own, whatever the order of the chunks."""

import itertools

import numpy as np
import pytest

import jax.numpy as jnp

from numpyro_sumo.ragged import Layout, Rows
from numpyro_sumo.ragged.queue import Chunk, Queue

COUNTS = np.array([3, 1, 5, 2])
LAYOUT = Layout(1, first_chunk=2, chunk_size=2)
ROWS = Rows(num_rows=6, num_fixed=1, fixed_only=frozenset({"guide"}))
ALL = np.random.default_rng(0).normal(size=(6, 4, 2)).astype(np.float32)
DRAWN = np.arange(6)[:, None] < COUNTS


def chunks():
    """The first chunk and the others, with not-a-number where a slot does not exist."""
    queue = Queue.of(jnp.asarray(COUNTS), LAYOUT)
    num_chunks = int(queue.num_chunks)
    of_queue = [queue.slots(jnp.array(i)) for i in range(num_chunks)]
    found = []
    for slots in (queue.first_slots(), *of_queue):
        log_weights = jnp.asarray(ALL)[slots.block, slots.datum][:, None]
        found.append(Chunk(slots.mask(log_weights, np.nan), slots))
    return found


def final_state(first, others):
    state = ROWS.init(first, 4, None)
    for chunk in others:
        state = ROWS.update(state, chunk, None)
    return state


def test_rows_are_those_of_the_draws_in_any_order_of_the_chunks():
    first, *others = chunks()
    assert len(others) == 3
    for order in itertools.permutations(others):
        state = final_state(first, order)
        np.testing.assert_array_equal(np.asarray(state)[DRAWN], ALL[DRAWN])
        np.testing.assert_array_equal(np.asarray(state)[~DRAWN], 0.0)


@pytest.mark.parametrize("view, num_rows", [("model", 6), ("guide", 1)])
def test_each_chunk_has_the_derivatives_of_its_draws_in_the_rows_of_the_view(view, num_rows):
    first, *others = chunks()
    state = final_state(first, others)
    assert ROWS.finalize(state, view).shape == (num_rows, 4, 2)
    cotangent = np.random.default_rng(1).normal(size=(num_rows, 4, 2)).astype(np.float32)
    found = np.zeros_like(ALL)
    for chunk in (first, *others):
        of_chunk, of_generating = ROWS.vjp(jnp.asarray(cotangent), state, chunk, view, None)
        assert of_chunk.shape == chunk.log_weights.shape and of_generating is None
        np.add.at(found, (chunk.slots.block, chunk.slots.datum), of_chunk[:, 0])
    expected = np.zeros_like(ALL)
    expected[:num_rows] = cotangent * DRAWN[:num_rows, :, None]
    np.testing.assert_array_equal(found, expected)
