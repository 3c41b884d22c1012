"""Programs that cannot be weighed are refused, and those that can are not."""

from flax import linen as nn
import pytest

import jax
from jax.example_libraries import stax
import jax.numpy as jnp

import numpyro
from numpyro.contrib.module import flax_module
import numpyro.distributions as dist
from numpyro.handlers import block, scale, seed, trace
from numpyro.infer import autoguide

from numpyro_sumo.programs.check_params import check_params
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import JOINT
from numpyro_sumo.programs.validation import inspect_programs
from tests.helpers.models import AUXILIARY


def test_plate_of_another_full_size_in_the_guide_is_refused():
    """Its scale would be missing from the guide's density, and the weight a power of one."""

    def model():
        with numpyro.plate("data", 4, subsample_size=2):
            numpyro.sample("z", dist.Normal())

    def guide():
        with numpyro.plate("data", 2):
            numpyro.sample("z", dist.Normal())

    with pytest.raises(ValueError, match="'data' to have one full size .* got 4 and 2. Give"):
        inspect_programs(lambda datum, split: Programs(seed(model, 0), seed(guide, 1)))


def test_scale_that_varies_within_a_weight_is_refused():
    def guide():
        with scale(scale=jnp.array([1.0, 2.0])):
            numpyro.sample("z", dist.Normal().expand([2]))

    with pytest.raises(ValueError, match=r"one scale for each weight; .* shape \(2,\)"):
        inspect_programs(lambda datum, split: Programs(seed(guide, 0), seed(guide, 1)))


def test_auxiliary_sites_that_are_not_integrated_out_are_refused():
    def model():
        numpyro.sample("x", dist.Normal())

    def guide():
        u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
        numpyro.sample("x", dist.Normal(u, 1.0))

    with pytest.raises(ValueError, match=r"auxiliary sites \['u'\] beside \['x'\]. Use ReverseKL"):
        inspect_programs(lambda datum, split: Programs(model, guide))


def test_auxiliary_sites_that_the_latents_are_functions_of_are_accepted():
    def model():
        numpyro.sample("x", dist.Normal())

    guide = autoguide.AutoDiagonalNormal(model)
    with seed(rng_seed=0):
        guide_trace = trace(guide).get_trace()
    assert guide_trace["_auto_latent"]["infer"]["is_auxiliary"]
    params = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "param"}
    assert inspect_programs(lambda datum, split: Programs(model, guide, params)).data_dims == JOINT


def test_an_auxiliary_site_does_not_stand_for_a_latent_of_its_name():
    def model():
        numpyro.sample("x", dist.Normal(numpyro.sample("u", dist.Normal()), 1.0))

    def guide():
        numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
        numpyro.sample("x", dist.Normal())

    with pytest.raises(ValueError, match=r"it lacks \['u'\]"):
        inspect_programs(lambda datum, split: Programs(model, guide))


def test_a_list_of_autoguides_may_mix_auxiliary_sites_with_random_latents():
    def model():
        numpyro.sample("x", dist.Normal())
        numpyro.sample("y", dist.Normal())

    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoDiagonalNormal(block(model, hide=["y"]), prefix="first"))
    guide.append(autoguide.AutoNormal(block(model, hide=["x"]), prefix="second"))
    with seed(rng_seed=0):
        guide_trace = trace(guide).get_trace()
    params = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "param"}
    assert inspect_programs(lambda datum, split: Programs(model, guide, params)).data_dims == JOINT


def test_an_auxiliary_site_beside_an_unrelated_delta_is_refused():
    """The Delta does not make the density of the other latent known."""

    def model():
        numpyro.sample("x", dist.Normal())
        numpyro.sample("w", dist.Normal())

    def guide():
        u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
        numpyro.sample("x", dist.Normal(u, 1.0))
        numpyro.sample("w", dist.Delta(numpyro.param("point", 0.3)))

    with pytest.raises(ValueError, match=r"auxiliary sites \['u'\] beside \['w', 'x'\]. Use"):
        inspect_programs(lambda datum, split: Programs(model, guide, {"point": jnp.array(0.3)}))


def test_guide_sites_with_scales_of_their_own_are_refused():
    message = "all guide sites to have one scale; 'z' has 2.0 and 'w' has 3.0. Scale"

    def guide():
        with scale(scale=2.0):
            numpyro.sample("z", dist.Normal())
        with scale(scale=3.0):
            numpyro.sample("w", dist.Normal())

    with pytest.raises(ValueError, match=message):
        inspect_programs(lambda datum, split: Programs(seed(guide, 0), seed(guide, 1)))


def test_known_scales_are_compared_also_after_one_that_is_traced():
    def inspect(first):
        def guide():
            for name, each in {"z": first, "w": 2.0, "v": 3.0}.items():
                with scale(scale=each):
                    numpyro.sample(name, dist.Normal())

        return inspect_programs(lambda datum, split: Programs(seed(guide, 0), seed(guide, 1)))

    with pytest.raises(ValueError, match="to have one scale; 'w' has 2.0 and 'v' has 3.0. Scale"):
        jax.eval_shape(inspect, 1.0)


def guide_with_an_auxiliary_function():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("v", dist.Delta(u), infer=AUXILIARY)
    numpyro.sample("x", dist.Normal(u, 1.0))


def guide_with_a_sum_of_draws():
    u = numpyro.sample("u", dist.Normal().expand([2]).to_event(1), infer=AUXILIARY)
    numpyro.sample("x", dist.Delta(u.sum()))


@pytest.mark.parametrize("guide", [guide_with_an_auxiliary_function, guide_with_a_sum_of_draws])
def test_auxiliary_sites_whose_density_goes_nowhere_are_refused(guide):
    def model():
        numpyro.sample("x", dist.Normal())

    with pytest.raises(ValueError, match=r"auxiliary sites \['u'\] beside \['x'\]. Use ReverseKL"):
        inspect_programs(lambda datum, split: Programs(model, guide))


def program_with_params(size, *, bias=0.0):
    """A param site of an array, one of a flax module, one of a stax module."""
    numpyro.param("loc", jnp.zeros(size))
    flax_module("flax", nn.Dense(2), input_shape=(size,))(jnp.ones(size) + bias)
    numpyro.module("stax", stax.serial(stax.Dense(3), stax.Tanh), (size,))(jnp.ones(size))
    numpyro.sample("z", dist.Normal())


def params_of(size):
    with seed(rng_seed=0):
        sites = trace(program_with_params).get_trace(size)
    return {name: site["value"] for name, site in sites.items() if site["type"] == "param"}


def test_parameters_of_the_program_and_others_are_accepted():
    params = params_of(4)
    assert params.keys() == {"loc", "flax$params", "stax$params"}
    check_params(program_with_params, {**params, "of the model": 1.0}, (4,), {"bias": 1.0})


def with_kernel(params, change):
    dense = params["flax$params"]
    return {**params, "flax$params": {**dense, "kernel": change(dense["kernel"])}}


OTHER_PARAMS = {
    "none": (lambda params: {}, r"they lack \['flax\$params', 'loc', 'stax\$params'\]. Pass"),
    "no_module": (lambda params: {"loc": params["loc"]}, r"they lack \['flax\$params', 'stax"),
    "state": (lambda params: [params], "params to be a dict by param site; got list. Pass"),
    "shape": (
        lambda params: {**params, "loc": jnp.zeros((4, 1))},
        r"its 'loc' has shape \(4,\), and params have shape \(4, 1\). Pass",
    ),
    "of_another_size": (
        lambda params: with_kernel(params, lambda kernel: kernel[:2]),
        r"its 'flax\$params\['kernel'\]' has shape \(4, 2\), and params have shape \(2, 2\)",
    ),
    "leaf_too_few": (
        lambda params: {**params, "flax$params": {"kernel": params["flax$params"]["kernel"]}},
        r"its 'flax\$params\['bias'\]' has shape \(2,\), and params have no such array",
    ),
    "layer_too_many": (
        lambda params: {**params, "stax$params": [*params["stax$params"], jnp.ones(2)]},
        r"has no such array, and params have shape \(2,\)",
    ),
    "nan": (
        lambda params: with_kernel(params, lambda kernel: kernel.at[0, 1].set(jnp.nan)),
        r"finite params; 'flax\$params\['kernel'\]' of the guide contains NaN .* diverged, .* Tra",
    ),
}


@pytest.mark.parametrize("change, message", OTHER_PARAMS.values(), ids=OTHER_PARAMS.keys())
def test_parameters_that_are_not_the_program_s_are_refused_in_one_line(change, message):
    with pytest.raises(ValueError, match=message) as error:
        check_params(program_with_params, change(params_of(4)), (4,), {})
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)


def test_parameters_are_not_initialised_to_be_checked_and_may_be_traced():
    def no_numbers(key):
        assert isinstance(key, jax.core.Tracer)
        return jnp.zeros(2)

    def program():
        numpyro.param("loc", no_numbers)

    check_params(program, {"loc": jnp.ones(2)}, (), {})
    jax.eval_shape(lambda loc: check_params(program, {"loc": loc}, (), {}), jnp.ones(2))
    with pytest.raises(ValueError, match="of the model; its 'loc' has"):
        jax.eval_shape(lambda loc: check_params(program, {"loc": loc}, (), {}, role="model"), 1.0)
