"""The log-evidence with its standard error, by datum where there is one, and its gradient in x."""

import numpy as np
import pytest

import jax
from jax import lax, random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from numpyro_sumo import IWELBO, IWHVI, SUMO, MultilevelSUMO, ReverseKL, log_evidence
from numpyro_sumo.diagnostics.pareto_k import pareto_k
from tests.helpers.models import linear_gaussian_problem, plated_problem
from tests.helpers.models import log_evidence as exact_log_evidence
from tests.helpers.statistics import assert_mean, assert_same_mean

UNBIASED = {
    "sumo": SUMO(4),
    "multilevel": MultilevelSUMO(4),
}
every_unbiased = pytest.mark.parametrize("estimator", UNBIASED.values(), ids=UNBIASED.keys())


def evidence_of(problem, params, *args, **options):
    return log_evidence(
        random.key(0),
        problem.model,
        problem.guide,
        params,
        *problem.args,
        *args,
        progress_bar=False,
        **options,
    )


@every_unbiased
def test_mean_is_within_its_standard_errors_of_the_evidence(estimator):
    problem = linear_gaussian_problem(4)
    evidence = evidence_of(problem, problem.params, estimator=estimator, num_estimates=4_000)
    # SUMO's variance is not finite: it is let off with a larger error.
    largest = 0.05 if isinstance(estimator, SUMO) else 0.01
    assert abs(evidence.mean + problem.exact_loss) < 4 * evidence.standard_error < 4 * largest
    assert evidence.mean_draws == estimator.mean_draws
    assert evidence.per_datum is None


@every_unbiased
def test_every_datum_has_an_evidence_of_its_own_and_they_add_up(estimator):
    if isinstance(estimator, SUMO):
        # Three times as many stopping times meet three times as many of SUMO's rare, large terms.
        estimator = SUMO(4, share_stopping_times=True)
    problem = plated_problem(3)
    evidence = evidence_of(
        problem, problem.params, estimator=estimator, num_estimates=2_000, batch_size=300
    )
    each = evidence.per_datum
    exact = np.asarray(exact_log_evidence(problem.args[0]))
    assert np.all(np.abs(each.mean - exact) < 4 * each.standard_error)
    assert np.all(each.standard_error < 0.02)
    assert each.pareto_k.shape == (3,) and evidence.pareto_k == each.pareto_k.max()
    assert evidence.mean == pytest.approx(each.mean.sum(), abs=1e-9)


def test_exact_posterior_gives_the_evidence_with_no_error_and_no_tail():
    problem = plated_problem(3)
    evidence = evidence_of(problem, problem.exact_params, num_estimates=200)
    assert evidence.mean == pytest.approx(-problem.exact_loss, abs=1e-4)
    assert evidence.standard_error < 1e-6
    assert evidence.pareto_k == -np.inf


def test_subsamples_differ_between_estimates_and_their_spread_is_in_the_error():
    """With the posterior as guide, what is left is which two of four data were taken."""
    problem = plated_problem(4)
    evidence = evidence_of(problem, problem.exact_params, 2, num_estimates=2_000)
    each = np.asarray(exact_log_evidence(problem.args[0]))
    sums = [2.0 * (each[i] + each[j]) for i in range(4) for j in range(i)]
    assert abs(evidence.mean + problem.exact_loss) < 4 * evidence.standard_error
    assert evidence.standard_error == pytest.approx(np.std(sums) / 2_000**0.5, rel=0.1)
    assert evidence.per_datum is None
    assert np.isnan(evidence.pareto_k)


def test_as_many_estimates_are_averaged_as_were_asked_for(monkeypatch):
    """The last batch is cut to size: estimate i is i here, for i below the number asked for."""
    problem, seen = plated_problem(3), []

    def counted(self, rng_key, programs, num_estimates):
        if self.num_particles == 1:  # the weights of the k-hat
            values = random.normal(rng_key, (num_estimates, 3))
        else:
            seen.append(num_estimates)
            key_index = jnp.argmax(jnp.all(keys == random.key_data(rng_key), axis=1))
            values = (key_index * 40 + jnp.arange(num_estimates))[:, None] * jnp.ones(3)
        return values, jnp.ones_like(values)

    estimates_key = random.split(random.key(0))[1]
    keys = jnp.stack([random.key_data(random.fold_in(estimates_key, i)) for i in range(3)])
    monkeypatch.setattr(IWELBO, "sample_estimates", counted)
    evidence = evidence_of(
        problem, problem.params, estimator=IWELBO(8), num_estimates=100, batch_size=40
    )
    assert set(seen) == {40}
    np.testing.assert_allclose(evidence.per_datum.mean, np.arange(100).mean())
    np.testing.assert_allclose(evidence.per_datum.standard_error, np.arange(100).std(ddof=1) / 10.0)
    assert evidence.mean == pytest.approx(3 * np.arange(100).mean())


def test_model_without_latent_sites_has_its_log_density_for_evidence():
    x = jnp.array([0.3, -1.0, 2.0])

    def model(x):
        with numpyro.plate("data", 3):
            numpyro.sample("x", dist.Normal(), obs=x)

    for estimator in UNBIASED.values():
        evidence = log_evidence(
            random.key(0), model, lambda x: None, {}, x, estimator=estimator, progress_bar=False
        )
        assert evidence.mean == pytest.approx(float(dist.Normal().log_prob(x).sum()), abs=1e-5)


def test_estimator_may_have_any_guide_objective():
    problem = linear_gaussian_problem(1)
    estimator = SUMO(4, guide_objective="forward_kl")
    evidence = evidence_of(problem, problem.params, estimator=estimator, num_estimates=50)
    assert np.isfinite(evidence.mean)


@every_unbiased
def test_score_is_the_unbiased_gradient_of_the_evidence_in_the_data(estimator):
    problem = linear_gaussian_problem(2)
    (x,) = problem.args
    score = jax.grad(
        lambda x, key: -estimator.loss(key, problem.params, problem.model, problem.guide, x)
    )
    scores = jax.jit(lambda keys: lax.map(lambda key: score(x, key), keys, batch_size=50))(
        random.split(random.key(1), 4_000)
    )
    exact = jax.grad(lambda x: exact_log_evidence(x).sum())(x)
    assert_mean(scores, exact)


def test_score_of_the_bound_is_its_gradient_at_a_fixed_key():
    problem, step = linear_gaussian_problem(1), 1e-5
    with jax.enable_x64(True):
        x = jnp.array([0.3])
        value = lambda x: (
            -IWELBO(3, gradient="standard").loss(
                random.key(2), problem.params, problem.model, problem.guide, x
            )
        )
        above, below, gradient = jax.jit(
            lambda x: (value(x + step), value(x - step), jax.grad(value)(x))
        )(x)
        slope = (above - below) / (2 * step)
        assert float(gradient[0]) == pytest.approx(float(slope), rel=1e-5)


def test_score_of_the_bound_has_one_mean_whichever_gradient_the_guide_gets():
    """The data move the bound through the guide's draws too, which are far from the posterior."""
    problem = linear_gaussian_problem(1, shift=1.5)
    (x,) = problem.args
    scores = {}
    for gradient, key in zip(("dreg", "standard"), random.split(random.key(4))):
        loss = IWELBO(2, gradient=gradient)
        score = jax.grad(
            lambda x, key, loss=loss: (
                -loss.loss(
                    key, {**problem.params, "shift": 1.5 * x}, problem.model, problem.guide, x
                )
            )
        )
        at_keys = jax.jit(lambda keys, score=score: jax.vmap(score, (None, 0))(x, keys))
        scores[gradient] = at_keys(random.split(key, 20_000))
    assert_same_mean(scores["dreg"], scores["standard"])


def test_pareto_k_sees_weights_of_infinite_variance():
    """Importance weights of N(0, 1) under N(0, s²): their tail has shape 1 − s²."""
    rng = np.random.default_rng(1)
    scales = np.array([[0.4], [1.3]])
    draws = scales * rng.normal(size=(2, 20_000))
    log_weights = -0.5 * draws**2 * (1.0 - scales**-2)
    narrow, wide = pareto_k(log_weights)
    assert narrow > 0.7 and wide < 0.3


def half_model():
    z = numpyro.sample("z", dist.Normal())
    numpyro.factor("half", jnp.where(z > 0.0, jnp.log(2.0), -jnp.inf))


def half_guide():
    numpyro.sample("z", dist.Normal())


def test_particles_of_weight_zero_count_as_zeros():
    evidence = log_evidence(
        random.key(3),
        half_model,
        half_guide,
        {},
        estimator=MultilevelSUMO(64),
        num_estimates=2_000,
        progress_bar=False,
    )
    assert abs(evidence.mean) < 4 * evidence.standard_error < 0.02


def test_estimates_that_rest_on_zeros_alone_have_the_mean_they_have():
    evidence = log_evidence(
        random.key(3), half_model, half_guide, {}, estimator=SUMO(1), progress_bar=False
    )
    assert (evidence.mean, evidence.standard_error) == (-np.inf, np.inf)


@pytest.mark.parametrize("value", [jnp.inf, jnp.nan], ids=["infinite", "nan"])
def test_weights_that_are_infinite_or_unknown_are_refused(value):
    def model():
        z = numpyro.sample("z", dist.Normal())
        numpyro.factor("overflow", jnp.where(z > 2.0, value, 0.0))

    guide = lambda: numpyro.sample("z", dist.Normal())
    with pytest.raises(ValueError, match=r"draw to have a weight; \d+ of 4000 have NaN or infin"):
        log_evidence(random.key(0), model, guide, {}, num_estimates=20, progress_bar=False)


BAD_OPTIONS = {
    "one_estimate": ({"num_estimates": 1}, "num_estimates >= 2, .* got 1. Raise"),
    "no_estimate": ({"num_estimates": 0}, "num_estimates to be an integer >= 1; got 0"),
    "no_batch": ({"batch_size": 0}, "batch_size to be an integer >= 1; got 0"),
    "class": ({"estimator": SUMO}, r"importance-weighted losses; got <class .*SUMO'>\. Pass"),
    "reverse_kl": ({"estimator": ReverseKL()}, "importance-weighted losses; got ReverseKL"),
    "iwhvi": ({"estimator": IWHVI(4)}, "inside ReverseKL, .* Write"),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_options_outside_their_range_are_refused_in_one_line(options, message):
    problem = linear_gaussian_problem(1)
    with pytest.raises(ValueError, match=message) as error:
        evidence_of(problem, problem.params, **options)
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)


def scaled_model(y):
    scale = numpyro.param("scale", 1.0)
    numpyro.sample("y", dist.Normal(numpyro.sample("z", dist.Normal(0.0, scale)), 1.0), obs=y)


def scaled_guide(y):
    numpyro.sample("z", dist.Normal(numpyro.param("loc", 0.0), 1.0))


BAD_PARAMS = {
    "guide": ({"scale": 1.0}, r"every param site of the guide; they lack \['loc'\]"),
    "model": ({"loc": 0.0}, r"every param site of the model; they lack \['scale'\]"),
    "shape": ({"loc": [0.0, 1.0], "scale": 1.0}, r"params of the guide; its 'loc' has shape \(\)"),
    "nan": ({"loc": 0.0, "scale": np.nan}, "finite params; 'scale' of the model contains NaN"),
}


@pytest.mark.parametrize("params, message", BAD_PARAMS.values(), ids=BAD_PARAMS.keys())
def test_parameters_that_are_not_those_of_the_programs_are_refused_in_one_line(params, message):
    params = {name: jnp.array(value) for name, value in params.items()}
    with pytest.raises(ValueError, match=message) as error:
        log_evidence(random.key(0), scaled_model, scaled_guide, params, 0.3, progress_bar=False)
    assert str(error.value).startswith("Expected ") and "\n" not in str(error.value)


def flat_model():
    x = numpyro.sample("x", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("likelihood", dist.Normal(0.0, 2.0).log_prob(x) + 0.7)


def wide_guide():
    numpyro.sample("x", dist.Normal(0.0, numpyro.param("scale", 1.0)))


def test_prior_without_draws_is_weighed_at_those_of_the_guide():
    params = {"scale": jnp.array(2.0)}
    evidence = log_evidence(random.key(0), flat_model, wide_guide, params, progress_bar=False)
    assert evidence.mean == pytest.approx(0.7, abs=1e-5)


def shared_model(y):
    scale = numpyro.param("scale")
    numpyro.sample("y", dist.Normal(numpyro.sample("x", dist.Normal(0.0, scale)), 1.0), obs=y)


def test_parameter_may_be_made_in_the_guide_and_looked_up_in_the_model():
    params, guide = {"scale": jnp.array(2.0)}, lambda y: wide_guide()
    evidence = log_evidence(random.key(0), shared_model, guide, params, 0.3, progress_bar=False)
    exact = dist.Normal(0.0, 5.0**0.5).log_prob(0.3)
    assert abs(evidence.mean - exact) < 4.0 * evidence.standard_error < 0.1
