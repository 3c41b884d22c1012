"""Ragged evaluation: the same numbers and gradients whatever the layout, and no more work."""

from collections import Counter
from functools import cache, partial

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.ragged import Layout, Particle, Queue, Rows, evaluate_fixed, evaluate_ragged

from .examples import (
    KEY,
    counted,
    evaluate_all,
    params_for,
    particle_of,
    scalar_particle,
    vector_particle,
    weigh,
)

MAX_COUNT = 12
COUNTS = np.array([4, 12, 1, 3, 7])

LAYOUTS = {
    "all_draws_fixed": Layout(MAX_COUNT),
    "no_fixed_draws": Layout(0, chunk_size=4),
    "chunks_of_one": Layout(1, chunk_size=1),
    "chunks_that_do_not_divide": Layout(2, chunk_size=7),
    "a_first_chunk": Layout(1, first_chunk=8, chunk_size=3),
    "a_first_chunk_for_all": Layout(2, first_chunk=40, chunk_size=3),
    "the_first_in_parts": Layout(2, first_chunk=4, chunk_size=3, max_first_chunk=5),
    "all_draws_fixed_in_parts": Layout(MAX_COUNT, max_first_chunk=7),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
UNEVEN = LAYOUTS["chunks_that_do_not_divide"]


def rows_kept(layout, fixed_only=(), num_rows=MAX_COUNT):
    return Rows(num_rows, layout.num_fixed, frozenset(fixed_only))


def evaluate(params, counts, layout, key=KEY):
    particle = particle_of(partial(weigh, params))
    return evaluate_ragged(key, particle, Queue.of(jnp.asarray(counts), layout), rows_kept(layout))[
        "model"
    ]


def reference(params, key=KEY):
    return evaluate_all(partial(weigh, params), 5, MAX_COUNT, key)


def drawn(counts):
    """Which rows of which datum were drawn."""
    return jnp.arange(MAX_COUNT)[:, None] < jnp.asarray(counts)


def total(rows, counts):
    """A scalar that reads the rows that were drawn, each number with a factor of its own."""
    factors = jnp.cos(jnp.arange(MAX_COUNT)[:, None] + jnp.arange(len(counts)))
    read = factors * rows[..., 0] + factors**2 * rows[..., 1]
    return jnp.sum(jnp.where(drawn(counts), read, 0.0))


def total_of_ragged(scale, counts, layout, key=KEY):
    return total(evaluate(params_for(scale), counts, layout, key), counts)


rows_of = jax.jit(evaluate, static_argnames="layout")
reference_rows = jax.jit(reference)
value_and_gradient_of = jax.jit(jax.value_and_grad(total_of_ragged), static_argnames="layout")
reference_value_and_gradient = jax.jit(
    jax.value_and_grad(lambda scale, counts: total(reference(params_for(scale)), counts))
)


@every_layout
def test_each_draw_depends_on_its_datum_and_its_index_alone(layout):
    params = params_for(jnp.array(0.7))
    rows = rows_of(params, COUNTS, layout)
    assert rows.shape == (MAX_COUNT, 5, 2)
    got, wanted = (np.asarray(each)[drawn(COUNTS)] for each in (rows, reference_rows(params)))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


@every_layout
def test_draws_do_not_change_when_other_counts_do(layout):
    params = params_for(jnp.array(0.7))
    others = np.array([4, 2, 9, 12, 1])
    rows, other_rows = (rows_of(params, counts, layout) for counts in (COUNTS, others))
    in_both = drawn(COUNTS) & drawn(others)
    np.testing.assert_array_equal(np.asarray(rows)[in_both], np.asarray(other_rows)[in_both])


@every_layout
def test_value_and_gradient_are_those_of_evaluation_one_by_one(layout):
    got = value_and_gradient_of(0.7, COUNTS, layout)
    np.testing.assert_allclose(got, reference_value_and_gradient(0.7, COUNTS), rtol=1e-4)


@pytest.mark.parametrize("name", ["no_fixed_draws", "chunks_that_do_not_divide"])
def test_no_datum_needs_more_draws_than_the_fixed_ones(name):
    counts = np.array([2, 1, 0, 0, 2]) if LAYOUTS[name].num_fixed else np.zeros(5, int)
    got = value_and_gradient_of(0.7, counts, LAYOUTS[name])
    np.testing.assert_allclose(got, reference_value_and_gradient(0.7, counts), rtol=1e-4)


@pytest.mark.parametrize("num_data", [1, 5])
def test_fixed_draws_alone_have_the_values_and_gradients_of_ragged_evaluation(num_data):
    counts, layout = np.full(num_data, 3), Layout(3)

    def of_fixed(scale):
        particle = particle_of(partial(weigh, params_for(scale)))
        return evaluate_fixed(KEY, particle, num_data, layout)["model"]

    def of_ragged(scale):
        particle = particle_of(partial(weigh, params_for(scale)))
        kept = rows_kept(layout, num_rows=3)
        return evaluate_ragged(KEY, particle, Queue.of(jnp.asarray(counts), layout), kept)["model"]

    def one_by_one(scale):
        return evaluate_all(partial(weigh, params_for(scale)), num_data, 3)

    factors = jnp.cos(jnp.arange(3 * num_data * 2.0)).reshape(3, num_data, 2)

    def value_gradient_and_rows(scale, evaluate):
        read = lambda rows: (jnp.sum(factors * rows), rows)
        of_scale = lambda scale: read(evaluate(scale))
        (value, rows), gradient = jax.value_and_grad(of_scale, has_aux=True)(scale)
        return jnp.array([value, gradient]), rows

    ways = one_by_one, of_fixed, of_ragged
    found = jax.jit(lambda scale: [value_gradient_and_rows(scale, way) for way in ways])(0.7)
    for numbers, rows in found[1:]:
        np.testing.assert_allclose(rows, found[0][1], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(numbers, found[0][0], rtol=1e-4)


def test_gradients_under_vmap_over_seeds_are_those_of_each_seed():
    keys = random.split(random.key(8), 3)
    counts = jnp.array([[1, 5, 2, 1, 1], [12, 1, 1, 1, 3], [3, 3, 3, 3, 3]])
    one_by_one = [value_and_gradient_of(0.7, c, UNEVEN, key) for key, c in zip(keys, counts)]
    assert len({float(gradient) for _, gradient in one_by_one}) == 3
    over_seeds = jax.vmap(lambda key, c: value_and_gradient_of(0.7, c, UNEVEN, key))
    together = np.transpose(over_seeds(keys, counts))
    np.testing.assert_allclose(together, one_by_one, rtol=1e-4)


def test_gradients_reach_every_leaf_closed_over():
    def gradients(rows_of):
        function = lambda floats: total(rows_of({**floats, "count": jnp.array(3)}), COUNTS)
        return jax.jit(jax.grad(function))(
            {"nested": (jnp.array(0.7), jnp.array([0.5, -1.0])), "shift": jnp.array(1.4)}
        )

    got = gradients(lambda params: evaluate(params, COUNTS, Layout(1, chunk_size=4)))
    expected = gradients(reference)
    assert all(np.all(leaf != 0.0) for leaf in jax.tree.leaves(expected))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), got, expected)


def test_old_style_keys_give_the_draws_of_new_style_ones():
    params = params_for(jnp.array(0.7))
    old = rows_of(params, COUNTS, UNEVEN, random.PRNGKey(3))
    new = reference_rows(params, random.key(3))
    read = drawn(COUNTS)
    np.testing.assert_allclose(np.asarray(old)[read], np.asarray(new)[read], rtol=1e-5, atol=1e-6)


EVALUATIONS = {
    # counts, layout, evaluations before the loop, chunks
    "fixed_only": ([3, 3], Layout(12, chunk_size=4), 24, 0),
    "counts_below_the_fixed_draws": ([1, 2, 0], Layout(2, chunk_size=4), 6, 0),
    "full_chunks": ([4, 10], Layout(3, chunk_size=4), 6, 2),
    "one_chunk_for_all": ([4, 3], Layout(1, chunk_size=50), 2, 1),
    "no_fixed_draws": ([1, 0, 12], Layout(0, chunk_size=6), 0, 3),
    "a_first_chunk": ([4, 10], Layout(3, first_chunk=5, chunk_size=4), 11, 1),
}


@pytest.mark.parametrize(
    "counts, layout, before_loop, num_chunks", EVALUATIONS.values(), ids=EVALUATIONS.keys()
)
def test_no_more_is_evaluated_than_was_drawn_rounded_up_to_chunks(
    counts, layout, before_loop, num_chunks
):
    evaluations = []

    def summed(scale):
        particle = particle_of(counted(evaluations, lambda datum, key: scale * datum))
        kept = rows_kept(layout)
        rows = evaluate_ragged(KEY, particle, Queue.of(jnp.asarray(counts), layout), kept)["model"]
        return jnp.sum(jnp.where(drawn(counts), rows, 0.0))

    jax.jit(summed)(0.5).block_until_ready()
    jax.effects_barrier()
    num_slots = layout.first_chunk + num_chunks * layout.chunk_size
    num_fixed = layout.num_fixed * len(counts)
    assert len(evaluations) == before_loop + num_chunks * layout.chunk_size
    assert len(evaluations) == num_fixed + num_slots
    # Every datum has its draws; the surplus fills up the last chunk.
    lengths = np.maximum(np.array(counts) - layout.num_fixed, 0)
    needed = Counter(np.repeat(np.arange(len(counts)), layout.num_fixed + lengths))
    surplus = Counter(evaluations) - needed
    assert surplus.total() == num_slots - lengths.sum() < layout.chunk_size

    evaluations.clear()
    jax.jit(jax.grad(summed))(0.5).block_until_ready()
    jax.effects_barrier()
    # The backward pass evaluates each chunk of the loop once more, and nothing else again.
    assert len(evaluations) == before_loop + 2 * num_chunks * layout.chunk_size


def test_too_many_first_draws_are_evaluated_in_parts_and_again_in_the_backward_pass():
    evaluations = []

    def summed(scale):
        particle = particle_of(counted(evaluations, lambda datum, key: scale * datum))
        layout = Layout(3, max_first_chunk=4)
        kept = rows_kept(layout, num_rows=3)
        return jnp.sum(
            evaluate_ragged(KEY, particle, Queue.of(jnp.full(5, 3), layout), kept)["model"]
        )

    value, gradient = jax.jit(jax.value_and_grad(summed))(0.5)
    jax.effects_barrier()
    assert (value, gradient) == (0.5 * 30, 30)
    # Fifteen draws in four parts of four; datum 0 fills up the last part.
    assert Counter(evaluations) == Counter({0: 8, **dict.fromkeys(range(1, 5), 6)})


def test_log_weight_is_traced_once_and_compiled_once_whatever_the_counts():
    traces, compilations = [], []

    def traced(scale, datum, key):
        traces.append(datum)
        return scale * random.normal(key) + datum

    @jax.jit
    def summed(scale, counts):
        compilations.append(counts)
        particle, layout = particle_of(partial(traced, scale)), Layout(2, chunk_size=3)
        rows = evaluate_ragged(KEY, particle, Queue.of(counts, layout), rows_kept(layout))["model"]
        return jnp.sum(jnp.where(drawn(counts), rows, 0.0))

    values = {float(summed(0.5, jnp.array(c))) for c in ([1, 2], [12, 1], [5, 5], [0, 0])}
    assert len(values) == 4
    assert len(traces) == len(compilations) == 1


def captured_of_every_kind(scale, key, data):
    """Closes over a float, an integer array and a key, and reads all three."""

    def log_weight(i, slot_key):
        noise = random.normal(random.fold_in(key, data[i])) + random.normal(slot_key)
        return scale * noise * data[i]

    layout, counts = Layout(2, chunk_size=4), jnp.array([2, 5, 3])
    kept = rows_kept(layout, num_rows=6)
    rows = evaluate_ragged(random.key(0), particle_of(log_weight), Queue.of(counts, layout), kept)[
        "model"
    ]
    return jnp.sum(jnp.where(jnp.arange(6)[:, None] < counts, rows, 0.0) ** 2)


CAPTURED = jnp.array(0.5), random.key(7), jnp.array([1, 2, 3])
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


@cache
def value_of_captured():
    return captured_of_every_kind(*CAPTURED)


@pytest.mark.parametrize("order", ORDERS)
def test_keys_and_integers_may_be_captured_under_any_order_of_transformations(order):
    gradient = ORDERS[order](captured_of_every_kind)(*CAPTURED)
    # The sum of squares of something linear in the scale.
    np.testing.assert_allclose(gradient, 2.0 * value_of_captured() / CAPTURED[0], rtol=1e-5)


def factors_of_views():
    """Cotangents of both views, of all sizes, some of them zero where the other's are not."""
    factors = jnp.cos(1.0 + jnp.arange(MAX_COUNT)[:, None] ** 2 + jnp.arange(5))
    of_model = jnp.where(factors > 0.5, 0.0, factors)
    of_guide = jnp.where(jnp.abs(factors) < 0.3, 0.0, 1e-3 * factors**2)
    return {"model": of_model, "guide": of_guide}


NUMBERS = jnp.array(0.4), jnp.array(0.8)


def gradient_of(evaluate):
    """In two numbers, of the rows of both views times factors, one for each datum and draw."""

    def summed(numbers, factors):
        total = 0.0
        for view, rows in evaluate(numbers).items():
            factor = factors[view][: len(rows)]
            if rows.ndim > factor.ndim:
                factor = jnp.stack([factor, factor**2], axis=-1)
            total += jnp.sum(jnp.where(factor == 0.0, 0.0, factor * rows))
        return total

    return jax.jit(jax.grad(summed))


@cache
def one_by_one(make_particle):
    return gradient_of(lambda numbers: evaluate_all(make_particle(*numbers).views, 5, MAX_COUNT))


@pytest.mark.parametrize("make_particle", [scalar_particle, vector_particle])
@pytest.mark.parametrize(
    "layout, fixed_only",
    [
        (Layout(2, chunk_size=3), ("guide",)),
        (Layout(2, first_chunk=8, chunk_size=3), ()),
        (Layout(2, first_chunk=4, chunk_size=3, max_first_chunk=5), ("guide",)),
    ],
    ids=["guide_on_fixed_draws", "a_first_chunk", "the_first_in_parts"],
)
def test_each_view_has_the_gradient_of_its_own_parameters(make_particle, layout, fixed_only):

    def ragged(numbers):
        particle, kept = make_particle(*numbers), rows_kept(layout, fixed_only)
        return evaluate_ragged(KEY, particle, Queue.of(jnp.asarray(COUNTS), layout), kept)

    gradient, reference_gradient = gradient_of(ragged), one_by_one(make_particle)
    read = drawn(COUNTS)
    first = np.arange(MAX_COUNT)[:, None] < 2
    for views in (["model"], ["guide"], ["model", "guide"]):
        factors = {
            view: jnp.where(read & (first if view in fixed_only else True), factor, 0.0)
            for view, factor in factors_of_views().items()
        }
        factors |= {view: jnp.zeros_like(read, float) for view in factors.keys() - views}
        got, expected = gradient(NUMBERS, factors), reference_gradient(NUMBERS, factors)
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
        flows = tuple(bool(abs(gradient) > 1e-12) for gradient in got)
        assert flows == ("guide" in views, "model" in views)


def test_integers_that_depend_on_no_draw_are_no_input_of_the_draws():
    """What a model computes from a plate's indices is then computed once, not for every draw."""

    def work(index_is_proposed):
        def propose(datum, key):
            return {"guide": {"z": random.normal(key), "index": jnp.arange(64)}}

        def weigh(datum, key, proposal, detached):
            index = proposal["index"] if index_is_proposed else jnp.arange(64)
            costly = jnp.sin(jnp.outer(index, index) + 1.0 * datum)
            return proposal["z"] * jnp.sum(costly @ costly)

        layout = Layout(4, chunk_size=8)
        evaluated = lambda counts: evaluate_ragged(
            KEY, Particle(weigh, propose), Queue.of(counts, layout), rows_kept(layout)
        )
        compiled = jax.jit(evaluated).lower(jnp.array([3, 12])).compile()
        return compiled.cost_analysis()["flops"]

    assert work(True) < 1.1 * work(False)


def test_draws_of_weight_zero_have_no_gradient_in_the_guide():
    """The derivative of their log-weights is not finite, and zero times it is not a number."""
    counts, layout = jnp.array([5, 3]), Layout(2, chunk_size=2)

    def total(scale):
        particle = Particle(
            weigh=lambda datum, key, z, detached: jnp.log(jnp.maximum(z, 0.0)),
            propose=lambda datum, key: {"guide": scale * random.normal(key)},
        )
        kept = rows_kept(layout, num_rows=5)
        rows = evaluate_ragged(KEY, particle, Queue.of(counts, layout), kept)["guide"]
        return jnp.sum(jnp.where(jnp.arange(5)[:, None] < counts, jnp.exp(rows), 0.0))

    value, gradient = jax.jit(jax.value_and_grad(total))(0.7)
    np.testing.assert_allclose(gradient, value / 0.7, rtol=1e-5)
