"""Each private interface of NumPyro and JAX that the package uses still does what it is for."""

from functools import partial

import numpy as np
import pytest

import jax
from jax import random
from jax.extend.core import ClosedJaxpr, DropVar, Jaxpr, Literal, Var, jaxpr_as_fun
import jax.numpy as jnp
from jax.sharding import AxisType, PartitionSpec

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block, seed
from numpyro.infer import MCMC, NUTS
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.initialization import init_to_value
from numpyro.util import fori_collect

from numpyro_sumo._compat import (
    VectorGuide,
    collectable_key,
    inputs_of_mcmc,
    jit_once,
    new_style_key,
    pack_latents,
    set_up_guide,
    vary_over,
    varying_axes,
    with_posterior,
)
from numpyro_sumo.programs.jaxprs import _is_dropped, evaluate_equations


def model():
    numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
    numpyro.sample("a", dist.LogNormal())


class MeanField(AutoDiagonalNormal, VectorGuide):
    pass


def vector_guide():
    values = {"z": jnp.array([1.0, 2.0]), "a": jnp.exp(3.0)}
    guide = MeanField(model, init_loc_fn=init_to_value(values=values))
    with block(), seed(rng_seed=0):
        guide.set_up()
    return guide


def test_vector_of_latents_is_unconstrained_and_sorted_by_site_name():
    guide = vector_guide()
    assert guide.latent_dim == 3
    np.testing.assert_allclose(guide.initial_vector, [3.0, 1.0, 2.0], rtol=1e-6)


def test_vector_unpacks_to_the_sites_it_was_made_of():
    sites = vector_guide().unpack(jnp.arange(3.0))
    assert list(sites) == ["a", "z"]
    assert jax.tree.map(np.shape, sites) == {"a": (), "z": (2,)}
    np.testing.assert_array_equal(sites["z"], [1.0, 2.0])


def test_vector_has_one_order_outside_and_inside_jit():
    def initial(_):
        return vector_guide().initial_vector

    np.testing.assert_array_equal(jax.jit(initial)(0), initial(0))


def test_vector_guide_knows_the_trace_of_its_model():
    assert {"z", "a"} <= vector_guide().prototype_trace.keys()


@pytest.mark.parametrize("make_key", [random.key, random.PRNGKey], ids=["new_style", "old_style"])
@pytest.mark.parametrize("shape", [(), (3,)])
def test_collectable_keys_are_pairs_of_integers_with_the_same_random_numbers(make_key, shape):
    keys = random.split(make_key(0), shape) if shape else make_key(0)
    found = collectable_key(keys)
    assert (found.shape, found.dtype) == ((*shape, 2), np.uint32)
    numbers = jax.vmap(random.normal) if shape else random.normal
    np.testing.assert_array_equal(numbers(found), numbers(keys))
    with pytest.raises(TypeError):  # else such keys need not be converted
        make_collected(random.key(0))
    make_collected(collectable_key(random.key(0)))


def make_collected(key):
    return fori_collect(0, 2, lambda key: random.split(key)[0], key, progbar=False)


def test_keys_of_another_generator_stay_as_they_are():
    key = random.key(0, impl="rbg")
    assert collectable_key(key) is key


@pytest.mark.parametrize("make_key", [random.key, random.PRNGKey], ids=["new_style", "old_style"])
def test_keys_in_the_new_style_have_the_same_random_numbers(make_key):
    key = make_key(3)
    found = new_style_key(key)
    assert jax.numpy.issubdtype(found.dtype, jax.dtypes.prng_key)
    np.testing.assert_array_equal(random.normal(found, (4,)), random.normal(key, (4,)))


MESH = jax.make_mesh((1, 1), ("a", "b"), axis_types=(AxisType.Auto, AxisType.Auto))
BY_AXIS, EVERYWHERE = PartitionSpec("a"), PartitionSpec()


def by_device(function, out_spec):
    """The function of (an array split over axis a, an array on every device) on one device."""
    return jax.shard_map(
        function, mesh=MESH, in_specs=(BY_AXIS, EVERYWHERE), out_specs=out_spec, check_vma=True
    )


def test_varying_axes_are_those_that_any_array_is_split_over():
    found = []

    def note(split, whole):
        trees = split, whole, [split, whole], split + whole, {"none": None}
        found.extend(map(varying_axes, trees))
        return whole

    by_device(note, EVERYWHERE)(jnp.ones(1), jnp.array(1.0))
    axis, none = frozenset({"a"}), frozenset()
    assert found == [axis, none, axis, axis, none]


def test_arrays_outside_shard_map_vary_over_no_axis():
    leaf = jnp.ones(2)
    assert varying_axes({"leaf": leaf, "key": random.key(0)}) == frozenset()
    assert vary_over(leaf, varying_axes(leaf)) is leaf


def test_arrays_are_marked_as_varying_over_the_axes_that_they_do_not_vary_over():
    found = []

    def mark(split, whole):
        marked = vary_over({"split": split, "whole": whole}, frozenset({"a", "b"}))
        found.extend(map(varying_axes, marked.values()))
        return marked["whole"][None]

    value = by_device(mark, PartitionSpec(("a", "b")))(jnp.ones(1), jnp.array(2.0))
    assert found == [frozenset({"a", "b"})] * 2
    np.testing.assert_array_equal(value, [2.0])


def test_cotangents_must_vary_over_the_axes_of_the_function_s_value():
    """This is why ragged evaluation marks what it differentiates."""

    def gradient(split, whole, mark):
        value, pull_back = jax.vjp(
            lambda x: vary_over(x, varying_axes(split)) if mark else x, whole
        )
        return pull_back(split[0])[0]

    marked = by_device(partial(gradient, mark=True), EVERYWHERE)
    assert marked(jnp.array([3.0]), jnp.array(1.0)) == 3.0
    with pytest.raises(ValueError, match="VJP"):
        by_device(partial(gradient, mark=False), EVERYWHERE)(jnp.array([3.0]), jnp.array(1.0))


def example(x):
    """Two equations, the first of which has a result that nothing reads."""
    largest, _ = jax.lax.top_k(x, 1)
    return largest * 2.0


X = jnp.array([1.0, 4.0, 3.0])


def test_parts_of_a_jaxpr_that_the_package_reads():
    traced, shape = jax.make_jaxpr(example, return_shape=True)(X)
    assert (shape.shape, shape.dtype) == ((1,), np.float32)
    jaxpr = traced.jaxpr
    assert isinstance(traced, ClosedJaxpr) and isinstance(jaxpr, Jaxpr)
    top_k, double = jaxpr.eqns
    assert all(isinstance(variable, Var) for variable in (*jaxpr.invars, *jaxpr.outvars))
    assert top_k.invars == jaxpr.invars and double.outvars == jaxpr.outvars
    read, two = double.invars
    assert read == top_k.outvars[0] and isinstance(two, Literal) and two.val == 2.0
    assert not top_k.effects and jaxpr.constvars == traced.consts == []


def test_arrays_that_a_function_closes_over_are_constants_of_its_jaxpr():
    traced = jax.make_jaxpr(lambda y: y + X)(1.0)
    (variable,), (value,) = traced.jaxpr.constvars, traced.consts
    assert isinstance(variable, Var)
    np.testing.assert_array_equal(value, X)


def test_side_effects_are_those_of_their_equation():
    noisy = jax.make_jaxpr(lambda x: [jax.debug.callback(lambda _: None, x), x + 1.0][1])(1.0)
    assert sorted(bool(equation.effects) for equation in noisy.jaxpr.eqns) == [False, True]


def with_dropped_result(jaxpr):
    """The jaxpr with the result that nothing reads dropped, as some versions of JAX leave it."""
    first, *others = jaxpr.eqns
    read, not_read = first.outvars
    first = first.replace(outvars=[read, DropVar(not_read.aval)])
    return jaxpr.replace(eqns=[first, *others])


def test_results_that_nothing_reads_are_recognised_by_the_name_of_their_class():
    jaxpr = with_dropped_result(jax.make_jaxpr(example)(X).jaxpr)
    assert "_:i32[1] = top_k" in str(jaxpr)
    assert [_is_dropped(variable) for variable in jaxpr.eqns[0].outvars] == [False, True]


def test_a_part_of_a_jaxpr_can_be_put_in_its_place_and_evaluated():
    jaxpr = jax.make_jaxpr(example)(X).jaxpr
    double = jaxpr.eqns[1]
    part = jaxpr.replace(
        constvars=[],
        invars=[double.invars[0]],
        outvars=double.outvars,
        eqns=[double],
        effects=frozenset(),
    )
    assert len(jaxpr.eqns) == 2
    (value,) = jaxpr_as_fun(ClosedJaxpr(part, []))(jnp.array([7.0]))
    np.testing.assert_array_equal(value, [14.0])


@pytest.mark.parametrize("change", [lambda jaxpr: jaxpr, with_dropped_result])
def test_equations_with_results_that_nothing_reads_are_evaluated(change):
    jaxpr = change(jax.make_jaxpr(example)(X).jaxpr)
    values = dict(zip(jaxpr.invars, [X]))
    (value,) = evaluate_equations(jaxpr, jaxpr.eqns, values, jaxpr.outvars)
    np.testing.assert_array_equal(value, [8.0])


def test_function_that_is_run_once_gives_what_it_gives():
    np.testing.assert_allclose(jit_once(lambda x: jnp.sin(x).sum())(jnp.ones(3)), 3 * np.sin(1.0))


def test_vector_of_a_guide_packs_and_unpacks_sites_in_its_own_order():
    guide = AutoDiagonalNormal(model)
    set_up_guide(guide, (), {})
    vector = jnp.array([0.1, -0.2, 0.3])
    unpacked = guide._unpack_and_constrain(vector, {})
    packed, own = pack_latents(guide, unpacked)
    np.testing.assert_allclose(packed["_auto_latent"], vector, rtol=1e-6)
    assert own == {"a", "z"}


def test_guide_with_another_posterior_leaves_the_first_as_it_was():
    guide = AutoDiagonalNormal(model, init_scale=0.5)
    set_up_guide(guide, (), {})
    assert guide.prototype_trace is not None
    other = with_posterior(guide, dist.Normal(7.0, 1e-6).expand([3]).to_event(1))
    drawn = numpyro.handlers.trace(numpyro.handlers.seed(other, 0)).get_trace()
    np.testing.assert_allclose(drawn["_auto_latent"]["value"], 7.0, rtol=1e-4)
    first = numpyro.handlers.trace(numpyro.handlers.seed(guide, 0)).get_trace()
    assert np.all(np.abs(first["_auto_latent"]["value"]) < 6.0)


def test_arguments_of_chains_are_those_they_ran_with():
    mcmc = MCMC(NUTS(model), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(ValueError, match="MCMC that has run"):
        inputs_of_mcmc(mcmc)
    mcmc.run(random.key(0))
    assert inputs_of_mcmc(mcmc) == ((), {})
