"""Programs that cannot be weighed are refused, and those that can are not."""

import pytest

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import block, mask, scale, seed, trace
from numpyro.infer import autoguide

from numpyro_sumo.inspection import JOINT, inspect_programs
from tests.models import AUXILIARY


def test_plate_of_another_full_size_in_the_guide_is_refused():
    """Its scale would be missing from the guide's density, and the weight a power of one."""

    def model():
        with numpyro.plate("data", 4, subsample_size=2):
            numpyro.sample("z", dist.Normal())

    def guide():
        with numpyro.plate("data", 2):
            numpyro.sample("z", dist.Normal())

    with pytest.raises(ValueError, match="'data' to have one full size .* got 4 and 2. Give"):
        inspect_programs(seed(model, 0), seed(guide, 1), {}, (), {})


def test_scale_that_varies_within_a_weight_is_refused():
    def guide():
        with scale(scale=jnp.array([1.0, 2.0])):
            numpyro.sample("z", dist.Normal().expand([2]))

    with pytest.raises(ValueError, match=r"one scale for each weight; .* shape \(2,\)"):
        inspect_programs(seed(guide, 0), seed(guide, 1), {}, (), {})


def test_auxiliary_sites_that_are_not_integrated_out_are_refused():
    def model():
        numpyro.sample("x", dist.Normal())

    def guide():
        u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
        numpyro.sample("x", dist.Normal(u, 1.0))

    with pytest.raises(ValueError, match=r"auxiliary sites \['u'\] beside \['x'\]. Use ReverseKL"):
        inspect_programs(model, guide, {}, (), {})


def test_auxiliary_sites_that_the_latents_are_functions_of_are_accepted():
    def model():
        numpyro.sample("x", dist.Normal())

    guide = autoguide.AutoDiagonalNormal(model)
    with seed(rng_seed=0):
        guide_trace = trace(guide).get_trace()
    assert guide_trace["_auto_latent"]["infer"]["is_auxiliary"]
    params = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "param"}
    assert inspect_programs(model, guide, params, (), {}).data_dims == JOINT


def test_an_auxiliary_site_does_not_stand_for_a_latent_of_its_name():
    def model():
        numpyro.sample("x", dist.Normal(numpyro.sample("u", dist.Normal()), 1.0))

    def guide():
        numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
        numpyro.sample("x", dist.Normal())

    with pytest.raises(ValueError, match=r"it lacks \['u'\]"):
        inspect_programs(model, guide, {}, (), {})


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
    assert inspect_programs(model, guide, params, (), {}).data_dims == JOINT


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
        inspect_programs(model, guide, {"point": jnp.array(0.3)}, (), {})


def test_guide_sites_with_scales_of_their_own_are_refused():
    message = "all guide sites to have one scale; 'z' has 2.0 and 'w' has 3.0. Scale"

    def guide():
        with scale(scale=2.0):
            numpyro.sample("z", dist.Normal())
        with scale(scale=3.0):
            numpyro.sample("w", dist.Normal())

    with pytest.raises(ValueError, match=message):
        inspect_programs(seed(guide, 0), seed(guide, 1), {}, (), {})


def test_site_masked_in_the_guide_alone_is_refused():
    """Its draw would be weighed by the model's density and not by its own."""

    def model():
        with numpyro.plate("data", 2):
            numpyro.sample("z", dist.Normal())

    observed = jnp.array([True, False])
    with pytest.raises(ValueError, match="site 'z' to be masked in model and guide alike"):
        inspect_programs(model, mask(model, mask=observed), {}, (), {})
    inspect_programs(mask(model, mask=observed), model, {}, (), {})
    inspect_programs(mask(model, mask=observed), mask(model, mask=observed), {}, (), {})


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
        inspect_programs(model, guide, {}, (), {})
