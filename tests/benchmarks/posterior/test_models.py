import numpy as np
import pytest
from scipy.integrate import simpson

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import seed, substitute, trace
from numpyro.infer.util import log_density

from benchmarks.common.judge import judge_against
from benchmarks.posterior.models import PROBLEMS
from benchmarks.posterior.reference import exact_reference

#: By problem, a range of each coordinate that holds nearly all probability.
IN_THE_PLANE = {"banana": (60.0, 110.0), "mixture25": (14.0, 14.0)}
BY_CHAINS = ("eight_schools", "horseshoe", "logistic", "volatility")


@pytest.mark.parametrize("name", BY_CHAINS)
def test_the_reparameterised_model_has_the_density_of_the_original(name):
    """log p(z) = log p(x) + log |∂x/∂z|, where the original latents x are functions of z."""
    problem = PROBLEMS[name]()
    other, args = problem.chains.model, problem.args

    def original_latents(base):
        sites = trace(seed(substitute(other, base), 0)).get_trace(*args)
        return {name: sites[name]["value"] for name in problem.shapes()}

    @jax.jit
    def densities(key):
        drawn = trace(seed(other, key)).get_trace(*args)
        base = {
            name: site["value"]
            for name, site in drawn.items()
            if site["type"] == "sample" and not site["is_observed"]
        }
        flat, unravel = jax.flatten_util.ravel_pytree(base)
        at = lambda flat: jax.flatten_util.ravel_pytree(original_latents(unravel(flat)))[0]
        log_volume = jnp.linalg.slogdet(jax.jacfwd(at)(flat))[1]
        log_p_of_base = log_density(other, args, {}, base)[0]
        log_p = log_density(problem.model, args, {}, original_latents(base))[0]
        return log_p_of_base, log_p + log_volume

    for draw in range(3):
        np.testing.assert_allclose(*densities(random.key(draw)), rtol=2e-4)


@pytest.mark.parametrize("name", IN_THE_PLANE)
def test_marginals_in_the_plane_are_those_of_the_density(name):
    """Computed by Simpson's rule over both coordinates."""
    problem = PROBLEMS[name]()
    axes = [np.linspace(-r, r, 801) for r in IN_THE_PLANE[name]]

    def density(x, y):
        values = {"x": x, "y": y} if name == "banana" else {"x": jnp.stack([x, y])}
        return jnp.exp(log_density(problem.model, (), {}, values)[0])

    over_y = jax.jit(jax.vmap(density, (None, 0)))
    table = np.stack([np.asarray(over_y(x, axes[1]), np.float64) for x in axes[0]])
    for axis, exact in enumerate(problem.exact.values()):
        at, marginal = axes[axis], simpson(table, x=axes[1 - axis], axis=1 - axis)
        moments = [simpson(at**power * marginal, x=at) for power in range(3)]
        np.testing.assert_allclose(moments[:2], [1.0, exact.mean()], atol=2e-3)
        np.testing.assert_allclose(moments[2] ** 0.5, exact.std(), rtol=1e-3)
        below = simpson(marginal[:360], x=at[:360])
        np.testing.assert_allclose(below, exact.cdf(at[359]), atol=2e-3)


def test_marginals_in_ten_dimensions_are_those_of_exact_draws():
    problem = PROBLEMS["funnel10"]()
    reference = exact_reference(problem, 4_000)
    assert list(reference.draws) == ["v", *(f"x[{i}]" for i in range(9))]
    assert problem.exact["x[0]"].std() == pytest.approx(np.exp(2.25))
    _, figures = judge_against(reference.draws, reference.exact, (0.025,), (0.025,))
    # The limit of Kolmogorov's distribution at a probability of 2e-4 for each.
    assert max(figures["ks"].values()) < 2.15 / 4_000**0.5


def test_quantities_have_names_and_logarithms():
    problem = PROBLEMS["logistic"]()
    shapes = {"intercept": (), "tau": (3, 1), "beta": (3, 10)}
    draws = {site: np.full((4, 5, *shape), np.e) for site, shape in shapes.items()}
    draws["beta"] = np.arange(600.0).reshape(4, 5, 3, 10)
    named = problem.quantities(draws)
    assert len(named) == problem.dimension() == 34
    np.testing.assert_array_equal(named["log τ[2]"], np.ones((4, 5)))
    np.testing.assert_array_equal(named["β[1,9]"], draws["beta"][:, :, 1, 9])
    for make in PROBLEMS.values():
        shown = {*make().shown, *make().pair}
        draws = {site: np.ones((1, 1, *shape)) for site, shape in make().shapes().items()}
        assert shown <= make().quantities(draws).keys()
