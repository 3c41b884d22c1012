"""Guides that have no doubly reparameterised gradient, and why."""

from functools import partial

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.flatten_util
import jax.numpy as jnp

import numpyro
from numpyro.contrib.control_flow import scan
import numpyro.distributions as dist
from numpyro.distributions import transforms
from numpyro.infer import SVI, autoguide

from numpyro_sumo import IWELBO, SUMO, HierarchicalGuide, MultilevelSUMO, ReverseKL
from tests.helpers.models import (
    AUXILIARY,
)

LOSSES = {
    "iwelbo": IWELBO,
    "sumo": partial(SUMO, share_stopping_times=True),
    "multilevel": partial(MultilevelSUMO, share_stopping_times=True),
}
every_loss = pytest.mark.parametrize("loss_class", LOSSES.values(), ids=LOSSES.keys())


def delta_model():
    numpyro.sample("z", dist.Normal())
    numpyro.sample("w", dist.Normal())


def scanning_model():
    numpyro.sample("z", dist.Normal())
    scan(lambda w, _: (numpyro.sample("w", dist.Normal(w, 1.0)), None), 0.0, None, length=3)


def guide_with_a_delta():
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))
    numpyro.sample("w", dist.Delta(numpyro.param("point", 0.0)))


def guide_with_a_factor():
    z = numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))
    numpyro.sample("w", dist.Normal(z, 1.0))
    numpyro.factor("tilt", numpyro.param("tilt_by", 0.1) * z)


AUTO_DELTA = autoguide.AutoDelta(delta_model)


def guide_with_a_moving_support():
    numpyro.sample("z", dist.Uniform(-1.0, numpyro.param("high", 0.7)))
    numpyro.sample("w", dist.Normal())


def guide_with_a_shifted_support():
    low = numpyro.param("low", 0.2)
    shift = transforms.AffineTransform(low, 1.0, domain=dist.constraints.positive)
    numpyro.sample("z", dist.TransformedDistribution(dist.Exponential(1.0), shift))
    numpyro.sample("w", dist.Normal())


def guide_with_a_truncated_normal():
    numpyro.sample("z", dist.TruncatedNormal(low=numpyro.param("low", -0.5)))
    numpyro.sample("w", dist.Normal())


def guide_that_scans():
    slope = numpyro.param("slope", 0.6)

    def step(w, _):
        w = numpyro.sample("w", dist.Normal(slope * w, 1.0))
        return w, None

    scan(step, numpyro.sample("z", dist.Normal(slope, 1.0)), None, length=3)


WITHOUT_PATH = {
    "auto_delta": (AUTO_DELTA, "site 'w', a Delta"),
    "auto_laplace": (autoguide.AutoLaplaceApproximation(delta_model), "site '_auto_latent', a"),
    "auto_dais": (autoguide.AutoDAIS(delta_model, K=2), "site 'auto_factor', a Delta or a factor"),
    "delta_at_a_parameter": (guide_with_a_delta, "site 'w', a Delta"),
    "factor_with_a_parameter": (guide_with_a_factor, "site 'tilt', a Delta or a factor"),
    "moving_support": (guide_with_a_moving_support, "site 'z' has a support"),
    "shifted_support": (guide_with_a_shifted_support, "site 'z' has a support"),
    "truncated_normal": (guide_with_a_truncated_normal, "site 'z' has a support"),
    "scan": (guide_that_scans, "draws are made inside a scan or a cond"),
}


def at_start(loss, model, guide):
    """The loss at the parameters that training begins with."""
    svi = SVI(model, guide, optax.adam(0.1), loss=loss)
    return jax.jit(svi.evaluate)(svi.init(random.key(0)))


@pytest.mark.filterwarnings("ignore:Expected a guide that draws at random")
@pytest.mark.parametrize("guide, obstacle", WITHOUT_PATH.values(), ids=WITHOUT_PATH.keys())
def test_guides_without_a_path_are_refused_in_words_and_have_the_standard_gradient_by_default(
    guide, obstacle
):
    model = scanning_model if guide is guide_that_scans else delta_model
    with pytest.raises(ValueError, match=f"its {obstacle}.* gradient='standard'") as error:
        at_start(IWELBO(2, gradient="dreg"), model, guide)
    assert "\n" not in str(error.value)
    by_default, standard = (
        at_start(IWELBO(2, gradient=gradient), model, guide) for gradient in (None, "standard")
    )
    assert by_default == standard and np.isfinite(standard)


@every_loss
def test_every_loss_refuses_a_guide_without_a_path_or_takes_the_standard_gradient(loss_class):
    with pytest.raises(ValueError, match="its site 'w', a Delta"):
        at_start(loss_class(2, gradient="dreg"), delta_model, guide_with_a_delta)
    params = {"loc": jnp.array(0.2), "point": jnp.array(0.4)}

    def gradient_by(gradient):
        loss = loss_class(2, gradient=gradient)
        value = lambda params: loss.loss(random.key(1), params, delta_model, guide_with_a_delta)
        return jax.jit(jax.grad(value))(params)

    assert gradient_by(None) == gradient_by("standard")


def test_a_reverse_model_without_a_path_is_refused_by_name():
    def sampler():
        u = numpyro.sample("u", dist.Normal(), infer=AUXILIARY)
        numpyro.sample("x", dist.Normal(u, 1.0))

    def reverse(latents):
        numpyro.sample("u", dist.Uniform(-9.0, numpyro.param("high", 9.0)))

    guide = HierarchicalGuide(sampler, reverse)
    loss = ReverseKL(IWELBO(2, guide_objective="iwelbo", gradient="dreg"), num_particles=2)
    svi = SVI(lambda: numpyro.sample("x", dist.Normal()), guide, optax.adam(0.1), loss=loss)
    with pytest.raises(ValueError, match="its site 'u' has a support that"):
        svi.run(random.key(0), 2, progress_bar=False)


def test_a_guide_that_draws_nothing_is_warned_of():
    with pytest.warns(UserWarning, match="all latent sites .* are Deltas, .* Use Trace_ELBO"):
        evaluate = lambda params: IWELBO(2).loss(random.key(0), params, delta_model, AUTO_DELTA)
        loss = jax.jit(evaluate)({"z_auto_loc": 0.3, "w_auto_loc": 0.1})
    expected = -dist.Normal().log_prob(jnp.array([0.3, 0.1])).sum()
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_a_function_of_draws_alone_is_no_obstacle():
    """As the Delta sites of AutoGuides are; here its Jacobian is a factor beside it."""

    def model():
        numpyro.sample("z", dist.LogNormal(0.3, 1.0))

    def guide():
        loc = numpyro.param("loc", 0.3)
        u = numpyro.sample("u", dist.Normal(loc, 1.0), infer=AUXILIARY)
        numpyro.sample("z", dist.Delta(jnp.exp(u), log_density=-u))

    gradient = jax.jit(jax.grad(lambda p: IWELBO(4).loss(random.key(0), p, model, guide)))
    assert float(gradient({"loc": 0.3})["loc"]) == pytest.approx(0.0, abs=1e-6)
    assert float(gradient({"loc": 0.8})["loc"]) > 0.05
