"""Path derivatives: of transformed draws, of AutoGuides, and where there are none."""

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
from numpyro.handlers import seed, substitute, trace
from numpyro.infer import SVI, autoguide

from numpyro_sumo import IWELBO, SUMO, HierarchicalGuide, MultilevelSUMO, ReverseKL
from numpyro_sumo.programs.log_weights import propose
from numpyro_sumo.programs.path_gradient import along_path
from numpyro_sumo.programs.sites import is_delta, random_sites
from numpyro_sumo.programs.validation import JOINT
from tests.helpers.compiling import optimising_jit, quick_jit
from tests.helpers.models import (
    AUXILIARY,
    SAMPLER_PARAMS,
    exact_reverse,
    linear_gaussian_problem,
    matching_problem,
    plated_problem,
)
from tests.helpers.statistics import assert_same_mean

LOSSES = {
    "iwelbo": IWELBO,
    "sumo": partial(SUMO, share_stopping_times=True),
    "multilevel": partial(MultilevelSUMO, share_stopping_times=True),
}
PROBLEMS = {"joint_weights": linear_gaussian_problem(3), "weights_per_datum": plated_problem(4)}
every_loss = pytest.mark.parametrize("loss_class", LOSSES.values(), ids=LOSSES.keys())
every_problem = pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS.keys())


COMPILED = {}


def gradients(loss, problem, params, key, num_keys):
    """Gradients of the loss at many keys, 50 at a time so that one compiled function serves all."""
    name = repr(loss), problem.model, problem.guide
    if name not in COMPILED:
        of_params = lambda params, key, args: loss.loss(
            key, params, problem.model, problem.guide, *args
        )
        COMPILED[name] = optimising_jit(jax.vmap(jax.grad(of_params), (None, 0, None)))
    chunks = random.split(key, (num_keys // 50, 50))
    found = [COMPILED[name](params, keys, problem.args) for keys in chunks]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *found)


@every_problem
@every_loss
def test_score_free_gradient_has_the_same_mean_and_at_most_a_fifth_of_the_variance(
    loss_class, problem
):
    left_key, right_key = random.split(random.key(0))
    score_free = gradients(loss_class(4), problem, problem.params, left_key, 4_000)
    standard = loss_class(4, gradient="standard")
    standard = gradients(standard, problem, problem.params, right_key, 4_000)
    for name in ("shift", "log_width"):
        assert_same_mean(score_free[name], standard[name])
        ratio = np.var(score_free[name], axis=0) / np.var(standard[name], axis=0)
        assert np.all(ratio < 0.2) and np.all(ratio > 0.0)


@every_problem
@every_loss
def test_at_the_exact_posterior_the_score_free_gradient_is_zero_for_every_key(loss_class, problem):
    found = gradients(loss_class(4), problem, problem.exact_params, random.key(1), 50)
    standard = loss_class(4, gradient="standard")
    standard = gradients(standard, problem, problem.exact_params, random.key(1), 50)
    for name in ("shift", "log_width"):
        np.testing.assert_allclose(found[name], 0.0, atol=2e-6)
        assert np.abs(standard[name]).min() > 1e-4


@every_loss
def test_model_parameters_get_the_same_gradient_whichever_the_guide_gets(loss_class):
    problem = PROBLEMS["weights_per_datum"]
    score_free = gradients(loss_class(4), problem, problem.params, random.key(2), 50)
    standard = loss_class(4, gradient="standard")
    standard = gradients(standard, problem, problem.params, random.key(2), 50)
    for name in ("loc", "log_noise"):
        np.testing.assert_allclose(score_free[name], standard[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("marginal", LOSSES.values(), ids=LOSSES.keys())
def test_reverse_model_climbs_its_bound_by_the_same_mean_with_less_noise(marginal):
    near = {name: value + 0.1 for name, value in exact_reverse(SAMPLER_PARAMS).items()}
    problem = matching_problem(near)
    options = dict(guide_objective="iwelbo")
    found = {
        gradient: gradients(
            ReverseKL(marginal(3, gradient=gradient, **options), num_particles=1),
            problem,
            problem.params,
            key,
            4_000,
        )
        for gradient, key in zip(("dreg", "standard"), random.split(random.key(3)))
    }
    for name in ("centre", "weight", "log_width"):
        assert_same_mean(found["dreg"][name], found["standard"][name])
        assert np.var(found["dreg"][name]) < 0.2 * np.var(found["standard"][name])


def test_exact_reverse_model_gets_no_score_free_gradient_for_any_key():
    problem = matching_problem()
    loss = ReverseKL(IWELBO(3, guide_objective="iwelbo"), num_particles=2)
    found = gradients(loss, problem, problem.exact_params, random.key(4), 50)
    for name in ("centre", "weight", "log_width"):
        np.testing.assert_allclose(found[name], 0.0, atol=1e-5)


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
        proposal = propose(guide, (), {}, JOINT, random.key(1), {"t": t}, score_free=True)
        return proposal.log_density

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
    """In float32 a sigmoid of 17 is one, and its derivative nought."""

    def guide():
        numpyro.sample("z", family(numpyro.param("loc", 30.0)))

    along = lambda loc, key: (
        propose(guide, (), {}, JOINT, key, {"loc": loc}, score_free=True).log_density
    )
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
        held = substitute(guide._get_posterior, params)()

        def along(t):
            with_t = moved(t)
            live = trace(substitute(seed(guide, random.key(1)), with_t)).get_trace()
            program = along_path(seed(guide, random.key(1)), random_sites(live))
            held = trace(substitute(program, jax.lax.stop_gradient(with_t))).get_trace()
            site = held["_auto_latent"]
            return site["fn"].log_prob(site["value"], site["intermediates"])

        def forward(x):
            for transform in held.transforms:
                x = transform(x)
            return x

        @jax.jit
        def at(t):
            live = trace(substitute(seed(guide, random.key(1)), moved(t))).get_trace()
            y, x = live["_auto_latent"]["value"], live["_auto_latent"]["intermediates"][0][0]
            step = lambda _, x: x - jnp.linalg.solve(jax.jacobian(forward)(x), forward(x) - y)
            x = jax.lax.fori_loop(0, 20, step, x)
            log_det = jnp.linalg.slogdet(jax.jacobian(forward)(x))[1]
            return held.base_dist.log_prob(x) - log_det

        value, slope = jax.jit(jax.value_and_grad(along))(0.0)
        assert float(value) == pytest.approx(float(at(0.0)), rel=1e-8)
        assert float(slope) == pytest.approx(float(at(1e-4) - at(-1e-4)) / 2e-4, rel=1e-5)


def hierarchical_normal(x):
    """Latents that are real, positive and on a simplex."""
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0))
    scale = numpyro.sample("scale", dist.LogNormal(0.0, 0.5))
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.array([2.0, 3.0, 4.0])))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(loc + weights[0], scale), obs=x)


X = jnp.array([0.5, 1.3, -0.2, 0.9])

AUTOGUIDES = {
    "auto_normal": autoguide.AutoNormal,
    "auto_diagonal_normal": autoguide.AutoDiagonalNormal,
    "auto_multivariate_normal": autoguide.AutoMultivariateNormal,
    "auto_low_rank_multivariate_normal": autoguide.AutoLowRankMultivariateNormal,
    "auto_iaf_normal": autoguide.AutoIAFNormal,
    "auto_bnaf_normal": lambda model: autoguide.AutoBNAFNormal(model, hidden_factors=[2]),
}


@pytest.mark.parametrize("make_guide", AUTOGUIDES.values(), ids=AUTOGUIDES.keys())
def test_autoguides_climb_by_the_same_mean_gradient(make_guide):
    guide = make_guide(hierarchical_normal)
    svi = SVI(hierarchical_normal, guide, optax.adam(1e-2), loss=IWELBO(4))
    params = quick_jit(lambda key: svi.run(key, 300, X, progress_bar=False).params)(random.key(0))
    found = {}
    for gradient, key in zip(("dreg", "standard"), random.split(random.key(5))):
        loss = IWELBO(4, gradient=gradient)

        def slope(key, loss=loss):
            """In one direction of the space of parameters."""
            at = lambda params: loss.loss(key, params, hierarchical_normal, guide, X)
            flat, _ = jax.flatten_util.ravel_pytree(jax.grad(at)(params))
            return flat @ jnp.cos(jnp.arange(len(flat)))

        slopes = optimising_jit(lambda keys: jax.lax.map(slope, keys, batch_size=50))
        found[gradient] = slopes(random.split(key, 2_000))
    assert_same_mean(found["dreg"], found["standard"])
    assert np.abs(found["dreg"] - found["standard"]).max() > 0.1


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
    return quick_jit(svi.evaluate)(svi.init(random.key(0)))


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
        return quick_jit(jax.grad(value))(params)

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
    with pytest.warns(UserWarning, match="every particle is the same .* Use Trace_ELBO"):
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


BAD_OPTIONS = {
    "unknown": (dict(gradient="score"), r"one of \('dreg', 'standard'\); got 'score'"),
    "variance": (
        dict(gradient="dreg", guide_objective="variance"),
        "with guide_objective='iwelbo', .* got 'variance'. Pass gradient='standard'",
    ),
}


@pytest.mark.parametrize("options, message", BAD_OPTIONS.values(), ids=BAD_OPTIONS.keys())
def test_gradients_that_do_not_exist_are_refused(options, message):
    for loss_class in (SUMO, MultilevelSUMO):
        with pytest.raises(ValueError, match=message):
            loss_class(4, **options)


def test_a_marginal_whose_reverse_model_climbs_no_bound_has_no_such_gradient():
    with pytest.raises(ValueError, match="default is 'forward_kl'; got IWELBO.* Name the obj"):
        ReverseKL(IWELBO(4, gradient="dreg"))
