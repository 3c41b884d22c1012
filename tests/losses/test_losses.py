"""One table of losses, and what every one of them must do."""

from functools import cache
import pickle

import numpy as np
import optax
import pytest

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.infer import SVI

from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL
from numpyro_sumo.stopping_times import GeometricTail, ReciprocalTail
from tests.helpers.models import linear_gaussian_problem, matching_problem, plated_problem

CASES = {
    "iwelbo": (lambda **o: IWELBO(4, **o), linear_gaussian_problem(2)),
    "sumo": (lambda **o: SUMO(4, share_stopping_times=True, **o), plated_problem(3)),
    "multilevel": (
        lambda **o: MultilevelSUMO(2, guide_objective="variance", **o),
        linear_gaussian_problem(2),
    ),
    "multilevel_of_a_plate": (
        lambda **o: MultilevelSUMO(3, share_stopping_times=True, **o),
        plated_problem(3),
    ),
    "reverse_kl_of_iwelbo": (
        lambda **o: ReverseKL(IWELBO(3, guide_objective="iwelbo", **o), num_particles=4),
        matching_problem(),
    ),
    "reverse_kl_of_iwhvi": (
        lambda **o: ReverseKL(IWHVI(3, **o), num_particles=4, gradient="standard"),
        matching_problem(),
    ),
    "reverse_kl_of_sumo": (
        lambda **o: ReverseKL(SUMO(3, **o), num_particles=4),
        matching_problem(),
    ),
    "reverse_kl_of_sumo_from_above": (
        lambda **o: ReverseKL(SUMO(3, from_above=True, **o), num_particles=4),
        matching_problem(),
    ),
    "reverse_kl_of_multilevel": (
        lambda **o: ReverseKL(MultilevelSUMO(3, from_above=True, **o), num_particles=4),
        matching_problem(),
    ),
}
every_loss = pytest.mark.parametrize("name", CASES)

KEYS = random.split(random.key(1), 25)


def svi_for(name, model=None):
    make_loss, problem = CASES[name]
    return SVI(model or problem.model, problem.guide, optax.adam(1e-2), loss=make_loss())


@cache
def values_and_gradients(name, **options):
    """Maps (keys, params) to the loss and its gradient at every key, one after the other."""
    make_loss, problem = CASES[name]
    loss = make_loss(**options)
    evaluate = lambda key, params: loss.loss(
        key, params, problem.model, problem.guide, *problem.args
    )
    at_key = jax.value_and_grad(evaluate, argnums=1)
    run = jax.jit(lambda keys, params: lax.map(lambda key: at_key(key, params), keys))
    # Weak types would be compiled anew.
    strong = lambda params: {name: jnp.asarray(p, jnp.float32) for name, p in params.items()}
    return lambda keys, params: run(keys, strong(params))


@every_loss
def test_svi_run_moves_every_parameter_and_reports_fresh_finite_losses(name):
    svi, problem = svi_for(name), CASES[name][1]
    run = lambda key: svi.run(key, 6, *problem.args, init_params=problem.params, progress_bar=False)
    result = jax.jit(run)(random.key(0))
    assert result.losses.shape == (6,) and result.losses.dtype == jnp.float32
    assert np.all(np.isfinite(result.losses))
    assert len(set(result.losses.tolist())) == 6
    assert result.params.keys() == problem.params.keys()
    for name, before in problem.params.items():
        assert np.all(np.isfinite(result.params[name]))
        assert np.all(result.params[name] != before), name


@every_loss
def test_update_is_traced_and_compiled_once_for_a_whole_run(name):
    """Every step draws anew how many log-weights it evaluates; the types of its state stay."""
    problem = CASES[name][1]
    traces = []

    def counting_model(*args):
        traces.append(args)
        return problem.model(*args)

    svi = svi_for(name, counting_model)
    # Whether a step is traced anew depends on types alone: most losses need not be compiled.
    evaluate = jax.eval_shape if name != "sumo" else lambda function, *args: function(*args)
    state = evaluate(jax.jit(svi.init), random.key(0), *problem.args)
    update = jax.jit(svi.update)
    state, _ = evaluate(update, state, *problem.args)
    after_one_step = len(traces)
    losses = []
    for _ in range(10):
        state, loss = evaluate(update, state, *problem.args)
        losses.append(loss)
    assert len(traces) == after_one_step > 0
    if name == "sumo":
        assert len({float(loss) for loss in losses}) == 10


@pytest.mark.parametrize(
    "name", ["iwelbo", "sumo", "multilevel", "reverse_kl_of_iwhvi", "reverse_kl_of_multilevel"]
)
def test_evaluate_under_vmap_over_old_style_keys_is_the_loss_at_each_new_style_one(name):
    svi, problem = svi_for(name), CASES[name][1]

    def evaluate(keys):
        state = svi.init(random.PRNGKey(3), *problem.args, init_params=problem.params)
        at_key = lambda key: svi.evaluate(state._replace(rng_key=key), *problem.args)
        return jax.vmap(at_key)(keys)

    evaluated = jax.jit(evaluate)(random.key_data(KEYS))
    evaluation_keys = jax.vmap(random.split)(KEYS)[:, 1]
    values, _ = values_and_gradients(name)(evaluation_keys, problem.params)
    np.testing.assert_allclose(evaluated, values, rtol=1e-4, atol=1e-4)
    assert len(set(values.tolist())) == len(KEYS)


@every_loss
def test_exact_posterior_gives_minus_log_evidence_for_every_key(name):
    """In density matching: the exact reverse model, and a sampler that is the target."""
    problem = CASES[name][1]
    values, _ = values_and_gradients(name)(KEYS, problem.exact_params)
    # A stopping time of 100 multiplies the rounding of increments by several thousand.
    np.testing.assert_allclose(values, problem.exact_loss, rtol=1e-5, atol=2e-3)
    assert np.median(np.abs(values - problem.exact_loss)) < 1e-5


@every_loss
def test_neither_value_nor_gradient_depends_on_the_chunk_size(name):
    problem = CASES[name][1]
    expected = values_and_gradients(name)(KEYS, problem.params)
    got = values_and_gradients(name, chunk_size=3)(KEYS, problem.params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, expected)


@every_loss
def test_stable_update_keeps_the_default_float_type_under_x64(name):
    """It chooses between two states, and refuses to if the loss brings another type into one."""
    with jax.enable_x64(True):
        svi, problem = svi_for(name), CASES[name][1]
        args = [jnp.asarray(arg, float) for arg in problem.args]
        state = jax.eval_shape(svi.init, random.key(0), *args)
        new_state, loss = jax.eval_shape(svi.stable_update, state, *problem.args)
        assert loss.dtype == jnp.float64
        assert loss.shape == ()
        for leaf, new_leaf in zip(jax.tree.leaves(state), jax.tree.leaves(new_state)):
            assert leaf.dtype == new_leaf.dtype


KINDS = (IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL, GeometricTail, ReciprocalTail)


@every_loss
def test_repr_is_the_call_that_makes_the_loss(name):
    loss = CASES[name][0]()
    names = {kind.__name__: kind for kind in KINDS}
    assert f"num_particles={loss.num_particles}" in repr(loss)
    assert repr(eval(repr(loss), names)) == repr(loss)


def test_repr_of_a_loss_whose_tail_is_cut_short_says_what_it_is_unbiased_for():
    short = ReciprocalTail(knee=4, decay=0.0), GeometricTail(0.75, max_level=2)
    assert repr(SUMO(3, stopping_time=short[0])).endswith("# unbiased for the bound over 7 draws")
    multilevel = MultilevelSUMO(2, stopping_time=short[1])
    assert repr(multilevel).endswith("# unbiased for the bound over 8 draws")
    assert "unbiased" not in repr(SUMO()) + repr(MultilevelSUMO()) + repr(IWELBO())


@every_loss
def test_pickled_loss_comes_back_the_same(name):
    loss = CASES[name][0]()
    copy = pickle.loads(pickle.dumps(loss))
    assert type(copy) is type(loss) and copy is not loss
    assert vars(copy).keys() == vars(loss).keys()
    assert repr(copy) == repr(loss)
