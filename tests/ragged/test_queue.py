"""The queue of slots: each block of each datum is evaluated exactly once, whatever the layout."""

from collections import Counter

import numpy as np
import pytest

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from numpyro_sumo.ragged import Layout
from numpyro_sumo.ragged import queue as queue_module
from numpyro_sumo.ragged.queue import Queue, Slots

COUNTS = {
    "uneven": [4, 12, 1, 3, 7],
    "none": [0, 0, 0, 0, 0],
    "zeros_between": [0, 5, 0, 0, 9, 0],
    "one_datum": [6],
    "all_alike": [3, 3, 3, 3, 3],
}
LAYOUTS = {
    "chunks_of_one": Layout(0, chunk_size=1),
    "chunks_that_do_not_divide": Layout(2, chunk_size=7),
    "a_first_chunk": Layout(1, first_chunk=8, chunk_size=3),
    "a_first_chunk_for_all": Layout(2, first_chunk=40, chunk_size=3),
    "all_fixed": Layout(12),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
every_counts = pytest.mark.parametrize("counts", COUNTS.values(), ids=COUNTS.keys())


def all_slots(counts, layout):
    """The slots before the loop and those of each chunk of it."""
    queue = Queue.of(jnp.asarray(counts), layout)
    chunks = range(int(queue.num_chunks))
    return [queue.first_slots(), *(queue.slots(jnp.array(i)) for i in chunks)]


def blocks_of(slots):
    """How often each valid (datum, block) is among some slots."""
    pairs = zip(*(np.asarray(leaf)[np.asarray(slots.valid)].tolist() for leaf in slots[:2]))
    return Counter(pairs)


@every_counts
@every_layout
def test_each_block_of_each_datum_is_in_one_slot(counts, layout):
    found = sum(map(blocks_of, all_slots(counts, layout)), Counter())
    assert found == Counter((i, b) for i, count in enumerate(counts) for b in range(count))


@every_counts
@every_layout
def test_slots_that_do_not_exist_still_name_a_datum_and_a_block(counts, layout):
    for slots in all_slots(counts, layout):
        datum, block = np.asarray(slots.datum), np.asarray(slots.block)
        assert np.all((datum >= 0) & (datum < len(counts)) & (block >= 0))
        assert np.all(block < np.maximum(np.asarray(counts)[datum], layout.num_fixed + 1))


@every_counts
@every_layout
def test_the_loop_has_no_more_chunks_than_the_blocks_need(counts, layout):
    first, *chunks = all_slots(counts, layout)
    assert len(first.datum) == layout.num_fixed * len(counts) + layout.first_chunk
    assert all(len(slots.datum) == layout.chunk_size for slots in chunks)
    beyond = sum(max(count - layout.num_fixed, 0) for count in counts) - layout.first_chunk
    assert len(chunks) == max(-(-beyond // layout.chunk_size), 0)


def test_the_first_slots_begin_with_block_0_of_every_datum():
    first, *_ = all_slots(COUNTS["uneven"], Layout(2, first_chunk=3))
    np.testing.assert_array_equal(first.datum[:10], [*range(5), *range(5)])
    np.testing.assert_array_equal(first.block[:10], [0] * 5 + [1] * 5)
    np.testing.assert_array_equal(first.valid[:10], [True] * 7 + [False, True, True])


def test_both_ways_of_searching_the_queue_give_the_same_slots(monkeypatch):
    layout = LAYOUTS["a_first_chunk"]
    by_comparison = all_slots(COUNTS["zeros_between"], layout)
    monkeypatch.setattr(queue_module, "_FEW_COMPARISONS", 0)
    methods = []
    search = jnp.searchsorted
    monkeypatch.setattr(
        jnp, "searchsorted", lambda *a, method, **k: methods.append(method) or search(*a, **k)
    )
    by_search = all_slots(COUNTS["zeros_between"], layout)
    assert set(methods) == {"scan"}
    jax.tree.map(np.testing.assert_array_equal, by_comparison, by_search)


@pytest.mark.parametrize("limit, shape", [(5, (2, 4)), (3, (3, 3)), (8, (1, 8)), (1, (8, 1))])
def test_parts_are_few_and_of_one_size_and_padded_with_slots_that_do_not_exist(limit, shape):
    slots = Slots(jnp.arange(8), 10 + jnp.arange(8), jnp.ones(8, bool))
    parts = Layout(1, max_first_chunk=limit).parts(slots)
    assert parts.datum.shape == parts.block.shape == parts.valid.shape == shape
    assert blocks_of(Slots(*map(jnp.ravel, parts))) == blocks_of(slots)
    assert int(parts.valid.sum()) == 8


@pytest.mark.parametrize("limit, splits", [(None, False), (8, False), (7, True)])
def test_the_first_slots_are_split_only_beyond_the_limit(limit, splits):
    assert Layout(1, max_first_chunk=limit).splits_first(8) == splits


def test_mask_replaces_what_slots_that_do_not_exist_hold():
    slots = Slots(jnp.arange(3), jnp.zeros(3, int), jnp.array([True, False, True]))
    leaf = jnp.array([[1.0, 2.0], [np.nan, np.inf], [3.0, 4.0]])
    np.testing.assert_array_equal(slots.mask(leaf), [[1.0, 2.0], [0.0, 0.0], [3.0, 4.0]])
    np.testing.assert_array_equal(slots.mask(leaf[:, 0], -np.inf), [1.0, -np.inf, 3.0])


def test_take_gives_each_slot_the_values_of_its_datum():
    slots = Slots(jnp.array([2, 0, 2]), jnp.array([0, 0, 1]), jnp.ones(3, bool))
    np.testing.assert_array_equal(slots.take(jnp.array([5.0, 6.0, 7.0])), [7.0, 5.0, 7.0])


def test_arrays_stay_as_they_are_without_a_mesh():
    leaf = jnp.arange(3)
    assert Layout(1).shard({"leaf": leaf})["leaf"] is leaf
    assert Layout(1).gather(leaf) is leaf


def test_arrays_are_split_over_the_mesh_axis_and_put_together_again():
    mesh = jax.make_mesh((1,), ("draws",), axis_types=(AxisType.Auto,))
    layout = Layout(1, sharding=NamedSharding(mesh, PartitionSpec("draws")))
    split = layout.shard(jnp.arange(4))
    assert split.sharding == layout.sharding
    assert layout.gather(split).sharding.spec == PartitionSpec()
