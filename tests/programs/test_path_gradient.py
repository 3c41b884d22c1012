"""The density of a transformed draw as a function of the draw alone."""

import numpy as np
import pytest

import jax
from jax import random
import jax.flatten_util
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import transforms
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import autoguide

from numpyro_sumo.programs.path_gradient import intermediates_at
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import is_delta
from numpyro_sumo.programs.traced_guide import propose

# Families of transformed distributions with a parameter t, which moves base and transform alike.

LOC = jnp.array([0.3, -1.0, 2.0])
TRIL = jnp.array([[1.0, 0.0, 0.0], [0.5, 2.0, 0.0], [-1.0, 0.3, 0.7]])


def normal(t, *shape):
    return dist.Normal(t * jnp.linspace(-1.0, 2.0, int(np.prod(shape))).reshape(shape), jnp.exp(t))


def transformed(base, *chain):
    return dist.TransformedDistribution(base, list(chain))


FAMILIES = {
    "scalar": lambda t: transformed(normal(t), transforms.ExpTransform()),
    "batch": lambda t: transformed(
        normal(t, 4), transforms.AffineTransform(t, 1.0 + LOC[0] * t), transforms.ExpTransform()
    ),
    "elements_of_a_vector": lambda t: transformed(
        normal(t, 2, 3).to_event(1), transforms.SoftplusTransform()
    ),
    "expanded": lambda t: (
        transformed(
            normal(t, 3), transforms.AffineTransform(t * LOC, 1.0), transforms.ExpTransform()
        )
        .expand([2, 3])
        .to_event(1)
    ),
    "chain": lambda t: transformed(
        normal(t, 2, 3).to_event(1),
        transforms.LowerCholeskyAffine(LOC + t, TRIL * (1.0 + t)),
        transforms.SoftplusTransform(),
    ),
    "simplex": lambda t: transformed(
        normal(t, 2, 3).to_event(1), transforms.StickBreakingTransform()
    ),
    "cholesky_factor": lambda t: transformed(
        normal(t, 3).to_event(1), transforms.CorrCholeskyTransform()
    ),
}


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_density_of_a_transformed_draw_moves_with_the_draw_as_its_inverse_says(family):
    def guide():
        numpyro.sample("z", family(numpyro.param("t", 0.0)))

    def along(t):
        programs = Programs(lambda: None, guide, {"t": t})
        return propose(random.key(1), programs, score_free=True).log_density

    def by_inverse(t):
        draws = trace(substitute(seed(guide, random.key(1)), {"t": t})).get_trace()
        return family(0.0).log_prob(draws["z"]["value"]).sum()

    with jax.enable_x64(True):
        value, slope = jax.jit(jax.value_and_grad(along))(0.0)
        expected_value, expected_slope = jax.jit(jax.value_and_grad(by_inverse))(0.0)
    assert float(value) == pytest.approx(float(expected_value), rel=1e-5)
    assert float(slope) == pytest.approx(float(expected_slope), rel=1e-4)
    assert abs(float(slope)) > 1e-3


SATURATED = {
    "elementwise": lambda loc: transformed(dist.Normal(loc, 4.0), transforms.SigmoidTransform()),
    "vector": lambda loc: transformed(
        dist.Normal(loc, 4.0).expand([3]).to_event(1), transforms.StickBreakingTransform()
    ),
}


@pytest.mark.parametrize("family", SATURATED.values(), ids=SATURATED.keys())
def test_where_a_transform_is_flat_the_gradient_is_finite(family):
    """In float32 a sigmoid of 17 is one, and its derivative zero."""

    def guide():
        numpyro.sample("z", family(numpyro.param("loc", 30.0)))

    def along(loc, key):
        programs = Programs(lambda: None, guide, {"loc": loc})
        return propose(key, programs, score_free=True).log_density

    of_keys = jax.jit(jax.vmap(jax.grad(along), in_axes=(None, 0)))
    slopes = of_keys(30.0, random.split(random.key(0), 50))
    assert np.all(np.isfinite(slopes))


def plane():
    numpyro.sample("z", dist.Normal().expand([2]).to_event(1))
    numpyro.sample("scale", dist.HalfNormal())


FLOWS = {"iaf": autoguide.AutoIAFNormal, "bnaf": autoguide.AutoBNAFNormal}


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_density_of_a_flow_moves_with_the_draw_as_newton_inversion_says(flow):
    """Block neural flows have no inverse in NumPyro; Newton's method finds one, point by point."""
    with jax.enable_x64(True):
        guide = flow(plane)
        with seed(rng_seed=0):
            guide_trace = trace(guide).get_trace()
        params = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "param"}
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        direction = 0.1 * jnp.cos(jnp.arange(len(flat)))
        moved = lambda t: unravel(flat + t * direction)
        posterior = substitute(guide._get_posterior, params)()

        def along(t):
            """The density of the vector that the flow draws, without those of the Delta sites."""
            live = trace(substitute(seed(guide, random.key(1)), moved(t))).get_trace()
            site = live["_auto_latent"]
            drawn = intermediates_at(posterior, site["value"], site["intermediates"])
            return posterior.log_prob(site["value"], drawn)

        def forward(x):
            for transform in posterior.transforms:
                x = transform(x)
            return x

        @jax.jit
        def at(t):
            live = trace(substitute(seed(guide, random.key(1)), moved(t))).get_trace()
            y, x = live["_auto_latent"]["value"], live["_auto_latent"]["intermediates"][0][0]
            step = lambda _, x: x - jnp.linalg.solve(jax.jacobian(forward)(x), forward(x) - y)
            x = jax.lax.fori_loop(0, 20, step, x)
            log_det = jnp.linalg.slogdet(jax.jacobian(forward)(x))[1]
            return posterior.base_dist.log_prob(x) - log_det

        value, slope = jax.jit(jax.value_and_grad(along))(0.0)
        assert float(value) == pytest.approx(float(at(0.0)), rel=1e-8)
        assert float(slope) == pytest.approx(float(at(1e-4) - at(-1e-4)) / 2e-4, rel=1e-5)


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_score_free_density_of_a_flow_is_that_of_its_vector_and_moves_with_it_alone(flow):
    """The Delta sites are functions of the vector; their densities are its Jacobian."""
    with jax.enable_x64(True):
        guide = flow(plane)
        with seed(rng_seed=0):
            guide_trace = trace(guide).get_trace()
        params = {n: s["value"] for n, s in guide_trace.items() if s["type"] == "param"}
        flat, unravel = jax.flatten_util.ravel_pytree(params)
        direction = 0.1 * jnp.cos(jnp.arange(len(flat)))
        posterior = substitute(guide._get_posterior, params)()

        def score_free(t):
            programs = Programs(plane, guide, unravel(flat + t * direction))
            return propose(random.key(1), programs, score_free=True).log_density

        def by_hand(t):
            moved = unravel(flat + t * direction)
            live = trace(substitute(seed(guide, random.key(1)), moved)).get_trace()
            site = live["_auto_latent"]
            drawn = intermediates_at(posterior, site["value"], site["intermediates"])
            of_deltas = sum(live[n]["fn"].log_prob(live[n]["value"]).sum() for n in ("z", "scale"))
            return posterior.log_prob(site["value"], drawn) + of_deltas

        found, expected = (jax.jit(jax.value_and_grad(f))(0.0) for f in (score_free, by_hand))
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(float(found[1])) > 1e-3


DELTAS = {
    "plain": (dist.Delta(0.0), True),
    "event": (dist.Delta(jnp.zeros(2)).to_event(1), True),
    "masked": (dist.Delta(0.0).mask(False), True),
    "expanded": (dist.Delta(0.0).expand([3]), True),
    "transformed": (transformed(dist.Delta(0.0), transforms.ExpTransform()), True),
    "normal": (dist.Normal().expand([2]).to_event(1), False),
}


@pytest.mark.parametrize("distribution, expected", DELTAS.values(), ids=DELTAS.keys())
def test_deltas_are_known_under_any_shape(distribution, expected):
    assert is_delta(distribution) is expected
