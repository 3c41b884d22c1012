from itertools import product

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logsumexp

import jax
import jax.numpy as jnp

from numpyro import handlers
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.util import log_density

from benchmarks.posteriordb.latent import solve
from benchmarks.posteriordb.series import log_likelihood_of_chain
from benchmarks.posteriordb.translations import POSTERIORS, TRANSLATIONS
from tests.benchmarks.posteriordb.checkout import KIDS

BETAS = lambda size: [f"beta[{k}]" for k in range(1, size + 1)] + ["sigma"]
PAIRS = lambda *sites: [f"{site}[{k}]" for site in sites for k in (1, 2)]

RNG = np.random.default_rng(0)
POSITIVE = lambda *names: {name: np.exp(RNG.standard_normal(6)).tolist() for name in names}
SERIES = RNG.standard_normal(6).tolist()
EARNINGS = POSITIVE("earn", "height", "male")
WORK = {**KIDS, "mom_work": [1, 2, 3, 4]}
SHRUBS = POSITIVE(
    *("weight", "diam1", "diam2", "canopy_height", "total_height", "density", "group")
)
VOTES = POSITIVE("partyid7", "real_ideo", "race_adj", "educ1", "gender", "income")
GP = {"x": [-1.0, 0.0, 1.0], "y": [0.5, 1.0, 2.0], "k": [3, 1, 2]}
DRIVE = {"u": [0.5, 1.0, 2.0], "v": [1.0, 3.0, 0.5], "alpha": [[4, 2], [2, 4]]}

#: Made-up data and Stan's parameters by model.
CASES = {
    **{
        name: (EARNINGS, BETAS(size))
        for name, size in {
            "earn_height": 2,
            "log10earn_height": 2,
            "logearn_height": 2,
            "logearn_height_male": 3,
            "logearn_interaction": 4,
            "logearn_interaction_z": 4,
            "logearn_logheight_male": 3,
        }.items()
    },
    **{
        f"kidscore_{name}": (WORK, BETAS(size))
        for name, size in {
            "momhs": 2,
            "momiq": 2,
            "momhsiq": 3,
            "interaction": 4,
            "interaction_c": 4,
            "interaction_c2": 4,
            "interaction_z": 4,
            "mom_work": 4,
        }.items()
    },
    **{
        name: (SHRUBS, BETAS(size))
        for name, size in {
            "mesquite": 7,
            "logmesquite": 7,
            "logmesquite_logva": 4,
            "logmesquite_logvas": 7,
            "logmesquite_logvash": 6,
            "logmesquite_logvolume": 2,
        }.items()
    },
    "nes": (VOTES | {"age_discrete": [1, 2, 3, 4, 1, 2]}, BETAS(9)),
    "blr": ({"D": 2, "X": [[1.0, 2.0], [3.0, 4.0]], "y": [1.0, 2.0]}, BETAS(2)),
    "kilpisjarvi": (
        {"x": [1.0, 2.0], "y": [3.0, 4.0]}
        | {"pmualpha": 0.0, "psalpha": 1.0, "pmubeta": 0.0, "psbeta": 2.0},
        ["alpha", "beta", "sigma"],
    ),
    "diamonds": (
        {"X": [[1.0, 2.0, 3.0], [1.0, 5.0, 1.0]], "Y": [1.0, 2.0]},
        ["b[1]", "b[2]", "Intercept", "sigma"],
    ),
    "arK": ({"K": 2, "y": SERIES}, ["alpha", "beta[1]", "beta[2]", "sigma"]),
    "arma11": ({"y": SERIES}, ["mu", "phi", "theta", "sigma"]),
    "garch11": ({"y": SERIES, "sigma1": 0.5}, ["mu", "alpha0", "alpha1", "beta1"]),
    "hmm_example": ({"y": SERIES}, PAIRS("theta1", "theta2", "mu")),
    "hmm_drive_0": (DRIVE, PAIRS("theta1", "theta2", "phi", "lambda")),
    "hmm_drive_1": (
        DRIVE | {"tau": 0.1, "rho": 0.2},
        PAIRS("theta1", "theta2", "phi", "lambda"),
    ),
    "eight_schools_noncentered": (
        {"y": [28.0, 8.0], "sigma": [15.0, 10.0]},
        ["theta[1]", "theta[2]", "mu", "tau"],
    ),
    "gp_regr": (GP, ["rho", "alpha", "sigma"]),
    "gp_pois_regr": (GP, ["rho", "alpha", "f[1]", "f[2]", "f[3]"]),
    "low_dim_gauss_mix": ({"y": SERIES}, [*PAIRS("mu", "sigma"), "theta"]),
    "one_comp_mm_elim_abs": (
        {"t0": 0.0, "D": 30.0, "V": 2.0, "times": [0.5, 1.0], "C_hat": [5.0, 7.0]},
        ["k_a", "K_m", "V_m", "sigma"],
    ),
    "lotka_volterra": (
        {"ts": [1, 2], "y_init": [30.0, 4.0], "y": [[47.2, 6.1], [70.2, 9.8]]},
        [f"theta[{k}]" for k in range(1, 5)] + PAIRS("z_init", "sigma"),
    ),
}


def density(name, data, values):
    """Log-density of a model at constrained values of its latent sites."""
    model = TRANSLATIONS[name](data)
    arrays = {site: jnp.float32(value) for site, value in values.items()}
    return float(jax.jit(lambda sites: log_density(model, (), {}, sites)[0])(arrays))


def normal(y, loc, scale):
    return stats.norm.logpdf(y, loc, scale).sum()


def test_there_is_a_case_for_each_translation_and_a_translation_for_each_posterior():
    assert CASES.keys() == TRANSLATIONS.keys()
    assert {name.partition("-")[2] for name in POSTERIORS} == TRANSLATIONS.keys()
    assert len(set(POSTERIORS)) == len(POSTERIORS) == 45


@pytest.mark.parametrize("name", CASES)
def test_sites_have_the_names_and_sizes_of_stan(name):
    data, names = CASES[name]
    sites = {}

    def run():
        seeded = handlers.seed(TRANSLATIONS[name](data), 0)
        sites.update(
            handlers.trace(handlers.substitute(seeded, substitute_fn=init_to_uniform)).get_trace()
        )
        return jnp.zeros(())

    jax.eval_shape(run)
    for base in {each.partition("[")[0] for each in names}:
        numbers = [each for each in names if each.partition("[")[0] == base]
        expected = (len(numbers),) if "[" in numbers[0] else ()
        assert sites[base]["value"].shape == expected
        assert not sites[base].get("is_observed", False)


def test_density_of_a_regression_is_computed_by_hand():
    y, hs, iq = (np.array(KIDS[key]) for key in ("kid_score", "mom_hs", "mom_iq"))
    beta, sigma = np.array([20.0, 30.0, 0.5, -0.3]), 12.0
    loc = beta[0] + beta[1] * hs + beta[2] * iq + beta[3] * hs * iq
    expected = normal(y, loc, sigma) + stats.halfcauchy.logpdf(sigma, scale=2.5)
    found = density("kidscore_interaction", KIDS, {"beta": beta, "sigma": sigma})
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    # Without the half-Cauchy the prior is flat.
    found = density("kidscore_mom_work", WORK, {"beta": beta, "sigma": sigma})
    work = np.array([0.0, *beta[1:]])
    np.testing.assert_allclose(found, normal(y, beta[0] + work, sigma), rtol=1e-5)


def test_columns_are_divided_by_sds_of_a_sample():
    y, hs, iq = (np.array(KIDS[key]) for key in ("kid_score", "mom_hs", "mom_iq"))
    z_hs, z_iq = ((x - x.mean()) / (2.0 * x.std(ddof=1)) for x in (hs, iq))
    beta, sigma = np.array([80.0, 5.0, 7.0, -3.0]), 10.0
    loc = beta[0] + beta[1] * z_hs + beta[2] * z_iq + beta[3] * z_hs * z_iq
    found = density("kidscore_interaction_z", KIDS, {"beta": beta, "sigma": sigma})
    np.testing.assert_allclose(found, normal(y, loc, sigma), rtol=1e-5)


def test_lags_of_an_autoregression_are_in_the_order_of_stan():
    y, beta = np.array(SERIES), np.array([0.5, -0.2])
    loc = 0.3 + beta[0] * y[1:-1] + beta[1] * y[:-2]
    expected = normal(y[2:], loc, 0.7) + normal(np.array([0.3, *beta]), 0.0, 10.0)
    expected += stats.halfcauchy.logpdf(0.7, scale=2.5)
    values = {"alpha": 0.3, "beta": beta, "sigma": 0.7}
    np.testing.assert_allclose(density("arK", CASES["arK"][0], values), expected, rtol=1e-5)


def test_errors_of_arma_are_those_of_a_loop():
    mu, phi, theta, sigma = 0.2, 0.9, -0.5, 0.8
    errors = [SERIES[0] - (mu + phi * mu)]
    for before, now in zip(SERIES, SERIES[1:]):
        errors.append(now - (mu + phi * before + theta * errors[-1]))
    expected = normal(errors, 0.0, sigma) + normal(mu, 0.0, 10.0)
    expected += normal([phi, theta], 0.0, 2.0) + stats.halfcauchy.logpdf(sigma, scale=2.5)
    values = {"mu": mu, "phi": phi, "theta": theta, "sigma": sigma}
    np.testing.assert_allclose(density("arma11", {"y": SERIES}, values), expected, rtol=1e-5)


def test_prior_of_garch_is_uniform_over_the_triangle():
    mu, alpha0, alpha1, share = 0.1, 0.3, 0.4, 0.5
    variances = [0.25]
    for before in SERIES[:-1]:
        variances.append(
            alpha0 + alpha1 * (before - mu) ** 2 + share * (1.0 - alpha1) * variances[-1]
        )
    expected = normal(SERIES, mu, np.sqrt(variances)) + np.log(1.0 - alpha1)
    values = {"mu": mu, "alpha0": alpha0, "alpha1": alpha1, "beta1_share": share}
    found = density("garch11", CASES["garch11"][0], values)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_forward_algorithm_sums_over_all_paths():
    transition = np.array([[0.7, 0.3], [0.2, 0.8]])
    emission = RNG.standard_normal((5, 2))
    paths = [
        sum(emission[t, state] for t, state in enumerate(path))
        + sum(np.log(transition[pair]) for pair in zip(path, path[1:]))
        for path in product((0, 1), repeat=5)
    ]
    found = log_likelihood_of_chain(jnp.log(transition), jnp.asarray(emission))
    np.testing.assert_allclose(found, logsumexp(paths), rtol=1e-5)


def test_density_of_a_mixture_is_computed_by_hand():
    mu, sigma, theta = np.array([-1.0, 2.0]), np.array([0.5, 1.5]), 0.3
    parts = stats.norm.logpdf(np.array(SERIES)[:, None], mu, sigma) + np.log([theta, 1.0 - theta])
    expected = logsumexp(parts, axis=1).sum() + normal(mu, 0.0, 2.0)
    expected += stats.halfnorm.logpdf(sigma, scale=2.0).sum() + stats.beta.logpdf(theta, 5, 5)
    values = {"mu": mu, "sigma": sigma, "theta": theta}
    found = density("low_dim_gauss_mix", {"y": SERIES}, values)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_noise_of_the_gaussian_process_is_a_variance():
    x, rho, alpha, sigma = np.array(GP["x"]), 6.0, 2.0, 0.5
    covariance = alpha**2 * np.exp(-0.5 * ((x[:, None] - x) / rho) ** 2) + sigma * np.eye(3)
    expected = stats.multivariate_normal.logpdf(GP["y"], np.zeros(3), covariance)
    expected += stats.gamma.logpdf(rho, 25.0, scale=0.25)
    expected += stats.halfnorm.logpdf([alpha, sigma], scale=[2.0, 1.0]).sum()
    values = {"rho": rho, "alpha": alpha, "sigma": sigma}
    np.testing.assert_allclose(density("gp_regr", GP, values), expected, rtol=1e-4)


def test_solution_of_a_differential_equation_is_that_of_scipy():
    theta, begin, times = (0.55, 0.028, 0.8, 0.024), [33.0, 6.0], [1.0, 2.5, 4.0]

    def derivative(time, state):
        prey, predator = state
        return [(theta[0] - theta[1] * predator) * prey, (theta[3] * prey - theta[2]) * predator]

    tolerance = {"rtol": 1e-9, "atol": 1e-9}
    exact = integrate.solve_ivp(derivative, (0.0, 4.0), begin, t_eval=times, **tolerance)
    found = solve(lambda t, z: jnp.stack(derivative(t, z)), begin, 0.0, times)
    np.testing.assert_allclose(found, exact.y.T, rtol=1e-3)
