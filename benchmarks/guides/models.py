"""Six models whose evidence and posterior moments are exact: closed forms, or quadrature."""

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy import stats
from scipy.special import gammaln, logsumexp

import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist

from benchmarks.guides.problems import Exact, Problem
from benchmarks.models import by_quadrature as known

# Earnings (thousand a year) on years of education and height in inches, in natural units: neither
# covariate is centred, so that the intercept is strongly correlated with both slopes.

_RNG = np.random.default_rng(7)
COVARIATES = np.column_stack(
    [np.ones(120), _RNG.normal(13.0, 2.5, 120), _RNG.normal(66.0, 4.0, 120)]
).round(1)
EARNINGS = (COVARIATES @ [-15.0, 2.5, 0.65] + _RNG.normal(0.0, 20.0, 120)).round(1)
NOISE, PRIOR_SDS = 20.0, np.array([50.0, 5.0, 5.0])


def _earnings():
    beta = numpyro.sample("beta", dist.Normal(0.0, PRIOR_SDS).to_event(1))
    fitted = jnp.asarray(COVARIATES) @ beta
    numpyro.sample("earnings", dist.Normal(fitted, NOISE).to_event(1), obs=jnp.asarray(EARNINGS))


def _of_earnings() -> Exact:
    x, prior = COVARIATES, np.diag(PRIOR_SDS**2)
    covariance = np.linalg.inv(np.linalg.inv(prior) + x.T @ x / NOISE**2)
    mean = covariance @ x.T @ EARNINGS / NOISE**2
    of_data = NOISE**2 * np.eye(len(x)) + x @ prior @ x.T
    return Exact(
        float(stats.multivariate_normal(np.zeros(len(x)), of_data).logpdf(EARNINGS)),
        {"beta": mean},
        {"beta": np.sqrt(np.diag(covariance))},
        lambda rng, number: {"beta": rng.multivariate_normal(mean, covariance, number)},
    )


# A Normal with unknown mean and precision, under the conjugate normal-gamma prior.

OBSERVED = np.array([4.1, 5.6, 3.2, 6.3, 5.0, 4.4, 7.1, 2.9, 5.2, 4.8, 5.9, 3.8])
SHAPE, RATE, LOC, PRIOR_COUNT = 2.0, 2.0, 3.0, 0.5


def _normal_gamma():
    precision = numpyro.sample("inverse_variance", dist.Gamma(SHAPE, RATE))
    mean = numpyro.sample("mean", dist.Normal(LOC, (PRIOR_COUNT * precision) ** -0.5))
    of_data = dist.Normal(mean, precision**-0.5).expand([len(OBSERVED)]).to_event(1)
    numpyro.sample("y", of_data, obs=jnp.asarray(OBSERVED))


def _of_normal_gamma() -> Exact:
    n, y = len(OBSERVED), OBSERVED
    count, shape = PRIOR_COUNT + n, SHAPE + n / 2
    mean = (PRIOR_COUNT * LOC + y.sum()) / count
    squares = ((y - y.mean()) ** 2).sum() + PRIOR_COUNT * n / count * (y.mean() - LOC) ** 2
    rate = RATE + squares / 2
    log_evidence = gammaln(shape) - gammaln(SHAPE) + SHAPE * np.log(RATE) - shape * np.log(rate)
    log_evidence += 0.5 * np.log(PRIOR_COUNT / count) - n / 2 * np.log(2.0 * np.pi)

    def draw(rng: np.random.Generator, number: int):
        precision = rng.gamma(shape, 1.0 / rate, number)
        return {
            "inverse_variance": precision,
            "mean": rng.normal(mean, (count * precision) ** -0.5),
        }

    return Exact(
        float(log_evidence),
        {"inverse_variance": np.array(shape / rate), "mean": np.array(mean)},
        {
            "inverse_variance": np.array(shape**0.5 / rate),
            "mean": np.array((rate / (count * (shape - 1.0))) ** 0.5),
        },
        draw,
    )


# Shares of five categories.

COUNTS = np.array([12, 3, 0, 7, 1])
CONCENTRATION = np.ones(5)


def _dirichlet():
    p = numpyro.sample("p", dist.Dirichlet(CONCENTRATION))
    of_data = dist.Multinomial(int(COUNTS.sum()), probs=p)
    numpyro.sample("counts", of_data, obs=jnp.asarray(COUNTS))


def _of_dirichlet() -> Exact:
    posterior = stats.dirichlet(CONCENTRATION + COUNTS)
    return Exact(
        float(stats.dirichlet_multinomial.logpmf(COUNTS, CONCENTRATION, COUNTS.sum())),
        {"p": posterior.mean()},
        {"p": posterior.var() ** 0.5},
        lambda rng, number: {"p": rng.dirichlet(CONCENTRATION + COUNTS, number)},
    )


def _of_logistic() -> Exact:
    """Sums over a grid of 240 × 240 points; a draw is a grid point plus uniform noise."""
    axes = np.linspace(-1.0, 3.0, 240), np.linspace(-7.0, -1.0, 240)
    a, b = (values.ravel() for values in np.meshgrid(*axes, indexing="ij"))
    signs = 2.0 * known.BENIGN - 1.0
    log_p = -np.logaddexp(0.0, -signs * (a[:, None] + b[:, None] * known.RADII)).sum(axis=1)
    log_p += stats.norm(scale=3.0).logpdf(a) + stats.norm(scale=3.0).logpdf(b)
    steps = np.array([axis[1] - axis[0] for axis in axes])
    weights = np.exp(log_p - logsumexp(log_p))
    means = {"intercept": weights @ a, "slope": weights @ b}
    squares = {"intercept": weights @ a**2, "slope": weights @ b**2}

    def draw(rng: np.random.Generator, number: int):
        chosen = rng.choice(len(weights), number, p=weights)
        noise = steps * rng.uniform(-0.5, 0.5, (number, 2))
        return {"intercept": a[chosen] + noise[:, 0], "slope": b[chosen] + noise[:, 1]}

    sds = {name: (squares[name] - means[name] ** 2) ** 0.5 for name in means}
    return Exact(float(logsumexp(log_p) + np.log(steps).sum()), means, sds, draw)


# One hundred groups whose spread is unknown, with one observation each.

GROUP_ERRORS = np.full(100, 0.5)
GROUP_EFFECTS = _RNG.normal(1.0, (0.8**2 + 0.5**2) ** 0.5, 100).round(2)


def _groups():
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 100):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta, GROUP_ERRORS), obs=jnp.asarray(GROUP_EFFECTS))


def _of_effects(
    effects: np.ndarray, errors: np.ndarray, prior_sd: float, log_prior: Callable
) -> Exact:
    """Effects θᵢ ~ N(mu, tau²) observed with known errors: mu and θ in closed form given tau.

    The integral over tau is a trapezoidal rule in log tau.

    :param prior_sd: of mu, whose prior mean is 0.
    :param log_prior: log-density of tau.
    """
    log_tau = np.linspace(-14.0, 12.0, 20_001)
    tau = np.exp(log_tau)[:, None]
    precision = 1.0 / (errors**2 + tau**2)
    total = precision.sum(axis=1) + prior_sd**-2
    mean = (precision * effects).sum(axis=1) / total
    squares = (precision * effects**2).sum(axis=1) - total * mean**2
    log_p = np.log(precision / 2.0 / np.pi).sum(axis=1) - np.log(prior_sd**2 * total) - squares
    log_p = 0.5 * log_p + log_prior(tau[:, 0]) + log_tau
    weights = np.exp(log_p - logsumexp(log_p))
    share = tau**2 * precision  # of an observation in the mean of its effect
    mean_theta = share * effects + (1.0 - share) * mean[:, None]
    var_theta = share * errors**2 + (1.0 - share) ** 2 / total[:, None]

    def draw(rng: np.random.Generator, number: int):
        k = rng.choice(len(weights), number, p=weights)
        mu = rng.normal(mean[k], total[k] ** -0.5)[:, None]
        loc, sd = share[k] * effects + (1.0 - share[k]) * mu, share[k] ** 0.5 * errors
        return {"mu": mu[:, 0], "tau": tau[k, 0], "theta": rng.normal(loc, sd)}

    first = {"mu": mean, "tau": tau[:, 0], "theta": mean_theta}
    within = {"mu": 1.0 / total, "tau": 0.0 * total, "theta": var_theta}
    means = {name: weights @ values for name, values in first.items()}
    sds = {n: np.sqrt(weights @ (within[n] + (first[n] - means[n]) ** 2)) for n in first}
    step = log_tau[1] - log_tau[0]
    return Exact(float(logsumexp(log_p) + np.log(step)), means, sds, draw)


@cache
def models() -> dict[str, Problem]:
    """The models by name."""
    schools = known.EFFECTS, known.ERRORS, 5.0, stats.halfcauchy(scale=5.0).logpdf
    groups = GROUP_EFFECTS, GROUP_ERRORS, 2.0, stats.halfnorm.logpdf
    return {
        "earnings": Problem("linear regression, natural units", _earnings, _of_earnings()),
        "normal_gamma": Problem("normal–gamma", _normal_gamma, _of_normal_gamma()),
        "dirichlet": Problem("Dirichlet–multinomial", _dirichlet, _of_dirichlet()),
        "logistic": Problem("logistic regression", known.logistic_regression, _of_logistic()),
        "schools": Problem("eight schools, centred", known.eight_schools, _of_effects(*schools)),
        "groups": Problem("Gaussian, 100 groups", _groups, _of_effects(*groups)),
    }
