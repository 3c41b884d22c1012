"""Ragged evaluation: the same numbers and gradients however the work is cut up."""

from collections import Counter
from functools import cache, partial

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from numpyro_sumo.ragged import Particle, evaluate_levels, evaluate_log_weights
from tests.helpers.compiling import quick_jit

KEY = random.key(3)
MAX_COUNT = 12
COUNTS = np.array([4, 12, 1, 3, 7])

LAYOUTS = {
    "all_in_the_head": {"num_head": MAX_COUNT, "chunk_size": 1},
    "no_head": {"num_head": 0, "chunk_size": 4},
    "one_at_a_time": {"num_head": 1, "chunk_size": 1},
    "chunks_that_do_not_divide": {"num_head": 2, "chunk_size": 7},
    "a_first_chunk": {"num_head": 1, "chunk_size": 3, "first_chunk": 8},
    "a_first_chunk_for_all": {"num_head": 2, "chunk_size": 3, "first_chunk": 40},
    "the_first_in_parts": {"num_head": 2, "chunk_size": 3, "first_chunk": 4, "at_once": 5},
    "all_in_the_head_in_parts": {"num_head": MAX_COUNT, "chunk_size": 1, "at_once": 7},
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def params_for(scale):
    """A pytree of traced floats beside integers, which have no gradient."""
    return {"nested": (scale, jnp.array([0.5, -1.0])), "count": jnp.array(3), "shift": 2.0 * scale}


def weigh(params, datum, key):
    """Two numbers that depend on params, on the datum and on the key."""
    scale, pair = params["nested"]
    noise = random.normal(key, (2,))
    vector = jnp.sin(scale * noise + datum) * pair + params["shift"]
    return vector * jnp.array([params["count"], jnp.sum(vector)])


def particle_of(weigh):
    """What has one view, by a function of (datum, key) alone."""
    return Particle(lambda datum, key, *_: weigh(datum, key))


def evaluate(params, counts, *, key=KEY, **layout):
    return evaluate_log_weights(
        particle_of(partial(weigh, params)),
        key,
        jnp.asarray(counts),
        max_count=MAX_COUNT,
        **layout,
    )["model"]


def evaluate_plainly(params, key=KEY):
    """Every draw on its own, from the key that the documentation says is its."""
    draw = lambda i, j: weigh(params, i, random.fold_in(random.fold_in(key, i), j))
    over_data = jax.vmap(draw, in_axes=(0, None))
    return jax.vmap(over_data, in_axes=(None, 0))(jnp.arange(5), jnp.arange(MAX_COUNT))


def drawn(counts):
    """Which rows of which datum are to be read."""
    return jnp.arange(MAX_COUNT)[:, None] < jnp.asarray(counts)


def total(rows, counts):
    """A scalar that reads the drawn rows, each number with a factor of its own."""
    factors = jnp.cos(jnp.arange(MAX_COUNT)[:, None] + jnp.arange(len(counts)))
    read = factors * rows[..., 0] + factors**2 * rows[..., 1]
    return jnp.sum(jnp.where(drawn(counts), read, 0.0))


def total_evaluated(scale, counts, **layout):
    return total(evaluate(params_for(scale), counts, **layout), counts)


LAYOUT = ("num_head", "chunk_size", "first_chunk", "at_once")
rows_of = quick_jit(evaluate, static_argnames=LAYOUT)
plain_rows_of = quick_jit(evaluate_plainly)
value_and_gradient_of = quick_jit(jax.value_and_grad(total_evaluated), static_argnames=LAYOUT)
plain_value_and_gradient_of = quick_jit(
    jax.value_and_grad(lambda scale, counts: total(evaluate_plainly(params_for(scale)), counts))
)


@every_layout
def test_every_draw_is_that_of_its_datum_and_index_alone(layout):
    params = params_for(jnp.array(0.7))
    rows = rows_of(params, COUNTS, **layout)
    expected = plain_rows_of(params)
    assert rows.shape == (MAX_COUNT, 5, 2)
    got, wanted = (np.asarray(each)[drawn(COUNTS)] for each in (rows, expected))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@every_layout
def test_draws_do_not_change_when_other_counts_do(layout):
    params = params_for(jnp.array(0.7))
    others = np.array([4, 2, 9, 12, 1])
    rows, other_rows = (rows_of(params, counts, **layout) for counts in (COUNTS, others))
    in_both = drawn(COUNTS) & drawn(others)
    np.testing.assert_array_equal(np.asarray(rows)[in_both], np.asarray(other_rows)[in_both])


@every_layout
def test_value_and_gradient_are_those_of_plain_evaluation(layout):
    got = value_and_gradient_of(0.7, COUNTS, **layout)
    np.testing.assert_allclose(got, plain_value_and_gradient_of(0.7, COUNTS), rtol=1e-4)


@pytest.mark.parametrize("name", ["no_head", "chunks_that_do_not_divide"])
def test_nothing_but_the_head_may_be_drawn(name):
    counts = np.array([2, 1, 0, 0, 2]) if LAYOUTS[name]["num_head"] else np.zeros(5, int)
    got = value_and_gradient_of(0.7, counts, **LAYOUTS[name])
    np.testing.assert_allclose(got, plain_value_and_gradient_of(0.7, counts), rtol=1e-4)


def test_gradients_under_vmap_over_seeds_are_those_of_each_seed():
    layout = LAYOUTS["chunks_that_do_not_divide"]
    keys = random.split(random.key(8), 3)
    counts = jnp.array([[1, 5, 2, 1, 1], [12, 1, 1, 1, 3], [3, 3, 3, 3, 3]])
    one_by_one = [value_and_gradient_of(0.7, c, **layout, key=key) for key, c in zip(keys, counts)]
    assert len({float(gradient) for _, gradient in one_by_one}) == 3
    over_seeds = jax.vmap(lambda key, c: value_and_gradient_of(0.7, c, **layout, key=key))
    together = np.transpose(over_seeds(keys, counts))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4)


def test_gradients_reach_every_leaf_closed_over():
    def gradients(evaluate):
        function = lambda floats: total(evaluate({**floats, "count": jnp.array(3)}), COUNTS)
        return quick_jit(jax.grad(function))(
            {"nested": (jnp.array(0.7), jnp.array([0.5, -1.0])), "shift": jnp.array(1.4)}
        )

    got = gradients(partial(evaluate, counts=COUNTS, num_head=1, chunk_size=4))
    expected = gradients(evaluate_plainly)
    assert all(np.all(leaf != 0.0) for leaf in jax.tree.leaves(expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), got, expected)


def test_old_style_keys_give_the_draws_of_new_style_ones():
    params = params_for(jnp.array(0.7))
    layout = LAYOUTS["chunks_that_do_not_divide"]
    old = rows_of(params, COUNTS, key=random.PRNGKey(3), **layout)
    new = plain_rows_of(params, random.key(3))
    read = drawn(COUNTS)
    np.testing.assert_allclose(np.asarray(old)[read], np.asarray(new)[read], rtol=1e-5, atol=1e-6)


LEVELS = np.array([1, 4, 2, 3, 1])
BLOCK_SIZE, MAX_LEVEL = 3, 4
#: chunk_size, first_chunk, at_once
CHUNKS_OF_BLOCKS = [(1, 0, None), (5, 7, None), (64, 0, None), (5, 7, 4), (3, 0, 30)]


def levels_in_chunks(params, levels, chunk_size, first_chunk=0, at_once=None):
    return evaluate_levels(
        particle_of(partial(weigh, params)),
        KEY,
        jnp.asarray(levels),
        block_size=BLOCK_SIZE,
        max_level=MAX_LEVEL,
        first_chunk=first_chunk,
        chunk_size=chunk_size,
        at_once=at_once,
    )["model"]


def plain_levels(params, levels):
    """The same by hand: every draw on its own, summed by level."""
    log_sums, bounds = [], []
    for i, level in enumerate(levels):
        key = random.fold_in(KEY, i)
        draw = lambda j, i=i, key=key: weigh(params, i, random.fold_in(key, j))
        rows = jax.vmap(draw)(jnp.arange(2**level * BLOCK_SIZE))
        blocks = logsumexp(rows.reshape(2**level, BLOCK_SIZE, 2), axis=1)
        ends = [0, 1, *(2**k for k in range(1, level + 1))]
        log_sums.append([logsumexp(blocks[a:b], axis=0) for a, b in zip(ends, ends[1:])])
        bounds.append(jnp.sum(blocks - np.log(BLOCK_SIZE), axis=0))
    return log_sums, bounds


def read_levels(log_sums_of, bound_of, levels):
    """A scalar that reads every level that was drawn, each with a factor of its own."""
    total = 0.0
    for i, level in enumerate(levels):
        for k in range(1 + level):
            total += jnp.cos(k + 2.0 * i) * jnp.sum(log_sums_of(i, k) * jnp.array([1.0, 0.3]))
        total += (1.0 + i) * jnp.sum(bound_of(i) * jnp.array([1.0, 0.5]))
    return total


def levels_total(scale, levels, *chunks):
    sums = levels_in_chunks(params_for(scale), levels, *chunks)
    return read_levels(
        lambda i, k: sums.log_sums[k, i] + sums.reference[i],
        lambda i: sums.bounds[i] + 2 ** LEVELS[i] * sums.reference[i],
        LEVELS,
    )


def plain_levels_total(scale):
    log_sums, bounds = plain_levels(params_for(scale), LEVELS)
    return read_levels(lambda i, k: log_sums[i][k], lambda i: bounds[i], LEVELS)


@cache
def expected_of_levels():
    return quick_jit(jax.value_and_grad(plain_levels_total))(0.7)


@pytest.mark.parametrize("chunks", CHUNKS_OF_BLOCKS)
def test_levels_are_sums_of_the_very_draws_and_so_are_their_gradients(chunks):
    function = jax.value_and_grad(lambda scale: levels_total(scale, LEVELS, *chunks))
    np.testing.assert_allclose(quick_jit(function)(0.7), expected_of_levels(), rtol=2e-4)


def test_levels_have_the_shapes_of_what_is_kept_and_nothing_more():
    sums = jax.eval_shape(lambda: levels_in_chunks(params_for(jnp.array(0.7)), LEVELS, 4))
    assert sums.log_sums.shape == (1 + MAX_LEVEL, 5, 2)
    assert sums.bounds.shape == sums.reference.shape == (5, 2)
    assert sums.bounds_with_given is None


def test_sums_of_many_blocks_keep_their_digits_far_from_zero():
    """Where float32 resolves 2⁻⁷ only, blocks alike must sum to as many as there are."""

    far = particle_of(lambda datum, key: jnp.asarray(-1e5) + 0.0 * random.normal(key))
    function = lambda levels: evaluate_levels(
        far, KEY, levels, block_size=1, max_level=12, chunk_size=1
    )
    sums = quick_jit(function)(jnp.array([12]))["model"]
    expected = np.log(2.0) * np.maximum(np.arange(13) - 1, 0)
    np.testing.assert_allclose(sums.log_sums[:, 0], expected, atol=1e-3)
    assert (sums.reference[0], sums.bounds[0]) == (-1e5, 0.0)


@pytest.mark.parametrize("levels, num_chunks", [([1, 1], 0), ([2, 1], 1), ([4, 2], 4)])
def test_no_more_blocks_are_evaluated_than_were_drawn_rounded_up_to_chunks(levels, num_chunks):
    evaluations = []

    def counted(datum, key):
        jax.debug.callback(lambda *_: evaluations.append(1), datum, random.key_data(key))
        return random.normal(key)

    function = lambda: evaluate_levels(
        particle_of(counted), KEY, jnp.array(levels), block_size=2, max_level=5, chunk_size=4
    )
    jax.block_until_ready(quick_jit(function)())
    jax.effects_barrier()
    assert len(evaluations) == 2 * (2 * len(levels) + 4 * num_chunks)


def test_blocks_of_zero_weights_are_nothing_in_a_sum_of_levels():
    often_zero = particle_of(lambda _, key: jnp.log(jnp.maximum(random.normal(key), 0.0)))
    function = lambda levels: evaluate_levels(
        often_zero, KEY, levels, block_size=1, max_level=5, chunk_size=3
    )
    sums = quick_jit(function)(jnp.array([5]))["model"]
    weights = [
        max(float(random.normal(random.fold_in(random.fold_in(KEY, 0), b))), 0.0) for b in range(32)
    ]
    expected = [weights[0], *(sum(weights[2 ** (k - 1) : 2**k]) for k in range(1, 6))]
    absolute = sums.log_sums[:, 0] + sums.reference[0]
    np.testing.assert_allclose(np.exp(absolute), expected, rtol=1e-5)
    assert sums.bounds[0] == -np.inf


EVALUATIONS = {
    # counts, num_head, first_chunk, chunk_size, evaluations before the loop, chunks
    "head_only": ([3, 3], 12, 0, 4, 24, 0),
    "tail_within_head": ([1, 2, 0], 2, 0, 4, 6, 0),
    "full_chunks": ([4, 10], 3, 0, 4, 6, 2),
    "one_chunk_for_all": ([4, 3], 1, 0, 50, 2, 1),
    "no_head": ([1, 0, 12], 0, 0, 6, 0, 3),
    "a_first_chunk": ([4, 10], 3, 5, 4, 11, 1),
}


@pytest.mark.parametrize(
    "counts, num_head, first_chunk, chunk_size, before_loop, num_chunks",
    EVALUATIONS.values(),
    ids=EVALUATIONS.keys(),
)
def test_no_more_is_evaluated_than_was_drawn_rounded_up_to_chunks(
    counts, num_head, first_chunk, chunk_size, before_loop, num_chunks
):
    evaluations = []

    def counted(scale, datum, key):
        # the key is an argument so that vmap makes one call for every evaluation
        note = lambda i, _: evaluations.append(int(i))
        jax.debug.callback(note, datum, random.key_data(key))
        return scale * datum

    def summed(scale):
        rows = evaluate_log_weights(
            particle_of(partial(counted, scale)),
            KEY,
            jnp.asarray(counts),
            max_count=MAX_COUNT,
            num_head=num_head,
            first_chunk=first_chunk,
            chunk_size=chunk_size,
        )["model"]
        return jnp.sum(jnp.where(drawn(counts), rows, 0.0))

    quick_jit(summed)(0.5).block_until_ready()
    jax.effects_barrier()
    assert len(evaluations) == before_loop + num_chunks * chunk_size
    lengths = np.maximum(np.array(counts) - num_head, 0)
    # Every datum has its draws; only fillers of the last chunk come besides.
    surplus = Counter(evaluations) - Counter(np.repeat(np.arange(len(counts)), num_head + lengths))
    num_slots = first_chunk + num_chunks * chunk_size
    assert surplus.total() == num_slots - lengths.sum() < chunk_size

    evaluations.clear()
    quick_jit(jax.grad(summed))(0.5).block_until_ready()
    jax.effects_barrier()
    # The backward pass evaluates each chunk of the loop once more, and nothing else again.
    assert len(evaluations) == before_loop + 2 * num_chunks * chunk_size


def test_first_draws_that_are_too_many_are_evaluated_in_parts_and_again_on_the_way_back():
    evaluations = []

    def counted(scale, datum, key):
        jax.debug.callback(lambda i, _: evaluations.append(int(i)), datum, random.key_data(key))
        return scale * datum

    def summed(scale):
        return jnp.sum(
            evaluate_log_weights(
                particle_of(partial(counted, scale)),
                KEY,
                jnp.full(5, 3),
                max_count=3,
                num_head=3,
                chunk_size=1,
                at_once=4,
            )["model"]
        )

    value, gradient = quick_jit(jax.value_and_grad(summed))(0.5)
    jax.effects_barrier()
    assert (value, gradient) == (0.5 * 30, 30)
    # Fifteen draws in four parts alike, of four; datum 0 fills the last of them.
    assert Counter(evaluations) == Counter({0: 8, **dict.fromkeys(range(1, 5), 6)})


def test_log_weight_is_traced_once_and_compiled_once_whatever_the_counts():
    traces = []

    def traced(scale, datum, key):
        traces.append(datum)
        return scale * random.normal(key) + datum

    @quick_jit
    def summed(scale, counts):
        rows = evaluate_log_weights(
            particle_of(partial(traced, scale)),
            KEY,
            counts,
            max_count=MAX_COUNT,
            num_head=2,
            chunk_size=3,
        )["model"]
        return jnp.sum(jnp.where(drawn(counts), rows, 0.0))

    values = {float(summed(0.5, jnp.array(c))) for c in ([1, 2], [12, 1], [5, 5], [0, 0])}
    assert len(values) == 4
    assert len(traces) == 1
    assert summed._cache_size() == 1


def captured_of_every_kind(scale, key, data):
    """Closes over a float, an integer array and a key, and reads all three."""

    def log_weight(i, slot_key):
        noise = random.normal(random.fold_in(key, data[i])) + random.normal(slot_key)
        return scale * noise * data[i]

    rows = evaluate_log_weights(
        particle_of(log_weight),
        random.key(0),
        jnp.array([2, 5, 3]),
        max_count=6,
        num_head=2,
        chunk_size=4,
    )["model"]
    drawn = jnp.arange(6)[:, None] < jnp.array([2, 5, 3])
    return jnp.sum(jnp.where(drawn, rows, 0.0) ** 2)


ORDERS = {
    "grad of jit": lambda f: jax.grad(jax.jit(f)),
    "jit of grad": lambda f: jax.jit(jax.grad(f)),
    "grad of vmap": lambda f: jax.grad(
        lambda scale, key, data: jax.vmap(f, (None, 0, None))(scale, key[None], data).sum()
    ),
    "grad of scan": lambda f: jax.grad(
        lambda scale, key, data: jax.lax.scan(
            lambda total, key: (total + f(scale, key, data), None), 0.0, key[None]
        )[0]
    ),
}


@pytest.mark.parametrize("order", ORDERS)
def test_keys_and_integers_may_be_captured_under_any_order_of_transformations(order):
    arguments = jnp.array(0.5), random.key(7), jnp.array([1, 2, 3])
    value = captured_of_every_kind(*arguments)
    gradient = ORDERS[order](captured_of_every_kind)(*arguments)
    # The sum of squares of something linear in the scale.
    np.testing.assert_allclose(gradient, 2.0 * value / arguments[0], rtol=1e-5)


def two_steps(of_guide, of_model):
    """A particle whose proposal depends on one number, and whose weight on another besides."""

    def propose(datum, key):
        z = of_guide * random.normal(key, (2,)) + datum
        return {"guide": {"z": z, "index": datum, "log_density": -jnp.sum(z**2) + of_guide}}

    def weigh(datum, key, proposal, held):
        scale = jax.lax.stop_gradient(of_model) if held else of_model
        log_joint = jnp.sum(jnp.cos(scale * proposal["z"])) + scale * proposal["index"]
        return log_joint - 0.1 * proposal["log_density"]

    return Particle(weigh, propose)


def two_steps_of_two(of_guide, of_model):
    """The same with two log-weights at a time, which look at each other's draws."""

    def propose(datum, key):
        z = of_guide * random.normal(key, (2,)) + datum
        return {"guide": {"z": z, "log_density": -(z**2)}}

    def weigh(datum, key, proposal, held):
        scale = jax.lax.stop_gradient(of_model) if held else of_model
        around_mean = proposal["z"] - jnp.mean(proposal["z"])
        return jnp.cos(scale * around_mean + datum) - 0.1 * proposal["log_density"]

    return Particle(weigh, propose)


def factors_of_views():
    """Cotangents of both views, of all sizes, some of them zero where the other's are not."""
    factors = jnp.cos(1.0 + jnp.arange(MAX_COUNT)[:, None] ** 2 + jnp.arange(5))
    of_model = jnp.where(factors > 0.5, 0.0, factors)
    of_guide = jnp.where(jnp.abs(factors) < 0.3, 0.0, 1e-3 * factors**2)
    return {"model": of_model, "guide": of_guide}


@pytest.mark.parametrize("two_steps", [two_steps, two_steps_of_two])
@pytest.mark.parametrize("first_chunk, head_only", [(0, ("guide",)), (8, ())])
def test_every_view_has_the_gradient_of_its_own(two_steps, first_chunk, head_only):
    factors, read = factors_of_views(), drawn(COUNTS)

    def evaluated(numbers):
        return evaluate_log_weights(
            two_steps(*numbers),
            KEY,
            jnp.asarray(COUNTS),
            max_count=MAX_COUNT,
            num_head=2,
            first_chunk=first_chunk,
            chunk_size=3,
            head_only=head_only,
        )

    def plainly(numbers):
        particle = two_steps(*numbers)
        draw = lambda i, j: particle.views(i, random.fold_in(random.fold_in(KEY, i), j))
        over_data = jax.vmap(draw, in_axes=(0, None))
        return jax.vmap(over_data, in_axes=(None, 0))(jnp.arange(5), jnp.arange(MAX_COUNT))

    def summed(evaluate, view, numbers):
        rows = evaluate(numbers)[view]
        rows = rows[:2] if view in head_only else rows
        factor = jnp.where(read, factors[view], 0.0)[: len(rows)]
        if rows.ndim > factor.ndim:
            factor = jnp.stack([factor, factor**2], axis=-1)
        return jnp.sum(factor * rows)

    def gradient(evaluate, views):
        of_views = lambda numbers: sum(summed(evaluate, view, numbers) for view in views)
        return quick_jit(jax.grad(of_views))((jnp.array(0.4), jnp.array(0.8)))

    for views in (["model"], ["guide"], ["model", "guide"]):
        got, expected = (gradient(evaluate, views) for evaluate in (evaluated, plainly))
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
        flows = tuple(bool(abs(gradient) > 1e-12) for gradient in got)
        assert flows == ("guide" in views, "model" in views)


def test_integers_that_no_draw_changes_are_no_input_of_the_draws():
    """What a model makes of a plate's indices is then computed once, and not for every draw."""

    def work(index_is_proposed):
        def propose(datum, key):
            return {"guide": {"z": random.normal(key), "index": jnp.arange(64)}}

        def weigh(datum, key, proposal, held):
            index = proposal["index"] if index_is_proposed else jnp.arange(64)
            costly = jnp.sin(jnp.outer(index, index) + 1.0 * datum)
            return proposal["z"] * jnp.sum(costly @ costly)

        evaluated = lambda counts: evaluate_log_weights(
            Particle(weigh, propose), KEY, counts, max_count=12, num_head=4, chunk_size=8
        )
        compiled = jax.jit(evaluated).lower(jnp.array([3, 12])).compile()
        return compiled.cost_analysis()["flops"]

    assert work(True) < 1.1 * work(False)


def test_draws_of_weight_zero_send_nothing_back_to_the_guide():
    """Their log-weights have no derivative: nought times that would be no number."""
    counts = jnp.array([5, 3])

    def total(scale):
        particle = Particle(
            weigh=lambda datum, key, z, held: jnp.log(jnp.maximum(z, 0.0)),
            propose=lambda datum, key: {"guide": scale * random.normal(key)},
        )
        rows = evaluate_log_weights(particle, KEY, counts, max_count=5, num_head=2, chunk_size=2)[
            "guide"
        ]
        return jnp.sum(jnp.where(jnp.arange(5)[:, None] < counts, jnp.exp(rows), 0.0))

    value, gradient = jax.value_and_grad(total)(0.7)
    np.testing.assert_allclose(gradient, value / 0.7, rtol=1e-5)
