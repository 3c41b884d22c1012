"""The automatic guide: where it begins, its manners, and what it refuses."""

from functools import partial

import numpy as np
import optax
import pytest
from scipy.special import gammaln

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import SVI, Predictive
from numpyro.infer.autoguide import AutoGuide

from numpyro_sumo import AutoHierarchicalNormal, ReverseKL, certify, log_marginal
from numpyro_sumo.guides import auto_hierarchical
from tests.helpers.statistics import Z, assert_mean

X = jnp.array([0.5, -0.3, 1.2])


def model(x, offset=0.0):
    """Latents on the line, on the half-line and on the simplex, in a plate and out of it."""
    loc = numpyro.sample("loc", dist.Normal(2.0, 3.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.5, 0.4))
    numpyro.sample("share", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    with numpyro.plate("data", len(x)):
        z = numpyro.sample("z", dist.Normal(loc, 1.0))
        numpyro.deterministic("doubled", 2.0 * z)
        numpyro.sample("x", dist.Normal(z + offset, scale), obs=x)


def svi_of(of_model, optim=None, **options):
    guide = AutoHierarchicalNormal(of_model, hidden_sizes=(8,), **options)
    return SVI(of_model, guide, optim or optax.adam(1e-3), ReverseKL(num_particles=4))


def begun(of_model, *args, jit=jax.jit, **options):
    """A guide, and parameters as they are before any training."""
    svi = svi_of(of_model, **options)
    state = jit(lambda key: svi.init(key, *args).optim_state)(random.key(0))
    return svi.guide, svi.optim.get_params(state)


def traced(of_model, *args, **options):
    """As ``begun``, with ones for parameters: nothing is compiled, so nothing is fitted."""
    svi = svi_of(of_model, **options)
    params = jax.eval_shape(lambda key: svi.get_params(svi.init(key, *args)), random.key(0))
    return svi.guide, jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), params)


@pytest.fixture(scope="module")
def trained():
    """A guide, and its parameters before and after one step of training."""
    svi = svi_of(model, optax.sgd(0.1), full_covariance=True)

    @jax.jit
    def params(rng_key):
        state = svi.init(rng_key, X)
        return svi.get_params(state), svi.get_params(svi.update(state, X)[0])

    return svi.guide, *params(random.key(0))


@pytest.fixture(scope="module")
def fitted(trained):
    return trained[:2]


def test_begins_as_the_normal_that_was_fitted_with_a_reverse_model_that_is_exact(fitted):
    """One draw of u gives log q(z) without error, and that is a Normal's, carried over."""
    guide, params = fitted
    fit = params["auto_whitening"]
    assert np.abs(fit["root"] - jnp.diag(jnp.diag(fit["root"]))).max() > 0.1

    @jax.jit
    def of_guide_and_normal(params):
        draws = guide.sample_posterior(random.key(1), params, sample_shape=(5,))
        latents = {name: draws[name] for name in ("loc", "scale", "share", "z")}
        options = {"num_particles": 1, "defensive_share": 0.0}
        log_q = log_marginal(random.key(2), guide, params, latents, X, **options)
        simplex = dist.transforms.StickBreakingTransform()
        share = simplex.inv(latents["share"])
        log_scale = jnp.log(latents["scale"])
        normal = dist.MultivariateNormal(fit["loc"], scale_tril=fit["root"])
        z = jnp.column_stack([latents["loc"], log_scale, share, latents["z"]])
        jacobian = log_scale + simplex.log_abs_det_jacobian(share, latents["share"])
        return log_q, normal.log_prob(z) - jacobian

    np.testing.assert_allclose(*of_guide_and_normal(params), rtol=1e-4)


@pytest.mark.parametrize("jit", [jax.jit, lambda function: function], ids=["jit", "no jit"])
def test_the_fit_is_the_target_where_that_is_normal(jit):
    """In whatever order the model has its sites: NumPyro's is another inside jit."""

    def independent(loc):
        numpyro.sample("b", dist.LogNormal(0.5, 0.4).expand([2]).to_event(1))
        numpyro.sample("a", dist.Normal(loc, 3.0))

    guide, params = begun(independent, 2.0, jit=jit)
    fit = params["auto_whitening"]
    np.testing.assert_allclose(fit["loc"], [2.0, 0.5, 0.5], atol=0.2)
    np.testing.assert_allclose(jnp.diag(fit["root"]), [3.0, 0.4, 0.4], rtol=0.1)
    sample = partial(guide.sample_posterior, sample_shape=(1_000,))
    draws = jax.jit(sample)(random.key(1), params, 2.0)
    assert abs(draws["a"].std() - 3.0) < 0.5 and np.abs(draws["b"].mean(0) - 1.8).max() < 0.3


def test_the_fit_leaves_parameters_of_the_model_where_they_begin():
    def shifted(y):
        z = numpyro.sample("z", dist.Normal(numpyro.param("shift", 5.0), 1.0))
        numpyro.sample("y", dist.Normal(z, 1.0), obs=y)

    _, params = begun(shifted, 0.0)
    assert params["shift"] == 5.0
    np.testing.assert_allclose(params["auto_whitening"]["loc"], 2.5, atol=0.2)


def test_gate_and_scale_are_those_of_the_formula():
    """y = exp(g) √s u + √(1 − s) exp(h) ε at the start, with g and h the biases of their parts."""
    guide, params = begun(lambda: numpyro.sample("z", dist.Normal().expand([2]).to_event(1)))
    (_, ((weights, bias), hidden), _) = params["auto_sampler$params"]
    bias = bias.at[2:].set(jnp.log(jnp.array([2.0, 3.0, 0.5, 4.0])))
    params = params | {"auto_sampler$params": [(), ((weights, bias), hidden), ()]}
    sample = partial(guide.sample_posterior, sample_shape=(4_000,))
    z = np.asarray(jax.jit(sample)(random.key(1), params)["z"])
    fit = jax.tree.map(np.asarray, params["auto_whitening"])
    y = np.linalg.solve(fit["root"], (z - fit["loc"]).T).T
    for coordinate, gate, scale in ((0, 2.0, 0.5), (1, 3.0, 4.0)):
        expected = 0.1 * gate**2 + 0.9 * scale**2
        assert_mean(y[:, coordinate] ** 2, expected)


def test_deterministic_sites_are_those_of_the_arguments_and_parameters_given():
    def scaled(x, *, offset):
        noise = numpyro.param("noise", 0.5, constraint=dist.constraints.positive)
        z = numpyro.sample("z", dist.Normal())
        numpyro.deterministic("fitted", noise * z + offset * x)

    svi = svi_of(scaled)
    guide = svi.guide
    init = jax.jit(lambda key, x: svi.get_params(svi.init(key, x, offset=1.0)))
    params = init(random.key(0), X) | {"noise": jnp.array(0.7)}
    sample = jax.jit(partial(guide.sample_posterior, sample_shape=(4,)))
    draws = sample(random.key(1), params, 2.0 * X, offset=3.0)
    expected = 0.7 * draws["z"][:, None] + 6.0 * X
    np.testing.assert_allclose(draws["fitted"], expected, rtol=1e-6)
    with pytest.raises(ValueError, match="first called inside jit"):
        guide.sample_posterior(random.key(1), params)


def test_whitening_is_not_trained(trained):
    _, before, after = trained
    for part in ("loc", "root"):
        pair = [params["auto_whitening"][part] for params in (before, after)]
        np.testing.assert_array_equal(*pair)
    for network in ("auto_sampler$params", "auto_reverse$params"):
        pairs = zip(*(jax.tree.leaves(params[network]) for params in (before, after)))
        assert any(not np.array_equal(*pair) for pair in pairs)


def test_seeds_are_vectorised_and_numbers_may_be_double():
    def positive_and_real(x):
        loc = numpyro.sample("loc", dist.Normal(2.0, 3.0))
        scale = numpyro.sample("scale", dist.LogNormal(0.5, 0.4))
        numpyro.sample("x", dist.Normal(loc, scale).expand([3]).to_event(1), obs=x)

    svi = svi_of(positive_and_real, full_covariance=True)
    with jax.enable_x64(True):
        keys, x = random.split(random.PRNGKey(0)), jnp.asarray(X, jnp.float64)
        params = jax.jit(jax.vmap(lambda key: svi.get_params(svi.init(key, x))))(keys)
        assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float64)}
        fit = jax.tree.map(np.asarray, params["auto_whitening"])
        np.testing.assert_allclose(fit["loc"][0], fit["loc"][1], atol=0.3)
        assert np.any(fit["loc"][0] != fit["loc"][1])


def test_draws_of_all_sites_under_sample_posterior_and_predictive(fitted):
    guide, params = fitted
    predictive = Predictive(guide, params=params, num_samples=2_000, parallel=True)
    posterior = Predictive(model, guide=guide, params=params, num_samples=7)

    @jax.jit
    def all_draws(params):
        draws = guide.sample_posterior(random.key(1), params, sample_shape=(40, 50))
        return draws, predictive(random.key(2), X), posterior(random.key(3), X)

    draws, predicted, of_model = all_draws(params)
    assert of_model["doubled"].shape == (7, 3)
    shapes = {name: value.shape[2:] for name, value in draws.items()}
    assert shapes == {"loc": (), "scale": (), "share": (3,), "z": (3,), "doubled": (3,)}
    np.testing.assert_allclose(draws["doubled"], 2.0 * draws["z"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(draws["share"].sum(-1), 1.0, rtol=1e-5)
    fit = params["auto_whitening"]
    sd = jnp.linalg.norm(fit["root"][0])
    for loc in (draws["loc"].ravel(), predicted["loc"]):
        assert_mean(loc, fit["loc"][0])
        assert_mean((loc - fit["loc"][0]) ** 2, sd**2)


def test_quantiles_and_median_are_those_of_the_draws(fitted):
    guide, params = fitted
    fit = params["auto_whitening"]
    sd = jnp.linalg.norm(fit["root"][0])
    of_guide = lambda params: (guide.quantiles(params, [0.16, 0.5, 0.84]), guide.median(params))
    quantiles, median = jax.jit(of_guide)(params)
    expected = fit["loc"][0] + sd * jnp.array([-0.9945, 0.0, 0.9945])
    np.testing.assert_allclose(quantiles["loc"], expected, atol=0.08 * sd)
    assert quantiles["z"].shape == (3, 3)
    np.testing.assert_array_equal(median["z"], quantiles["z"][1])


def test_parameters_serve_a_guide_made_anew(fitted, monkeypatch):
    """From a checkpoint, say: nothing is fitted again."""
    guide, params = fitted
    monkeypatch.setattr(auto_hierarchical, "fit_normal", pytest.fail)
    anew = AutoHierarchicalNormal(model, hidden_sizes=(8,))
    sample = lambda params, guide: guide.sample_posterior(
        random.key(1), params, X, sample_shape=(3,)
    )
    expected, draws = jax.jit(lambda params: [sample(params, each) for each in (guide, anew)])(
        params
    )
    for name, values in expected.items():
        np.testing.assert_array_equal(draws[name], values)


def test_nothing_traced_stays_behind():
    """The first to run the guide may be a compiled function."""

    def bounded(x):
        numpyro.sample("z", dist.Uniform(jnp.zeros(2), jnp.full(2, 3.0)).to_event(1))
        numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x)

    svi = svi_of(bounded)
    init = lambda key, x: svi.get_params(svi.init(key, x))
    for x in (0.3, [0.2, 0.1]):  # of another shape, it is traced anew
        shapes = jax.eval_shape(init, random.key(0), jnp.asarray(x))
        params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
        draws = jax.jit(svi.guide.sample_posterior)(random.key(1), params, jnp.asarray(x))
        assert draws["z"].shape == (2,)


def test_manners_of_an_autoguide():
    guide, params = traced(model, X, prefix="mine", num_auxiliary=11)
    assert isinstance(guide, AutoGuide)
    names = {"mine_whitening", "mine_sampler$params", "mine_reverse$params"}
    assert params.keys() == names
    sites = trace(seed(substitute(guide, params), 0)).get_trace(X)
    assert sites["_mine_auxiliary"]["value"].shape == (11,)
    assert sites["_mine_auxiliary"]["infer"]["is_auxiliary"]


def test_init_loc_fn_says_where_the_fit_begins():
    """Two modes far apart: the fit finds the one that it began beside."""
    mixture = dist.MixtureSameFamily(
        dist.Categorical(jnp.ones(2) / 2), dist.Normal(jnp.array([-20.0, 20.0]), 1.0)
    )

    def two_modes():
        numpyro.sample("x", mixture)

    @jax.jit
    def found(rng_key, start):
        init = numpyro.infer.init_to_value(values={"x": start})
        svi = svi_of(two_modes, init_loc_fn=init)
        return svi.get_params(svi.init(rng_key))["auto_whitening"]["loc"][0]

    for start in (-18.0, 18.0):
        assert abs(found(random.key(0), start) - np.sign(start) * 20.0) < 1.0


@pytest.mark.parametrize("full_covariance", [True, False])
def test_density_at_the_start_is_that_of_the_normal(full_covariance):
    """Sites of several shapes, in an order that is not theirs in the vector."""

    def shapes():
        b = numpyro.sample("b", dist.Normal(1.0, 2.0).expand([2, 2]).to_event(2))
        numpyro.sample("a", dist.Normal(b.sum(), 0.5))
        numpyro.sample("c", dist.Normal(b[0], 1.0).to_event(1))

    guide, params = begun(shapes, full_covariance=full_covariance)
    fit = params["auto_whitening"]
    assert fit["root"].ndim == (2 if full_covariance else 1)
    root = fit["root"] if full_covariance else jnp.diag(fit["root"])
    normal = dist.MultivariateNormal(fit["loc"], scale_tril=root)

    @jax.jit
    def of_guide_and_normal(params):
        draws = guide.sample_posterior(random.key(1), params, sample_shape=(5,))
        options = {"num_particles": 1, "defensive_share": 0.0}
        log_q = log_marginal(random.key(2), guide, params, draws, **options)
        z = jnp.concatenate([draws[name].reshape(5, -1) for name in "abc"], axis=1)
        return log_q, normal.log_prob(z)

    np.testing.assert_allclose(*of_guide_and_normal(params), rtol=1e-4)


def test_covariances_of_too_many_coordinates_are_refused():
    guide = AutoHierarchicalNormal(
        lambda: numpyro.sample("z", dist.Normal().expand([1_001]).to_event(1)), full_covariance=True
    )
    with pytest.raises(ValueError, match="at most 1,000 unconstrained coordinates; the model has"):
        trace(seed(guide, 0)).get_trace()


def test_priors_may_be_improper():
    """A Normal's mean with a flat prior and its sd with scale⁻²: from init to the certificate."""

    def flat(x):
        loc = numpyro.sample("loc", dist.ImproperUniform(dist.constraints.real, (), ()))
        scale = numpyro.sample("scale", dist.ImproperUniform(dist.constraints.positive, (), ()))
        numpyro.factor("prior", -2.0 * jnp.log(scale))
        numpyro.sample("x", dist.Normal(loc, scale).expand([30]).to_event(1), obs=x)

    x = jnp.linspace(-1.0, 2.0, 30)
    guide, params = begun(flat, x)
    certificate = certify(random.key(1), flat, guide, params, x, num_samples=4_000)
    deviations = ((x - x.mean()) ** 2).sum()
    # The integral over the mean, and then that of scale⁻³¹ exp(−deviations / 2 scale²).
    exact = -15.0 * np.log(2 * np.pi) + 0.5 * np.log(2 * np.pi / 30)
    exact += gammaln(15.0) - np.log(2.0) - 15.0 * np.log(deviations / 2.0)
    assert abs(certificate.log_evidence - exact) < Z * certificate.log_evidence_se < 0.1


def test_model_with_discrete_latents_is_refused():
    with pytest.raises(ValueError, match="model site 'k' is discrete. Sum it out"):
        begun(lambda: numpyro.sample("k", dist.Bernoulli(0.5)))


def test_model_without_latents_is_refused():
    with pytest.raises(ValueError, match="Expected a model with latent sites; it has none"):
        begun(lambda: numpyro.sample("x", dist.Normal(), obs=0.0))


def test_latents_in_a_subsampled_plate_are_refused():
    def local():
        with numpyro.plate("data", 10, subsample_size=5):
            numpyro.sample("z", dist.Normal())

    guide = AutoHierarchicalNormal(local)
    for _ in range(2):  # nothing half-made is taken for whole
        with pytest.raises(ValueError, match="'z' is in 'data', which takes 5 of 10"):
            trace(seed(guide, 0)).get_trace()


def test_a_support_that_depends_on_a_latent_is_refused():
    def moving():
        a = numpyro.sample("a", dist.HalfNormal())
        numpyro.sample("b", dist.Uniform(0.0, a))

    with pytest.raises(ValueError, match="that of 'b' depends on 'a'"):
        begun(moving)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_auxiliary": 0}, "num_auxiliary to be an integer >= 1; got 0"),
        ({"num_auxiliary": 6}, "num_auxiliary >= 7, the number of unconstrained"),
        ({"hidden_sizes": 64}, "hidden_sizes to be a sequence of integers; got 64"),
        ({"hidden_sizes": (64, 0.5)}, "hidden_sizes to be an integer >= 1; got 0.5"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        trace(seed(AutoHierarchicalNormal(model, **options), 0)).get_trace(X)


def test_quantiles_of_a_guide_that_has_not_been_run_are_refused(fitted):
    with pytest.raises(ValueError, match="that has been called, or the model's arguments"):
        AutoHierarchicalNormal(model, hidden_sizes=(8,)).quantiles(fitted[1], 0.5)


def test_parameters_that_are_not_its_own_are_refused(fitted):
    guide, params = fitted
    with pytest.raises(ValueError, match="auto_whitening"):
        guide.sample_posterior(random.key(0), {})
    others = traced(lambda: numpyro.sample("loc", dist.Normal()))[1]
    with pytest.raises(ValueError, match="shape"):
        guide.sample_posterior(random.key(0), others)
