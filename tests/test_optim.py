"""The optimiser of unbiased gradients: what it keeps, by exact sums and by enumeration."""

from functools import partial

import numpy as np
import optax
import pytest

import jax
from jax import lax, random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, autoguide

from numpyro_sumo import MultilevelSUMO, averaged_adam
from numpyro_sumo.optim import average_iterates, scale_by_past_rms

#: A rare gradient of mean zero: 99 with probability 0.01, else −1.
RARE, COMMON, CHANCE = 99.0, -1.0, 0.01


def applied(optim, gradients, params):
    """The iterates under the given gradients, one row for each."""

    @jax.jit
    def run(gradients):
        def step(carry, gradient):
            params, state = carry
            updates, state = optim.update(gradient, state, params)
            params = optax.apply_updates(params, updates)
            return (params, state), params

        return lax.scan(step, (params, optim.init(params)), gradients)[1]

    return run(gradients)


def scaled_by_hand(gradients):
    """The definition in float64: limited ratios to the root mean square of the past."""
    ratios, v = [], 0.0
    for t, g in enumerate(np.asarray(gradients, np.float64), start=1):
        if v == 0.0:
            u, v = np.sign(g), g * g
        else:
            u = np.clip(g / v**0.5, -(t**0.5), t**0.5)
            v *= 1.0 + 2.0 * (u * u - 1.0) / (t + 1)
        ratios.append(u)
    return np.array(ratios)


def dtypes(tree):
    return jax.tree.map(lambda leaf: leaf.dtype, tree)


def scaled(gradients):
    optim = scale_by_past_rms()
    step = jax.jit(lambda state, g: optim.update(g, state)[::-1])
    return lax.scan(step, optim.init(jnp.zeros_like(gradients[0])), gradients)[1]


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_ratios_are_those_of_the_definition_at_any_scale(scale):
    gradients = random.t(random.key(0), 2.5, (200, 2)) * scale
    expected = np.stack([scaled_by_hand(column) for column in gradients.T], axis=1)
    assert (np.abs(expected) == np.sqrt(np.arange(1, 201))[:, None]).any()  # the limit is met
    np.testing.assert_allclose(scaled(gradients), expected, rtol=2e-4)


def test_mean_square_weighs_gradients_by_their_number():
    gradients = random.uniform(random.key(1), (50,), minval=1.0, maxval=1.4)  # within the limit
    optim = scale_by_past_rms()
    step = lambda state, g: (optim.update(g, state)[1], None)
    state, _ = lax.scan(step, optim.init(jnp.zeros(())), gradients)
    weights = np.arange(1, 51)
    limited = scaled_by_hand(gradients)
    assert (np.abs(limited[1:]) < np.sqrt(weights[1:])).all()
    expected = np.average(np.asarray(gradients) ** 2, weights=weights)
    np.testing.assert_allclose(state.mean_square, expected, rtol=1e-5)


def expected_step(optim, past):
    """The mean of the next step less that after a zero gradient; and the rare one's."""
    params = jnp.zeros(())
    step = lambda state, g: (optim.update(g, state, params)[1], None)
    state, _ = lax.scan(step, optim.init(params), past)
    after = lambda g: float(optim.update(jnp.asarray(g), state, params)[0])
    rare, common = (after(g) - after(0.0) for g in (RARE, COMMON))
    return CHANCE * rare + (1.0 - CHANCE) * common, rare


def test_expected_step_after_any_past_is_that_of_the_mean_gradient():
    # 99² = 9801 mean squares: within the limit of 20,000 gradients, exactly in proportion.
    past = random.permutation(random.key(2), jnp.tile(jnp.array([RARE] + [COMMON] * 99), 200))
    mean, rare = expected_step(averaged_adam(10**6, 1.0), past)
    assert abs(mean) < 1e-5 * abs(rare)
    mean, rare = expected_step(optax.adam(1.0), past)
    assert abs(mean) > 0.01 * CHANCE * abs(rare)


def test_fixed_point_on_a_quadratic_is_the_mean_of_heavy_tailed_noise():
    num_steps, target = 40_000, 3.0
    every = jnp.tile(jnp.array([RARE] + [COMMON] * 99), num_steps // 100)
    noise = random.permutation(random.key(3), every)

    def end(optim):
        def step(carry, noise):
            x, state = carry
            updates, state = optim.update(x - target + noise, state, x)
            return (x + updates, state), None

        return float(lax.scan(step, (jnp.zeros(()), optim.init(jnp.zeros(()))), noise)[0][0])

    exact_error = 99.0**0.5 / (num_steps / 2) ** 0.5  # of a mean over the last half
    assert abs(end(averaged_adam(num_steps)) - target) < 4 * exact_error
    clipped = optax.chain(optax.clip(10.0), averaged_adam(num_steps))
    assert abs(end(clipped) - target) > 8 * exact_error
    adam = average_iterates(optax.adam(2e-3, b2=0.99), num_steps, num_steps // 2)
    assert abs(end(adam) - target) > 4 * exact_error


def test_momentum_keeps_the_sum_of_what_it_is_given():
    gradients, b1 = random.normal(random.key(4), (300,)), 0.9
    ratios = scaled_by_hand(gradients)
    path = applied(averaged_adam(300, 1.0, b1=b1, averaged_share=0.0), gradients, jnp.zeros(()))
    last_step = float(path[-1] - path[-2])
    kept = last_step * b1 / (1.0 - b1)
    np.testing.assert_allclose(-(float(path[-1]) + kept), ratios.sum(), rtol=1e-4, atol=1e-3)


def test_last_step_moves_to_the_mean_of_the_last_half_of_the_iterates():
    gradients = random.normal(random.key(5), (41, 3))
    start = jnp.arange(3.0)
    plain = applied(averaged_adam(41, 0.1, averaged_share=0.0), gradients, start)
    averaged = applied(averaged_adam(41, 0.1), gradients, start)
    np.testing.assert_array_equal(averaged[:-1], plain[:-1])
    np.testing.assert_allclose(averaged[-1], plain[21:].mean(axis=0), rtol=1e-5)


def test_zero_gradients_do_not_move_and_the_first_other_one_moves_by_one_rate():
    gradients = jnp.array([0.0, 0.0, 0.0, 1e-20, 0.0])
    path = applied(averaged_adam(9, 0.1, b1=0.0), gradients, jnp.ones(()))
    np.testing.assert_allclose(path, [1.0, 1.0, 1.0, 0.9, 0.9], rtol=1e-6)


def test_one_huge_gradient_does_not_stop_the_steps_that_follow():
    gradients = jnp.ones(100).at[10].set(1e8)
    steps = -np.diff(np.asarray(applied(averaged_adam(100, 1.0, b1=0.0), gradients, jnp.zeros(()))))
    assert steps[10 - 1] == pytest.approx(11**0.5, rel=1e-5)
    assert steps[10:-1].min() > 0.5


def test_a_gradient_that_is_not_finite_shows_in_its_parameter_alone():
    optim, params = averaged_adam(5), {"a": jnp.ones(2), "b": jnp.ones(())}
    gradient = {"a": jnp.array([jnp.nan, 1.0]), "b": jnp.ones(())}
    updates, _ = optim.update(gradient, optim.init(params), params)
    assert jnp.isnan(updates["a"]).tolist() == [True, False]
    assert jnp.isfinite(updates["b"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_pytrees_keep_structure_and_dtype_of_params_and_state(dtype):
    params = {"w": jnp.ones((2, 3), dtype), "b": [jnp.zeros((), dtype)]}
    optim = averaged_adam(3)
    state = optim.init(params)
    updates, new = jax.jit(optim.update)(jax.tree.map(jnp.ones_like, params), state, params)
    assert dtypes(updates) == dtypes(params)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert dtypes(new) == dtypes(state)


def normal_model(x):
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(0.0, scale))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=x)


def normal_guide(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("z", dist.Normal(0.5 * x, 1.0))


def test_svi_learns_the_exact_scale_under_jit_scan_and_vmap():
    x, num_steps = jnp.array([-3.0, 1.0, 2.0, -1.0, 3.0]), 2_000
    svi = SVI(normal_model, normal_guide, averaged_adam(num_steps), MultilevelSUMO(data_axes=0))

    @partial(jax.jit, static_argnums=1)
    def train(key, num_steps):
        step = lambda state, _: svi.update(state, x)
        state, _ = lax.scan(step, svi.init(key, x), None, length=num_steps)
        return svi.get_params(state)["scale"]

    found = jax.vmap(lambda key: train(key, num_steps))(random.split(random.key(0), 4))
    exact = (np.mean(np.square(x)) - 1.0) ** 0.5
    error = found.std(ddof=1) / 2.0
    assert abs(found.mean() - exact) < 4 * error < 0.1 * exact
    alone = train(random.split(random.key(0), 4)[0], num_steps)
    np.testing.assert_allclose(alone, found[0], rtol=1e-3)


def test_svi_runs_it_with_an_autoguide():
    def model():
        z = numpyro.sample("z", dist.Normal())
        numpyro.sample("x", dist.Normal(z, 1.0), obs=2.0)

    svi = SVI(model, autoguide.AutoNormal(model), averaged_adam(1_000), MultilevelSUMO())
    params = svi.run(random.key(0), 1_000, progress_bar=False).params
    assert params["z_auto_loc"] == pytest.approx(1.0, abs=0.2)


BAD = {
    "no steps": (dict(num_steps=0), "num_steps"),
    "half a step": (dict(num_steps=0.5), "num_steps"),
    "momentum of one": (dict(num_steps=9, b1=1.0), "b1"),
    "all steps averaged": (dict(num_steps=9, averaged_share=1.0), "averaged_share"),
}


@pytest.mark.parametrize("options, name", BAD.values(), ids=BAD.keys())
def test_bad_options_are_refused_in_one_line(options, name):
    with pytest.raises(ValueError, match=f"^Expected {name} [^\n]*$"):
        averaged_adam(**options)


def test_an_update_without_parameters_is_refused():
    optim = averaged_adam(3)
    with pytest.raises(ValueError, match="^Expected params[^\n]*$"):
        optim.update(jnp.ones(()), optim.init(jnp.ones(())))
