"""The optimisers that are compared, on a quadratic function without noise."""

import numpy as np
import optax
import pytest

import jax
from jax import lax
import jax.numpy as jnp

from benchmarks.parameters.optimisers import (
    RECIPE,
    candidates,
    clip_by_quantile,
    clip_with_error_feedback,
    one_of,
)

NUM_STEPS = 3_000


def path(optim, gradient, num_steps=NUM_STEPS, start=0.0):
    def step(carry, _):
        x, state = carry
        updates, state = optim.update(gradient(x), state, x)
        return (optax.apply_updates(x, updates), state), x

    start = jnp.asarray(start)
    (end, _), before = lax.scan(step, (start, optim.init(start)), None, length=num_steps)
    return jnp.append(before, end)


@pytest.mark.parametrize("name", candidates(1))
def test_every_optimiser_finds_the_minimum(name):
    optim = candidates(NUM_STEPS)[name]
    end = jax.jit(lambda: path(optim, lambda x: 40.0 * (x - 1.0))[-1])()
    assert end == pytest.approx(1.0, abs=0.02)


def test_recipe_is_one_of_them():
    assert RECIPE in candidates(1)


def test_index_chooses_the_optimiser():
    optims = list(candidates(9).values())
    run = jax.jit(lambda which: path(one_of(optims, which), lambda x: x - 1.0, 9))
    for index, optim in enumerate(optims):
        expected = path(optim, lambda x: x - 1.0, 9)
        np.testing.assert_allclose(run(index), expected, rtol=1e-5, atol=1e-7)


def test_error_feedback_keeps_the_sum_of_the_gradients():
    optim = clip_with_error_feedback(1.0)
    kept, taken = optim.init(jnp.zeros(2)), jnp.zeros(2)
    gradients = jnp.array([[30.0, 40.0], [-1.0, 2.0], [0.0, 0.0], [3.0, -9.0]])
    for gradient in gradients:
        update, kept = optim.update(gradient, kept)
        assert optax.tree.norm(update) <= 1.0 + 1e-6
        taken += update
    np.testing.assert_allclose(taken + kept, gradients.sum(axis=0), rtol=1e-6)


def test_quantile_is_found():
    optim = clip_by_quantile(0.9)
    norms = jnp.tile(jnp.arange(1.0, 101.0), 60)
    norms = jax.random.permutation(jax.random.key(0), norms)
    step = lambda state, norm: optim.update(norm, state)[::-1]
    _, clipped = lax.scan(step, optim.init(None), norms)
    share = (clipped[3_000:] < norms[3_000:] * (1.0 - 1e-6)).mean()
    assert share == pytest.approx(0.1, abs=0.02)
