"""KL divergences: closed forms, quadrature, and a Normal fitted to a mixture."""

from functools import cache

import numpy as np
import optax
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import transforms
from numpyro.distributions.kl import kl_divergence as closed_form
from numpyro.infer import SVI

from numpyro_sumo import IWELBO, SUMO, MultilevelSUMO, kl_divergence
from numpyro_sumo.programs.programs import Programs
from tests.helpers.statistics import mean_and_se

MIXTURE = dist.MixtureSameFamily(
    dist.Categorical(probs=jnp.array([0.5, 0.5])),
    dist.Normal(jnp.array([-0.2, 1.0]), jnp.array([0.4, 0.5])),
)


def exact_kl(loc, scale):
    """KL from N(loc, scale) to the mixture by the trapezium rule."""
    z = np.linspace(-12.0, 12.0, 20_001)
    x = loc + scale * z
    log_p = np.log(0.5 * norm(-0.2, 0.4).pdf(x) + 0.5 * norm(1.0, 0.5).pdf(x) + 1e-300)
    return float(np.sum(norm.pdf(z) * (norm.logpdf(z) - np.log(scale) - log_p)) * (z[1] - z[0]))


def estimated(rng_key, q, p, num_samples):
    return jax.jit(lambda rng_key: kl_divergence(rng_key, q, p, num_samples))(rng_key)


def test_a_registered_closed_form_is_exact():
    q, p = dist.Normal(jnp.array([0.3, 1.0]), 0.5), dist.Normal(0.0, 2.0)
    divergence = kl_divergence(random.key(0), q, p, 10)
    expected = np.log(2.0 / 0.5) + (0.5**2 + np.array([0.3, 1.0]) ** 2) / 8.0 - 0.5
    np.testing.assert_allclose(divergence.value, expected, rtol=1e-5)
    np.testing.assert_array_equal(divergence.standard_error, 0.0)


CIRCULANT = dist.CirculantNormal(jnp.array([0.2, -0.1, 0.4]), jnp.array([1.0, 0.3, 0.3]))
FULL = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[1.0, 0.4], [0.4, 0.8]]))

#: A pair for each formula of NumPyro that is exact, by the types it is registered for.
EXACT = {
    "Normal, Normal": (dist.Normal(0.3, 0.5), dist.Normal(0.0, 2.0)),
    "MultivariateNormal, MultivariateNormal": (
        dist.MultivariateNormal(jnp.array([0.3, -0.5]), jnp.array([[0.5, 0.1], [0.1, 0.7]])),
        FULL,
    ),
    "Independent, CirculantNormal": (dist.Normal(jnp.zeros(3), 0.7).to_event(1), CIRCULANT),
    "Beta, Beta": (dist.Beta(2.0, 3.0), dist.Beta(1.5, 0.7)),
    "Dirichlet, Dirichlet": (
        dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])),
        dist.Dirichlet(jnp.array([1.0, 2.5, 1.5])),
    ),
    "Gamma, Gamma": (dist.Gamma(2.0, 3.0), dist.Gamma(3.0, 1.5)),
    "Weibull, Gamma": (dist.Weibull(2.0, 1.5), dist.Gamma(3.0, 1.5)),
    "Independent, Independent": (
        dist.Normal(jnp.array([[0.3, 1.0]]), 0.5).to_event(2),
        dist.Normal(jnp.zeros((1, 2)), 2.0).to_event(2),
    ),
    "ExpandedDistribution, Distribution": (dist.Gamma(2.0, 3.0).expand([2]), dist.Gamma(3.0, 1.5)),
    "Distribution, ExpandedDistribution": (dist.Gamma(2.0, 3.0), dist.Gamma(3.0, 1.5).expand([2])),
    "ExpandedDistribution, ExpandedDistribution": (
        dist.Gamma(2.0, 3.0).expand([2]),
        dist.Gamma(3.0, 1.5).expand([2]),
    ),
}


@pytest.mark.parametrize("q, p", EXACT.values(), ids=EXACT.keys())
def test_exact_divergences_agree_with_draws(q, p):
    shape = jnp.broadcast_shapes(q.batch_shape, p.batch_shape)

    @jax.jit
    def exact_and_draws(keys):
        x = q.sample(keys[1], (40_000, *shape[len(q.batch_shape) :]))
        return kl_divergence(keys[0], q, p), q.log_prob(x) - p.log_prob(x)

    exact, draws = exact_and_draws([random.key(10), random.key(11)])
    mean, se = mean_and_se(draws)
    np.testing.assert_array_equal(exact.standard_error, 0.0)
    assert np.all(np.abs(exact.value - mean) < 4.0 * se) and np.all(se < 0.02)


def test_the_exact_divergence_of_discrete_distributions():
    q, p = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    found = kl_divergence(random.key(0), *map(dist.Categorical, (jnp.array(q), jnp.array(p))))
    assert float(found.value) == pytest.approx(np.sum(q * np.log(q / p)), rel=1e-5)
    point = kl_divergence(random.key(0), dist.Delta(1), dist.Categorical(jnp.array(p)))
    assert float(point.value) == pytest.approx(-np.log(0.2), rel=1e-5)
    same, other = (kl_divergence(random.key(0), dist.Delta(1.0), dist.Delta(v)) for v in (1.0, 2.0))
    assert (float(same.value), float(other.value)) == (0.0, np.inf)


#: Formulas that are tested above, refused, or not used since they are not exact.
OTHER = {
    "CategoricalProbs, CategoricalProbs",
    "Delta, Distribution",
    "Delta, ExpandedDistribution",
    "MaskedDistribution, MaskedDistribution",
    "Kumaraswamy, Beta",
}


def test_every_formula_of_numpyro_has_been_looked_at():
    registered = {", ".join(kind.__name__ for kind in pair) for pair in closed_form.funcs}
    assert registered == EXACT.keys() | OTHER


def test_a_series_that_is_cut_is_not_taken_for_exact():
    """NumPyro's ten terms give 2.145; quadrature gives 3.6567."""
    q, p = dist.Kumaraswamy(2.0, 0.5), dist.Beta(2.0, 3.0)
    for wrap in (lambda d: d, lambda d: d.expand([2]).to_event(1)):
        divergence = estimated(random.key(12), wrap(q), wrap(p), 100_000)
        exact = 3.6567 * max(1, np.prod(wrap(q).event_shape, dtype=int))
        assert 0.0 < divergence.standard_error < 0.05
        assert abs(divergence.value - exact) < 4.0 * divergence.standard_error


@jax.jit
def of_normal_and_mixture(rng_key, loc, scale):
    return kl_divergence(rng_key, dist.Normal(loc, scale), MIXTURE, 200_000)


@pytest.mark.parametrize("loc, scale", [(0.4, 0.8), (-0.2, 0.4), (1.5, 0.2)])
def test_an_estimate_is_right_within_its_standard_error(loc, scale):
    divergence = of_normal_and_mixture(random.key(1), loc, scale)
    assert abs(divergence.value - exact_kl(loc, scale)) < 4.0 * divergence.standard_error
    assert 0.0 < divergence.standard_error < 0.02


def test_the_standard_error_is_that_of_repeated_estimates():
    keys = random.split(random.key(2), 500)
    estimate = lambda key: kl_divergence(key, dist.Normal(0.4, 0.8), MIXTURE, 200)
    values, errors = jax.jit(jax.vmap(estimate))(keys)
    assert float(values.std()) == pytest.approx(float(errors.mean()), rel=0.15)


def test_gradients_are_those_of_the_exact_divergence():
    def value(params, key):
        return kl_divergence(key, dist.Normal(*params), MIXTURE, 50).value

    keys = random.split(random.key(3), 4_000)
    gradients = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))
    found = gradients(jnp.array([0.4, 0.8]), keys)
    h = 1e-4
    expected = [
        (exact_kl(0.4 + h, 0.8) - exact_kl(0.4 - h, 0.8)) / (2 * h),
        (exact_kl(0.4, 0.8 + h) - exact_kl(0.4, 0.8 - h)) / (2 * h),
    ]
    mean, se = mean_and_se(found)
    assert np.all(np.abs(mean - expected) < 4.0 * se) and np.all(se < 0.01)


def test_the_gradient_knows_that_a_support_moves():
    """KL(U(0, h) ‖ HalfNormal) = −log h − ½ log(2/π) + h²/6."""
    value = lambda h, key: kl_divergence(key, dist.Uniform(0.0, h), dist.HalfNormal(), 50).value
    keys = random.split(random.key(4), 2_000)
    gradients = jax.jit(jax.vmap(jax.grad(value), in_axes=(None, 0)))(0.7, keys)
    mean, se = mean_and_se(gradients)
    assert abs(mean - (-1.0 / 0.7 + 0.7 / 3.0)) < 4.0 * se < 0.05


PAIRS = {
    "batches": (dist.Normal(jnp.zeros((3, 1)), 1.0), dist.StudentT(4.0, jnp.zeros(2)), (3, 2)),
    "scalar_and_batch": (dist.Normal(), dist.StudentT(4.0, jnp.zeros(3)), (3,)),
    "events": (
        dist.Normal(jnp.zeros((3, 2)), 1.0).to_event(1),
        dist.MultivariateStudentT(4.0, jnp.zeros(2), jnp.eye(2)),
        (3,),
    ),
    "transformed": (
        dist.TransformedDistribution(dist.Normal().expand([2]), transforms.ExpTransform()),
        dist.Gamma(2.0, 1.0),
        (2,),
    ),
}


@pytest.mark.parametrize("q, p, shape", PAIRS.values(), ids=PAIRS.keys())
def test_shapes_are_those_of_the_two_batches_together(q, p, shape):
    divergence = estimated(random.key(5), q, p, 20_000)
    assert divergence.value.shape == divergence.standard_error.shape == shape
    first = divergence.value.ravel()[0]
    np.testing.assert_allclose(divergence.value, first, atol=6.0 * divergence.standard_error.max())
    assert first > 4.0 * divergence.standard_error.max() > 0.0


def test_the_log_normal_has_the_divergence_of_its_formula():
    """E[log q − log p] for LogNormal(0, 1) and Gamma(2, 1): −½ log 2πe + e^½ − 0."""
    q = dist.TransformedDistribution(dist.Normal(), transforms.ExpTransform())
    divergence = estimated(random.key(6), q, dist.Gamma(2.0, 1.0), 200_000)
    expected = -0.5 * np.log(2.0 * np.pi * np.e) + np.exp(0.5)
    assert abs(divergence.value - expected) < 4.0 * divergence.standard_error


def test_a_draw_that_is_impossible_under_p_makes_it_infinite():
    divergence = kl_divergence(random.key(7), dist.Normal(), dist.HalfCauchy(1.0), 100)
    assert divergence.value == divergence.standard_error == jnp.inf


BAD_CALLS = {
    "no_distribution": ((dist.Normal(), 3.0, 10), "p to be a NumPyro distribution; got 3.0. Pass"),
    "events": (
        (dist.Normal().expand([2]).to_event(1), dist.Normal(), 10),
        r"one event shape; got \(2,\) and \(\). Use to_event",
    ),
    "no_sampler": (
        (dist.VonMises(0.0, 1.0), dist.Uniform(-4.0, 4.0), 10),
        "reparameterised sampler, .* got VonMises and Uniform. Choose",
    ),
    "masked_q": ((dist.Normal().mask(jnp.array(False)), MIXTURE, 10), "q without a mask, .* Pass"),
    "masked_p": ((dist.Normal(), dist.Normal().mask(False), 10), "p without a mask, .* Pass"),
    "point": ((dist.Delta(0.0), dist.Normal(), 10), "q to have a density, .* Delta and Normal, .*"),
    "one_sample": ((dist.Normal(), MIXTURE, 1), "num_samples >= 2, .* got 1. Raise"),
    "no_number": ((dist.Normal(), MIXTURE, 0.5), "num_samples to be an integer >= 1; got 0.5"),
}


@pytest.mark.parametrize("arguments, message", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls_are_refused_in_one_line(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        kl_divergence(random.key(0), *arguments)
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)


# The worked example: a Normal fitted to the mixture by SVI.


def mixture():
    numpyro.sample("x", MIXTURE)


def normal():
    loc = numpyro.param("loc", 0.0)
    scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    numpyro.sample("x", dist.Normal(loc, scale))


@cache
def fitted(loss):
    svi = SVI(mixture, normal, optax.adam(optax.cosine_decay_schedule(0.01, 20_000)), loss)
    run = jax.jit(lambda key: svi.run(key, 20_000, progress_bar=False).params)
    params = run(random.key(8))
    return float(params["loc"]), float(params["scale"])


def test_one_particle_fits_the_normal_that_is_least_divergent():
    best = minimize(lambda at: exact_kl(at[0], np.exp(at[1])), [0.4, -0.3], tol=1e-10)
    loc, scale = fitted(IWELBO(1))
    assert exact_kl(loc, scale) < best.fun + 1e-3
    assert loc == pytest.approx(best.x[0], abs=0.03)
    assert scale == pytest.approx(np.exp(best.x[1]), abs=0.03)


@pytest.mark.parametrize("loss", [SUMO(4), MultilevelSUMO(4)], ids=["sumo", "multilevel"])
def test_more_particles_fit_a_wider_normal(loss):
    """The bound over several draws forgives what one of them covers."""
    _, narrow = fitted(IWELBO(1))
    loc, wide = fitted(loss)
    assert narrow + 0.02 < wide < 1.2
    params = {"loc": loc, "scale": wide}
    estimates = jax.jit(
        lambda key: loss.sample_estimates(key, Programs(mixture, normal, params), 80_000)[0]
    )(random.key(9))
    mean, se = mean_and_se(estimates)
    assert abs(mean) < 4.0 * se < 0.1


def test_improper_distributions_are_refused():
    improper = dist.ImproperUniform(dist.constraints.real, (), ())
    for q, p, name in ((improper, dist.Normal(), "q"), (dist.Normal(), improper, "p")):
        with pytest.raises(ValueError, match=f"Expected {name} to integrate to 1; got Improper"):
            kl_divergence(random.key(0), q, p)
