"""Sums of increments, kept pile by pile: the roulette's estimate over rows that are all kept."""

from functools import cache, partial

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.losses.base import Draws
from numpyro_sumo.losses.sumo import SUMO
from numpyro_sumo.ragged import Particle, evaluate_log_weights, evaluate_tails
from numpyro_sumo.stopping_times import ReciprocalTail
from tests.helpers.compiling import quick_jit

KEY = random.key(3)
TAIL = ReciprocalTail(knee=12, decay=0.0)
TIMES = jnp.array([12, 1, 2, 7, 1, 12, 3])
NUM_ALWAYS = 3

#: first_chunk, chunk_size, at_once
LAYOUTS = {
    "head_alone_before_the_loop": (0, 4),
    "a_first_chunk": (6, 5),
    "the_first_in_parts": (6, 5, 4),
    "borders_within_a_datum": (8, 17),
    "one_slot_at_a_time": (0, 1),
    "all_before_the_loop": (200, 8),
    "one_chunk_for_all": (0, 200),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())


def particle_of(scale, zeros=False):
    """Log-weights that depend on the datum; with ``zeros``, a third of them have weight zero."""

    def propose(datum, key):
        return {"guide": {"z": scale["guide"] * random.normal(key, (2,)) + 0.1 * datum}}

    def weigh(datum, key, proposal, held):
        of_model = jax.lax.stop_gradient(scale["model"]) if held else scale["model"]
        log_weight = jnp.sum(jnp.cos(of_model * proposal["z"])) + 0.3 * datum
        return jnp.where(proposal["z"][0] < -0.3, -jnp.inf, log_weight) if zeros else log_weight

    return Particle(weigh, propose)


def given_of(scale, is_given):
    """Views of the same numbers, each differentiable in its own scale."""
    one = jnp.linspace(-1.0, 2.0, len(TIMES))
    views = {
        name: one * of_view / jax.lax.stop_gradient(of_view) for name, of_view in scale.items()
    }
    return views if is_given else {}


def estimates(scale, evaluate, is_given, zeros, num_always):
    """An estimate for each datum, differentiable in both views, and the mean bound beside it."""
    particle, given = particle_of(scale, zeros), given_of(scale, is_given)
    loss = SUMO(num_always + is_given, stopping_time=TAIL, from_above=is_given)
    draws = Draws(evaluate(particle, given, num_always), TIMES, given)
    both = loss.estimate(draws, "model", "guide")
    if is_given and num_always:
        both = both + 0.3 * loss.estimate(draws._replace(given={}), "model")
    return both + (loss.fresh_bound(draws, "guide") if num_always else 0.0)


def total(scale, evaluate, is_given, zeros, num_always):
    each = estimates(scale, evaluate, is_given, zeros, num_always)
    return jnp.dot(jnp.where(jnp.isfinite(each), each, 0.0), jnp.cos(jnp.arange(len(TIMES)))), each


def by_sums(particle, given, num_always, layout):
    first_chunk, chunk_size, *at_once = layout
    return evaluate_tails(
        particle,
        KEY,
        TIMES,
        TAIL,
        num_always=num_always,
        first_chunk=first_chunk,
        chunk_size=chunk_size,
        at_once=at_once[0] if at_once else None,
        given=given,
    )


def by_rows(particle, given, num_always):
    most = num_always + TAIL.cap
    return evaluate_log_weights(
        particle, KEY, num_always + TIMES, max_count=most, num_head=most, chunk_size=1
    )


SCALE = {"model": jnp.array(0.8), "guide": jnp.array(1.3)}


def evaluated(evaluate, is_given, zeros, num_always):
    of = partial(total, evaluate=evaluate, is_given=is_given, zeros=zeros, num_always=num_always)
    (_, each), gradient = quick_jit(jax.value_and_grad(of, has_aux=True))(SCALE)
    return each, gradient


@cache
def expected(is_given, zeros, num_always):
    return evaluated(by_rows, is_given, zeros, num_always)


@every_layout
@pytest.mark.parametrize("is_given, zeros", [(False, False), (True, False), (True, True)])
def test_estimates_and_gradients_are_those_of_rows(layout, is_given, zeros):
    got = evaluated(partial(by_sums, layout=layout), is_given, zeros, NUM_ALWAYS)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5),
        got,
        expected(is_given, zeros, NUM_ALWAYS),
    )


def test_weights_that_are_all_zero_at_first_make_the_estimate_so():
    each, gradient = evaluated(partial(by_sums, layout=(10, 4)), False, True, 1)
    of_rows, gradient_of_rows = expected(False, True, 1)
    np.testing.assert_allclose(each, of_rows, rtol=2e-5)
    assert 0 < np.sum(np.isneginf(each)) < len(each)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4), gradient, gradient_of_rows)


def test_given_draws_may_be_all_that_is_always_there():
    got = evaluated(partial(by_sums, layout=(10, 4)), True, False, 0)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=2e-5), got, expected(True, False, 0))


@pytest.mark.parametrize("at_once", [None, 8])
def test_memory_does_not_follow_the_longest_tail(at_once):
    """But for one scalar for every chunk that it would take."""

    def temporary_bytes(knee, at_once):
        tail = ReciprocalTail(knee=knee, decay=0.0)

        def summed(scale):
            sums = evaluate_tails(
                particle_of(scale),
                KEY,
                jnp.minimum(TIMES, 5),
                tail,
                num_always=2,
                first_chunk=0 if at_once else 8,
                chunk_size=8,
                at_once=at_once,
            )
            return jnp.sum(sums["model"].tail)

        compiled = quick_jit(jax.grad(summed)).lower(SCALE).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    growth = temporary_bytes(10_000, at_once) - temporary_bytes(100, at_once)
    assert growth < 2 * 4 * 9_900 * len(TIMES) / 8


def test_many_log_weights_of_one_run_are_summed_each_for_itself():
    """And one that is no number stays where it is."""

    def one(shift, rest):
        def weigh(datum, key):
            value = jnp.cos(shift * random.normal(key)) + 0.3 * datum
            return jnp.stack([value, 2.0 * value, jnp.where(datum == 3, jnp.nan, value)])[rest]

        particle = Particle(lambda i, key, proposal, held: weigh(i, key))
        return by_sums(particle, {}, NUM_ALWAYS, (6, 17))["model"].tail

    of = quick_jit(one)
    together = of(0.7, jnp.arange(3))
    apart = jnp.stack([of(0.7, i) for i in range(3)], axis=1)
    np.testing.assert_allclose(together, apart, rtol=1e-5)
    assert np.argwhere(np.isnan(together)).tolist() == [[3, 2]]
    of_sum = lambda rest: quick_jit(jax.grad(lambda shift: jnp.sum(one(shift, rest))))(0.7)
    np.testing.assert_allclose(of_sum(jnp.arange(2)), of_sum(0) + of_sum(1), rtol=1e-5)


def test_float32_weights_stay_so_under_x64():
    with jax.enable_x64(True):
        scale = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), SCALE)
        particle = Particle(lambda i, key, *_: scale["model"] * random.normal(key, (), jnp.float32))
        sums = jax.eval_shape(lambda: by_sums(particle, {}, NUM_ALWAYS, (6, 4)))
        assert sums["model"].tail.dtype == jnp.float32


def test_gradients_of_many_seeds_in_one_program_are_those_of_each():
    def of_key(key, scale):
        sums = evaluate_tails(
            particle_of(scale), key, TIMES, TAIL, num_always=2, first_chunk=3, chunk_size=5
        )
        return jnp.sum(sums["model"].tail * jnp.cos(jnp.arange(len(TIMES))))

    gradient = jax.grad(of_key, argnums=1)
    keys = random.split(KEY, 3)
    together = quick_jit(jax.vmap(gradient, in_axes=(0, None)))(keys, SCALE)
    apart = quick_jit(lambda scale: jax.lax.map(lambda key: gradient(key, scale), keys))(SCALE)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), together, apart)


def test_given_draws_alone_keep_their_digits_far_from_zero():
    """Where float32 resolves 2⁻⁷ only, weights alike must add nothing."""
    far = jnp.asarray(-1e5)
    particle = Particle(lambda i, key, *_: far + 0.0 * random.normal(key))
    sums = by_sums(particle, {"model": jnp.full(len(TIMES), far)}, 0, (0, 4))
    np.testing.assert_allclose(sums["model"].tail_with_given, 0.0, atol=1e-4)


def test_views_of_the_always_drawn_alone_are_differentiated_in_these():
    def summed(scale, head_only):
        sums = evaluate_tails(
            particle_of(scale),
            KEY,
            TIMES,
            TAIL,
            num_always=2,
            first_chunk=3,
            chunk_size=5,
            head_only=head_only,
        )
        return jnp.sum(sums["guide"].always) + 0.0 * jnp.sum(sums["model"].tail)

    gradient = quick_jit(jax.grad(summed), static_argnames="head_only")
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-5),
        gradient(SCALE, head_only=("guide",)),
        gradient(SCALE, head_only=()),
    )
