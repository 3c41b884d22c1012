"""SUMO: unbiased value and gradient, who gets which gradient, and K drawn anew at every step."""

from dataclasses import dataclass, field

import numpy as np
import optax
import pytest
from scipy.stats import chi2

import jax
from jax import lax, random
from jax.lax import stop_gradient
import jax.numpy as jnp
from jax.scipy.special import logsumexp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO
from numpyro_sumo.stopping_times import ReciprocalTail
from tests.helpers.compiling import optimising_jit
from tests.helpers.models import linear_gaussian_problem, log_evidence, plated_problem, posterior
from tests.helpers.statistics import assert_mean, assert_same_mean, mean_and_se

MODEL_PARAMS, GUIDE_PARAMS = ("loc", "log_noise"), ("shift", "log_width")


def value_and_gradient(loss, problem, params=None):
    """Maps a key to the loss and its gradient in every parameter."""
    params = problem.params if params is None else params
    return lambda key: jax.value_and_grad(
        lambda params: loss.loss(key, params, problem.model, problem.guide, *problem.args)
    )(params)


def over_keys(function, key, num_keys, batch_size=500):
    keys = random.split(key, num_keys)
    return optimising_jit(lambda keys: lax.map(function, keys, batch_size=batch_size))(keys)


ESTIMATORS = {
    "paper_with_rotations": (SUMO(8, rotations=4), 20_000),
    "late_knee": (SUMO(8, stopping_time=ReciprocalTail(knee=200, decay=0.0)), 20_000),
    "multilevel": (MultilevelSUMO(4), 10_000),
}


@pytest.mark.parametrize("loss, num_keys", ESTIMATORS.values(), ids=ESTIMATORS.keys())
def test_value_and_gradient_in_twenty_dimensions_are_those_of_the_evidence(loss, num_keys):
    problem = linear_gaussian_problem(20)
    values, gradients = over_keys(value_and_gradient(loss, problem), random.key(1), num_keys, 50)
    assert_mean(values, problem.exact_loss)
    assert mean_and_se(values)[1] < 0.02
    expected = jax.grad(
        lambda loc, log_noise: -log_evidence(problem.args[0], loc, log_noise).sum(),
        argnums=(0, 1),
    )(problem.params["loc"], problem.params["log_noise"])
    for name, gradient in zip(MODEL_PARAMS, expected):
        assert_mean(gradients[name], gradient)
        assert np.all(mean_and_se(gradients[name])[1] < 0.06 * np.max(np.abs(gradient)))


def test_bound_without_the_tail_is_biased_where_sumo_is_not():
    """What the test above can see: at 8 particles the bound is off by many standard errors."""
    problem = linear_gaussian_problem(20)
    values, _ = over_keys(value_and_gradient(IWELBO(8), problem), random.key(0), 20_000)
    mean, se = mean_and_se(values)
    assert mean > problem.exact_loss + 10 * se


def test_guide_gets_the_gradient_of_the_bound_over_the_first_particles():
    """SUMO draws the particles of IWELBO and then its tail, so that equal keys compare exactly."""
    problem = plated_problem(3)
    keys = random.split(random.key(1), 10)

    def gradients_of(loss):
        at_key = value_and_gradient(loss, problem)
        return jax.jit(lambda keys: lax.map(at_key, keys))(keys)[1]

    sumo, iwelbo = gradients_of(SUMO(4, share_stopping_times=True)), gradients_of(IWELBO(4))
    for name in GUIDE_PARAMS:
        np.testing.assert_allclose(sumo[name], iwelbo[name], rtol=1e-4)
    for name in MODEL_PARAMS:
        assert not np.allclose(sumo[name], iwelbo[name], rtol=1e-2)


def test_model_gets_the_gradient_of_the_estimate():
    """At a fixed key the estimate is a smooth function of the model's parameters."""
    loss, step = SUMO(2, guide_objective="variance"), 1e-5
    with jax.enable_x64(True):
        problem = linear_gaussian_problem(2)
        evaluate = jax.jit(lambda key, params: value_and_gradient(loss, problem, params)(key))
        for key in random.split(random.key(2), 4):
            _, gradient = evaluate(key, problem.params)
            for name, direction in {"log_noise": 1.0, "loc": jnp.array([0.3, -1.0])}.items():
                up, down = (
                    evaluate(
                        key, {**problem.params, name: problem.params[name] + sign * direction}
                    )[0]
                    for sign in (step, -step)
                )
                slope = float((up - down) / (2 * step))
                assert float(jnp.sum(gradient[name] * direction)) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize("loss", [IWELBO(3), SUMO(3)], ids=["iwelbo", "sumo"])
def test_parameter_of_both_model_and_guide_gets_the_sum(loss):
    def programs(model_name, guide_name):
        def model():
            z = numpyro.sample("z", dist.Normal(numpyro.param(model_name, 0.4), 1.0))
            numpyro.sample("x", dist.Normal(z, 0.8), obs=1.5)

        def guide():
            numpyro.sample("z", dist.Normal(numpyro.param(guide_name, 0.4), 0.9))

        return model, guide

    def gradients(*names):
        params = {name: jnp.array(0.4) for name in names}
        at_key = jax.grad(lambda params, key: loss.loss(key, params, *programs(*names)))
        keys = random.split(random.key(3), 6)
        return jax.jit(lambda keys: lax.map(lambda key: at_key(params, key), keys))(keys)

    apart, shared = gradients("mine", "yours"), gradients("ours", "ours")
    np.testing.assert_allclose(shared["ours"], apart["mine"] + apart["yours"], rtol=1e-3)
    for name in ("mine", "yours"):
        assert np.all(np.abs(apart[name]) > 1e-4)


def test_variance_objective_gives_the_guide_the_gradient_of_the_squared_error():
    """Against a naive E[(SUMO − b)²], K summed out, b a bound over 32 draws of its own."""
    problem = linear_gaussian_problem(1, shift=0.5, log_width=-0.3)
    tail, m = ReciprocalTail(knee=3, decay=0.0), 2
    loss = SUMO(m, stopping_time=tail, guide_objective="variance")
    x = problem.args[0]

    def log_weights(guide_params, key, count):
        mean, sd = posterior(x)
        loc = mean + sd * guide_params["shift"]
        width = sd * jnp.exp(guide_params["log_width"])
        z = loc + width * random.normal(key, (count, 1))
        log_model = dist.Normal(problem.params["loc"], 1.0).log_prob(z)
        log_model += dist.Normal(z, jnp.exp(problem.params["log_noise"])).log_prob(x)
        return (log_model - dist.Normal(loc, width).log_prob(z))[:, 0]

    def naive(guide_params, key):
        draws_key, baseline_key = random.split(key)
        rows = log_weights(guide_params, draws_key, m + 3)
        baseline = logsumexp(log_weights(guide_params, baseline_key, 32)) - jnp.log(32.0)
        bounds = [logsumexp(rows[:k]) - jnp.log(float(k)) for k in range(m, m + 4)]
        estimate, total = bounds[0], 0.0
        for k in (1, 2, 3):
            estimate += k * (bounds[k] - bounds[k - 1])
            total += tail.probabilities[k - 1] * (estimate - stop_gradient(baseline)) ** 2
        return total

    guide_params = {name: problem.params[name] for name in GUIDE_PARAMS}
    naive_gradient = lambda key: jax.grad(naive)(guide_params, key)
    expected = over_keys(naive_gradient, random.key(4), 60_000, 10_000)
    _, gradients = over_keys(value_and_gradient(loss, problem), random.key(5), 20_000, 5_000)
    for name in GUIDE_PARAMS:
        mean, se = mean_and_se(expected[name])
        assert abs(mean) > 15 * se
        assert_same_mean(gradients[name], expected[name])


@dataclass(frozen=True)
class WatchedTail(ReciprocalTail):
    """Notes every stopping time when it is drawn, wherever that happens."""

    seen: list = field(default_factory=list, compare=False)

    def sample(self, rng_key, shape=()):
        draws = super().sample(rng_key, shape)
        jax.debug.callback(lambda draws: self.seen.extend(draws.tolist()), draws, ordered=True)
        return draws


def test_stopping_time_is_drawn_anew_at_every_step_of_a_scan():
    tail = WatchedTail(knee=6, decay=0.0)
    problem = linear_gaussian_problem(1)
    svi = SVI(problem.model, problem.guide, optax.sgd(0.0), loss=SUMO(2, stopping_time=tail))
    num_steps = 600
    run = lambda key: svi.run(key, num_steps, *problem.args, progress_bar=False)
    jax.block_until_ready(jax.jit(run)(random.key(6)).losses)
    jax.effects_barrier()
    seen = np.array(tail.seen)
    assert seen.shape == (num_steps,)
    observed = np.bincount(seen, minlength=7)[1:]
    expected = num_steps * tail.probabilities
    assert chi2.sf(np.sum((observed - expected) ** 2 / expected), 5) > 1e-3
    # Neighbours are independent: they are equal as often as two draws are.
    equal = np.mean(seen[1:] == seen[:-1])
    chance = np.sum(tail.probabilities**2)
    assert abs(equal - chance) < 4 * np.sqrt(chance * (1 - chance) / num_steps)


def test_one_stopping_time_is_shared_by_the_elements_of_a_plate():
    tail = WatchedTail()
    problem = plated_problem(5)
    loss = SUMO(2, stopping_time=tail, share_stopping_times=True)
    jax.jit(
        lambda key: loss.loss(key, problem.params, problem.model, problem.guide, *problem.args)
    )(random.key(8))
    jax.effects_barrier()
    assert len(tail.seen) == 1


def test_variance_objective_has_finite_gradients_where_the_baseline_has_zeros_alone():
    def model():
        z = numpyro.sample("z", dist.Normal())
        numpyro.factor("tail", jnp.where(z > 2.2, 0.0, -jnp.inf))

    def guide():
        numpyro.sample("z", dist.Normal(numpyro.param("mean", 0.0), 1.0))

    loss = SUMO(8, guide_objective="variance")
    at_key = lambda key: jax.value_and_grad(
        lambda mean: loss.loss(key, {"mean": mean}, model, guide)
    )(0.0)
    values, gradients = over_keys(at_key, random.key(6), 100)
    assert np.any(np.isfinite(values)) and np.all(np.isfinite(gradients))
