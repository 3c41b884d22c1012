"""Latent sites that differ in shape or mask between model and guide are refused, and no others."""

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import mask, seed, trace
from numpyro.infer import autoguide

from numpyro_sumo import (
    IWELBO,
    HierarchicalGuide,
    IndependenceMetropolis,
    ReverseKL,
    certify,
    kl_sandwich,
    log_evidence,
)
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.validation import inspect_programs
from tests.helpers.models import AUXILIARY


def normal(shape=(), event_dim=0, sample_shape=(), plate=None):
    """A program with one Normal latent site z."""

    def program():
        fn = dist.Normal(jnp.zeros(shape)).to_event(event_dim)
        if plate is None:
            numpyro.sample("z", fn, sample_shape=sample_shape)
        else:
            with numpyro.plate("data", plate):
                numpyro.sample("z", fn, sample_shape=sample_shape)

    return program


OTHER_SHAPES = {
    "scalar": (normal((3,)), normal(), r"shape in .*; got \(3,\) and \(\)"),
    "vector": (normal(), normal((3,)), r"shape in .*; got \(\) and \(3,\)"),
    "column": (normal((3,)), normal((3, 1)), r"shape in .*; got \(3,\) and \(3, 1\)"),
    "event": (normal((3,), 1), normal(), r"shape in .*; got \(3,\) and \(\)"),
    "plate": (normal(plate=3), normal(), r"shape in .*; got \(3,\) and \(\)"),
    "sample_shape": (normal(sample_shape=(2,)), normal(), r"shape in .*; got \(2,\) and \(\)"),
    "axis_of_the_plate": (
        normal((3, 3), plate=3),
        normal((3, 3), 1, plate=3),
        "event_dim in .*; got 0 and 1. Call to_event",
    ),
}


@pytest.mark.parametrize("model, guide, message", OTHER_SHAPES.values(), ids=OTHER_SHAPES.keys())
def test_guide_sites_of_another_shape_are_refused(model, guide, message):
    with pytest.raises(ValueError, match="Expected latent site 'z' to have one " + message):
        inspect_programs(lambda datum, split: Programs(model, guide))


SAME_SHAPES = {
    "event_of_a_joint_weight": (normal((3,), 1), normal((3,))),
    "whole_plate": (normal(plate=3), normal((3,))),
    "broadcast_by_the_plate": (normal(plate=3), normal((3,), plate=3)),
    "sample_shape": (normal(sample_shape=(3,)), normal((3,), 1)),
    "automatic": (normal((3,), 1), autoguide.AutoNormal(normal((3,), 1))),
    "automatic_vector": (normal(plate=3), autoguide.AutoMultivariateNormal(normal(plate=3))),
}


@pytest.mark.parametrize("model, guide", SAME_SHAPES.values(), ids=SAME_SHAPES.keys())
def test_guide_sites_of_the_same_shape_are_accepted(model, guide):
    inspect_programs(lambda datum, split: Programs(model, guide, params_of(guide)))


def params_of(guide, *args):
    sites = trace(seed(guide, 0)).get_trace(*args)
    return {name: site["value"] for name, site in sites.items() if site["type"] == "param"}


def sampler():
    u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
    numpyro.sample("z", dist.Normal(u, 1.0))


def reverse(latents):
    numpyro.sample("u", dist.Normal(latents["z"] / 2.0, 0.7))


GUIDE, KEY = HierarchicalGuide(sampler, reverse), random.key(0)
JUDGES = {
    "log_evidence": lambda model: log_evidence(KEY, model, normal(), {}, progress_bar=False),
    "ReverseKL": lambda model: ReverseKL().loss(KEY, {}, model, GUIDE),
    "certify": lambda model: certify(KEY, model, GUIDE, {}),
    "kl_sandwich": lambda model: kl_sandwich(KEY, model, GUIDE, {}),
    "IndependenceMetropolis": lambda model: IndependenceMetropolis(model, GUIDE, {}).init(KEY, 0),
}


@pytest.mark.parametrize("judge", JUDGES.values(), ids=JUDGES.keys())
def test_losses_and_diagnostics_refuse_another_shape(judge):
    with pytest.raises(ValueError, match=r"'z' to have one shape in .*; got \(3,\) and \(\)"):
        judge(normal((3,)))


MASK = np.array([True, False, True])


def masked(of=None, site="z"):
    """A program with a latent site that is masked by a function of the argument."""

    def program(x):
        with numpyro.plate("data", 3):
            fn = dist.Normal()
            numpyro.sample(site, fn if of is None else fn.mask(of(x)))

    return program


def with_obs_mask(x):
    numpyro.sample("x", dist.Normal(jnp.zeros(3), 1.0), obs=x, obs_mask=jnp.asarray(MASK))


def known(x):
    return jnp.asarray(MASK)


DIFFERENT_MASKS = {
    "model_alone": (masked(known), masked()),
    "guide_alone": (masked(), masked(known)),
    "another": (masked(jnp.isnan), masked(lambda x: ~jnp.isnan(x))),
    "automatic": (masked(known), autoguide.AutoNormal(masked())),
    "automatic_masked": (masked(), mask(autoguide.AutoNormal(masked()), mask=MASK)),
    "none_counts": (masked(lambda x: False), masked()),
}
X = jnp.array([0.3, jnp.nan, 1.0])


@pytest.mark.parametrize("is_jitted", [False, True])
@pytest.mark.parametrize("model, guide", DIFFERENT_MASKS.values(), ids=DIFFERENT_MASKS.keys())
def test_sites_masked_differently_are_refused(model, guide, is_jitted):
    with pytest.raises(ValueError, match="site 'z' to have one mask in .* in both"):
        inspect(model, guide, is_jitted)


def inspect(model, guide, is_jitted):
    params = params_of(guide, X)
    run = lambda x: (
        inspect_programs(lambda datum, split: Programs(model, guide, params, (x,))).data_dims
    )
    return jax.eval_shape(lambda x: (run(x), 0)[1], X) if is_jitted else run(X)


def unobserved(x):
    numpyro.sample("x_unobserved", dist.Normal(jnp.zeros(3)).mask(~known(x)))


SAME_MASKS = {
    "known": (masked(known), masked(lambda x: jnp.array([1, 0, 1]) > 0)),
    "computed": (masked(jnp.isnan), masked(jnp.isnan)),
    "all_count": (masked(lambda x: jnp.ones(3, bool)), masked()),
    "automatic": (masked(known), mask(autoguide.AutoNormal(masked()), mask=MASK)),
    "obs_mask": (with_obs_mask, unobserved),
    "points": (masked(known), autoguide.AutoDelta(masked())),
}


@pytest.mark.filterwarnings("ignore:Expected a guide that draws at random")
@pytest.mark.parametrize("is_jitted", [False, True])
@pytest.mark.parametrize("model, guide", SAME_MASKS.values(), ids=SAME_MASKS.keys())
def test_sites_masked_alike_are_accepted(model, guide, is_jitted):
    inspect(model, guide, is_jitted)


def test_obs_mask_without_a_mask_in_the_guide_is_refused_with_what_to_do():
    with pytest.raises(ValueError, match="'x_unobserved' .* Replace obs_mask=m by numpyro.handl"):
        inspect(with_obs_mask, autoguide.AutoNormal(with_obs_mask), False)


def test_evidence_of_the_observed_elements_is_exact_where_the_guide_is_masked_alike():
    found = log_evidence(KEY, with_obs_mask, unobserved, {}, X, progress_bar=False)
    exact = dist.Normal().log_prob(X[MASK]).sum()
    np.testing.assert_allclose(found.mean, exact, rtol=1e-5)


def test_a_leading_axis_of_one_is_refused_for_the_model_may_index_the_site():
    """Replayed with shape (6,), z[0] would be one number for six observations."""

    def model():
        z = numpyro.sample("z", dist.Normal().expand([1, 6]))
        numpyro.sample("x", dist.Normal(z[0], 1.0), obs=jnp.zeros(6))

    with pytest.raises(ValueError, match=r"one shape in model and guide; got \(1, 6\) and \(6,\)"):
        IWELBO(4).loss(random.key(0), {}, model, normal((6,)))
