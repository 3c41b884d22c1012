"""Standard errors beside those of exact likelihoods: no latent sites, closed form, quadrature."""

from dataclasses import fields
import re

import numpy as np
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints

from benchmarks.coverage.models import MODELS
from benchmarks.coverage.run import maximize
from numpyro_sumo import SUMO, MultilevelSUMO, StandardErrors, WaldTable, standard_errors

Z = 4.0


def errors_of(model, guide, params, *args, key=0, **options):
    return standard_errors(
        random.key(key), model, guide, params, *args, progress_bar=False, **options
    )


# A logistic regression without latent sites: every estimate is exact.


def regression(x, y, subsample_size=None):
    a = numpyro.param("a", 0.0)
    b = numpyro.param("b", 1.0, constraint=constraints.positive)
    with numpyro.plate("data", len(x), subsample_size=subsample_size):
        x_batch = numpyro.subsample(x, event_dim=0)
        y_batch = numpyro.subsample(y, event_dim=0)
        numpyro.sample("y", dist.Bernoulli(logits=a + b * x_batch), obs=y_batch)


def nothing(*args):
    return None


X = jnp.linspace(-2.0, 2.0, 40)
Y = (jnp.sin(7.0 * jnp.arange(40)) < 0.8 * X).astype(float)


def log_likelihood(free):
    """By datum; free is (a, log b)."""
    return dist.Bernoulli(logits=free[0] + jnp.exp(free[1]) * X).log_prob(Y)


FREE = maximize(lambda free: log_likelihood(free).sum(), jnp.zeros(2))
PARAMS = {"a": FREE[0], "b": jnp.exp(FREE[1])}
INFORMATION = -np.asarray(jax.hessian(lambda free: log_likelihood(free).sum())(FREE), np.float64)
SCORES = np.asarray(jax.jacobian(log_likelihood)(FREE), np.float64)
INVERSE = np.linalg.inv(INFORMATION)
#: Derivatives of (a, b) in (a, log b).
JACOBIAN = np.diag([1.0, float(PARAMS["b"])])


@pytest.fixture(scope="module")
def exact():
    return errors_of(regression, nothing, PARAMS, X, Y, num_estimates=10)


def se_of(covariance):
    return np.sqrt(np.diag(covariance))


def test_model_without_latent_sites_has_its_exact_errors(exact):
    covariance = JACOBIAN @ INVERSE @ JACOBIAN
    robust = JACOBIAN @ INVERSE @ SCORES.T @ SCORES @ INVERSE @ JACOBIAN
    assert exact.names == ("a", "b") and exact.free_names == ("a", "log(b)")
    np.testing.assert_allclose(exact.estimate, [PARAMS["a"], PARAMS["b"]])
    np.testing.assert_allclose(exact.information, INFORMATION, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(exact.scores, SCORES, atol=1e-5)
    np.testing.assert_allclose(exact.covariance, covariance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(exact.covariance_sandwich, robust, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(exact.se, se_of(covariance), rtol=1e-4)
    np.testing.assert_allclose(exact.se_sandwich, se_of(robust), rtol=1e-4)
    assert np.all(exact.mc_se < 1e-6) and np.all(exact.mc_se_sandwich < 1e-6)
    assert exact.log_likelihood == pytest.approx(float(log_likelihood(FREE).sum()), rel=1e-5)
    assert np.all(np.abs(exact.to_maximum) < 1e-4)
    assert exact.pareto_k == -np.inf


def test_interval_of_a_positive_parameter_is_symmetric_for_its_logarithm(exact):
    quantile, se = 1.959964, se_of(INVERSE)
    a, b = float(PARAMS["a"]), float(PARAMS["b"])
    expected_lower = [a - quantile * se[0], b * np.exp(-quantile * se[1])]
    expected_upper = [a + quantile * se[0], b * np.exp(quantile * se[1])]
    np.testing.assert_allclose(exact.lower, expected_lower, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(exact.upper, expected_upper, rtol=1e-4)
    assert exact.z[0] == pytest.approx(a / se[0], rel=1e-4)
    assert np.isnan(exact.z[1])


def test_robust_intervals_are_those_of_the_sandwich(exact):
    robust = errors_of(regression, nothing, PARAMS, X, Y, num_estimates=10, robust=True, level=0.5)
    quantile = 0.6744898
    np.testing.assert_allclose(robust.se_sandwich, exact.se_sandwich)
    expected = PARAMS["a"] + quantile * exact.se_sandwich[0]
    assert robust.upper[0] == pytest.approx(float(expected), rel=1e-4)
    assert "25 %" in str(robust) and "75 %" in str(robust) and "sandwich." in str(robust)


def test_scores_are_summed_within_clusters(exact):
    labels = np.repeat(np.arange(8), 5)
    found = errors_of(
        regression, nothing, PARAMS, X, Y, num_estimates=10, clusters=[f"c{i}" for i in labels]
    )
    of_clusters = SCORES.reshape(8, 5, 2).sum(axis=1)
    expected = JACOBIAN @ INVERSE @ of_clusters.T @ of_clusters @ INVERSE @ JACOBIAN
    np.testing.assert_allclose(found.covariance_sandwich, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.se, exact.se)


def test_scores_as_an_array_give_the_sandwich_in_two_lines(exact):
    bread = np.linalg.inv(exact.information)
    covariance = bread @ (exact.scores.T @ exact.scores) @ bread
    np.testing.assert_allclose(
        JACOBIAN @ covariance @ JACOBIAN, exact.covariance_sandwich, rtol=1e-4, atol=1e-6
    )


def test_delta_method_gives_the_error_of_a_function(exact):
    a, b = float(PARAMS["a"]), float(PARAMS["b"])
    table = exact.of(lambda params: -params["a"] / params["b"])
    gradient = np.array([-1.0 / b, a / b])  # in (a, log b)
    se = np.sqrt(gradient @ INVERSE @ gradient)
    assert table.names == ("value",)
    assert table.estimate[0] == pytest.approx(-a / b, rel=1e-5)
    assert table.se[0] == pytest.approx(se, rel=1e-4)
    assert table.upper[0] == pytest.approx(-a / b + 1.959964 * se, rel=1e-4)
    assert table.mc_se[0] < 1e-6


def test_delta_method_keeps_the_interval_inside_a_constraint(exact):
    probability = lambda params: jax.nn.sigmoid(params["a"] + 4.0 * params["b"])
    plain, inside = exact.of(probability), exact.of(probability, constraints.unit_interval)
    assert plain.upper[0] > 1.0 > inside.upper[0] > inside.estimate[0] > inside.lower[0] > 0.0
    np.testing.assert_allclose(plain.se, inside.se)
    gradient = np.array([1.0, 4.0 * float(PARAMS["b"])])
    width = 1.959964 * np.sqrt(gradient @ INVERSE @ gradient)
    logit = float(PARAMS["a"] + 4.0 * PARAMS["b"])
    assert inside.lower[0] == pytest.approx(1.0 / (1.0 + np.exp(width - logit)), rel=1e-3)


def test_functions_may_return_arrays_and_dicts(exact):
    table = exact.of(lambda params: {"both": jnp.stack([params["a"], params["b"]])})
    assert table.names == ("both[0]", "both[1]")
    np.testing.assert_allclose(table.se, exact.se, rtol=1e-5)


def test_table_prints_like_those_of_statistics_packages(exact):
    lines = str(exact).splitlines()
    assert lines[0].startswith("Maximum likelihood, 40 data: log p(x) = -")
    header = re.split(r"\s{2,}", lines[2].strip())
    assert header == ["estimate", "se", "sandwich se", "z", "2.5 %", "97.5 %"]
    assert lines[3].split()[0] == "a" and len(lines[3].split()) == 7
    assert len(lines[4].split()) == 6  # no z for a positive parameter
    assert float(lines[3].split()[2]) == pytest.approx(exact.se[0], abs=1e-4)
    assert len({len(line) for line in lines[2:5]}) == 1
    assert "Newton's step" in lines[-1]


def test_subsampled_plates_are_run_with_all_their_elements(exact):
    found = errors_of(regression, nothing, PARAMS, X, Y, 5, num_estimates=10)
    assert found.scores.shape == (40, 2)
    np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.se_sandwich, exact.se_sandwich, rtol=1e-4)


def test_masked_data_add_nothing(exact):
    """As many more data without observations leave everything as it was."""
    x, y = jnp.concatenate([X, X]), jnp.concatenate([Y, 1.0 - Y])

    def masked(x, y):
        with numpyro.handlers.mask(mask=jnp.arange(80) < 40):
            regression(x, y)

    found = errors_of(masked, nothing, PARAMS, x, y, num_estimates=10)
    np.testing.assert_allclose(found.covariance, exact.covariance, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.se_sandwich, exact.se_sandwich, rtol=1e-4)
    assert np.all(found.scores[40:] == 0.0)


def test_names_of_arrays_are_expanded_and_a_simplex_has_one_free_scalar_less():
    def model(x):
        p = numpyro.param("p", jnp.ones(3) / 3.0, constraint=constraints.simplex)
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Categorical(p), obs=x)

    x = jnp.array([0] * 20 + [1] * 30 + [2] * 50)
    p = np.array([0.2, 0.3, 0.5])
    found = errors_of(model, nothing, {"p": jnp.asarray(p)}, x, num_estimates=10)
    assert found.names == ("p[0]", "p[1]", "p[2]") and len(found.free_names) == 2
    np.testing.assert_allclose(found.se, np.sqrt(p * (1 - p) / 100.0), rtol=1e-3)
    np.testing.assert_allclose(found.upper - p, 1.959964 * found.se, rtol=1e-3)
    np.testing.assert_allclose(
        found.covariance, (np.diag(p) - np.outer(p, p)) / 100.0, rtol=1e-3, atol=1e-7
    )


# Mixed models: the likelihood is known in closed form and by quadrature.


def fitted(name, shape):
    """A data set with its maximum-likelihood fit, and exact information and scores there."""
    problem = MODELS[name]._replace(shape=shape)

    @jax.jit
    def fit(key):
        data = problem.simulate(key)
        by_group = lambda free: problem.log_likelihood(problem.params(free), data)
        total = lambda free: by_group(free).sum()
        truth = [jnp.log(problem.truth[name]) for name in problem.scales]
        free = maximize(total, jnp.array([*problem.truth["beta"], *truth]))
        params = problem.params(free)
        args = *data, *problem.posterior_moments(params, data)
        return params, args, -jax.hessian(total)(free), jax.jacobian(by_group)(free)

    params, args, information, scores = fit(random.key(3))
    return problem, params, args, np.asarray(information, float), np.asarray(scores, float)


@pytest.fixture(scope="module", params=["linear", "logistic"])
def mixed(request):
    problem, params, args, information, scores = fitted(request.param, (30, 5))
    found = errors_of(
        problem.model,
        problem.guide,
        params,
        *args,
        estimator=MultilevelSUMO(4, data_axes=0),
        num_estimates=1_100,
        batch_size=100,
    )
    return params, found, information, scores


def test_errors_of_mixed_models_are_within_their_monte_carlo_error_of_the_exact_ones(mixed):
    params, found, information, scores = mixed
    jacobian = np.diag([1.0, 1.0, *(float(v) for n, v in sorted(params.items()) if n != "beta")])
    inverse = np.linalg.inv(information)
    exact = se_of(jacobian @ inverse @ jacobian)
    robust = se_of(jacobian @ inverse @ scores.T @ scores @ inverse @ jacobian)
    assert np.all(np.abs(found.se - exact) < Z * found.mc_se)
    assert np.all(np.abs(found.se_sandwich - robust) < Z * found.mc_se_sandwich)
    assert np.all(found.mc_se < 0.03 * exact) and np.all(found.mc_se_sandwich < 0.03 * robust)
    assert np.all(np.abs(found.to_maximum) < Z * found.to_maximum_mc_se + 1e-3)
    assert found.pareto_k < 0.7


def test_guide_that_reads_a_parameter_of_the_model_keeps_its_value():
    problem, params, args, _, _ = fitted("linear", (6, 3))
    scale = float(params["tau"])

    def guide_of(scale):
        def guide(x, y, mean, sd):
            with numpyro.plate("groups", len(x)):
                numpyro.sample("effect", dist.StudentT(5.0, mean, scale()))

        return guide

    of_param = guide_of(lambda: numpyro.param("tau", 1.0, constraint=constraints.positive))
    shared, fixed = (
        errors_of(problem.model, guide, params, *args, num_estimates=20, batch_size=20)
        for guide in (of_param, guide_of(lambda: scale))
    )
    assert shared.names == fixed.names == ("beta[0]", "beta[1]", "sigma", "tau")
    np.testing.assert_allclose(shared.se, fixed.se, rtol=1e-4)


# Bad input.


def joint(x):
    mu = numpyro.param("mu", 0.0)
    numpyro.sample("x", dist.Normal(mu, 1.0).expand(x.shape).to_event(1), obs=x)


def test_one_joint_likelihood_has_errors_but_no_sandwich():
    found = errors_of(joint, nothing, {"mu": X.mean()}, X, num_estimates=10)
    assert found.se[0] == pytest.approx(40.0**-0.5, rel=1e-5)
    assert found.se_sandwich is None and found.covariance_sandwich is None
    assert "one joint likelihood" in str(found) and "sandwich" not in str(found)
    for options in ({"robust": True}, {"clusters": np.arange(40)}):
        with pytest.raises(ValueError, match="Expected independent data for a sandwich"):
            errors_of(joint, nothing, {"mu": X.mean()}, X, num_estimates=10, **options)


def test_information_that_is_singular_names_the_parameters():
    def model(x):
        a, b, c = (numpyro.param(name, 0.0) for name in "abc")
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(a + b + c * X, 1.0), obs=x)

    params = dict.fromkeys("abc", jnp.zeros(()))
    with pytest.raises(ValueError, match=r"information along \(a \+1, b -1\) is .* 1 along each"):
        errors_of(model, nothing, params, X, num_estimates=10)


def test_params_that_are_far_from_the_maximum_are_warned_of():
    def model(x):
        mu = numpyro.param("mu", 0.0)
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    with pytest.warns(UserWarning, match="changes 'mu' by -1.3 standard errors"):
        errors_of(model, nothing, {"mu": X.mean() + 1.3 * 40**-0.5}, X, num_estimates=10)


def test_guide_that_misses_part_of_a_posterior_is_warned_of():
    problem, params, args, _, _ = fitted("linear", (6, 3))

    def narrow(x, y, mean, sd):
        with numpyro.plate("groups", len(x)):
            numpyro.sample("effect", dist.Normal(mean, 0.3 * sd))

    with pytest.warns(UserWarning, match="Expected a k-hat of weights up to 0.7; it is"):
        try:
            errors_of(problem.model, narrow, params, *args, num_estimates=50, batch_size=50)
        except ValueError as error:
            pytest.fail(str(error))


def plated(x):
    mu = numpyro.param("mu", 0.0)
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def plated_batch(x):
    mu = numpyro.param("mu", 0.0)
    with numpyro.plate("data", 100, subsample_size=len(x)):
        numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)


def without_params(x):
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(), obs=x)


MU = {"mu": X.mean()}
BAD = {
    "no params": (without_params, {}, X, {}, "Expected a model with param sites; it has none."),
    "at the edge": (
        regression,
        {"a": 0.0, "b": 0.0},
        (X, Y),
        {},
        "Expected params inside their support; 'b' is 0., at the edge of Positive",
    ),
    "not finite": (plated, {"mu": jnp.nan}, X, {}, "Expected finite params; 'mu'"),
    "of another guide": (plated, {"nu": 0.0}, X, {}, r"they lack \['mu'\]"),
    "too few estimates": (plated, MU, X, {"num_estimates": 9}, "Expected num_estimates >= 10"),
    "no number": (plated, MU, X, {"num_estimates": 10.0}, "Expected num_estimates to be an int"),
    "level": (plated, MU, X, {"level": 95}, r"Expected level in \(0, 1\); got 95"),
    "sumo": (plated, MU, X, {"estimator": SUMO()}, "Expected estimator to be a MultilevelSUMO"),
    "labels": (plated, MU, X, {"clusters": [1, 2]}, "Expected a cluster for each of 40 data"),
    "one cluster": (
        plated,
        MU,
        X,
        {"clusters": np.zeros(40)},
        "Expected more clusters than parameters, for a sandwich covariance; got 1 clusters and 1",
    ),
    "few data": (
        regression,
        PARAMS,
        (X[1::39], Y[1::39]),
        {"robust": True},
        "Expected more data than parameters|Expected data that identify every parameter",
    ),
    "a batch": (plated_batch, MU, X, {}, "can be run with all elements of their plates"),
    "missing data": (
        plated,
        MU,
        X.at[3].set(jnp.nan),
        {},
        "are finite; those of data 3 are not. Mask missing observations",
    ),
    "no data in a group": (
        lambda x: numpyro.handlers.mask(plated, mask=False)(x),
        MU,
        X,
        {},
        r"Expected data that identify every parameter; the information along \(mu \+1\) is 0",
    ),
}


@pytest.mark.parametrize(["model", "params", "args", "options", "line"], BAD.values(), ids=BAD)
def test_bad_input_is_refused_in_one_line(model, params, args, options, line):
    args = args if isinstance(args, tuple) else (args,)
    with pytest.raises(ValueError, match=line) as error:
        errors_of(model, nothing, params, *args, **{"num_estimates": 10, **options})
    assert "\n" not in str(error.value)


def test_every_field_of_the_result_is_documented():
    documented = (StandardErrors.__doc__ or "") + (WaldTable.__doc__ or "")
    missing = [f.name for f in fields(StandardErrors) if f.name not in documented]
    assert missing == ["_source"]
