"""Seven models with posteriors that are hard for MCMC, each in its usual form."""

from collections.abc import Callable

import numpy as np
from scipy.stats import norm
from sklearn.datasets import load_breast_cancer, load_diabetes

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import constraints
from numpyro.distributions.transforms import AffineTransform, Transform
from numpyro.handlers import reparam
from numpyro.infer.reparam import LocScaleReparam, TransformReparam

from benchmarks.common.distributions import MixtureOfNormals, normal_given_normal
from benchmarks.posterior.problems import Chains, Effort, Problem


def funnel10() -> Problem:
    """Neal's funnel in ten dimensions."""

    def model():
        v = numpyro.sample("v", dist.Normal(0.0, 3.0))
        numpyro.sample("x", dist.Normal(0.0, jnp.exp(v / 2)).expand([9]).to_event(1))

    of_x = normal_given_normal(lambda z: 0.0, lambda z: np.exp(1.5 * z))
    return Problem(
        name="funnel10",
        title="Neal's funnel, 10 dimensions",
        model=model,
        effort=Effort(steps=20_000, learning_rate=1e-3),
        shown=("v", "x[0]"),
        pair=("x[0]", "v"),
        exact={"v": norm(scale=3.0), **{f"x[{i}]": of_x for i in range(9)}},
        log_evidence=0.0,
    )


def eight_schools() -> Problem:
    """Effects of coaching in eight schools (Rubin 1981)."""
    effects = jnp.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    errors = jnp.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])

    def model(errors, effects):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(5.0))
        with numpyro.plate("schools", 8):
            theta = numpyro.sample("theta", dist.Normal(mu, tau))
            numpyro.sample("y", dist.Normal(theta, errors), obs=effects)

    return Problem(
        name="eight_schools",
        title="Eight schools, centred",
        model=model,
        args=(errors, effects),
        effort=Effort(steps=40_000),
        shown=("log τ", "μ", "θ[0]"),
        pair=("θ[0]", "log τ"),
        labels={"mu": "μ", "tau": "τ", "theta": "θ"},
        logged=frozenset(["tau"]),
        chains=Chains(reparam(model, config={"theta": LocScaleReparam(0.0)})),
    )


def banana() -> Problem:
    """A curved normal distribution (Haario et al. 1999)."""

    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 10.0))
        numpyro.sample("y", dist.Normal(0.03 * (100.0 - x**2), 1.0))

    return Problem(
        name="banana",
        title="Banana",
        model=model,
        effort=Effort(steps=30_000, learning_rate=3e-3),
        shown=("y", "x"),
        pair=("x", "y"),
        exact={
            "x": norm(scale=10.0),
            "y": normal_given_normal(lambda z: 3.0 * (1.0 - z**2), lambda z: 1.0),
        },
        log_evidence=0.0,
    )


def mixture25() -> Problem:
    """Twenty-five normals on a grid in the plane."""
    ticks = np.array([-10.0, -5.0, 0.0, 5.0, 10.0])
    centres = np.stack(np.meshgrid(ticks, ticks), axis=-1).reshape(25, 2)
    scale = 0.3**0.5

    def model():
        parts = dist.Normal(jnp.asarray(centres), scale).to_event(1)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(jnp.full(25, 1 / 25)), parts))

    marginal = MixtureOfNormals(ticks, scale)
    return Problem(
        name="mixture25",
        title="25 modes in the plane",
        model=model,
        effort=Effort(steps=20_000, inverse_temperature=0.005),
        shown=("x[0]", "x[1]"),
        pair=("x[0]", "x[1]"),
        exact={"x[0]": marginal, "x[1]": marginal},
        log_evidence=0.0,
    )


def _conditionally_centred_horseshoe(features: jax.Array, progress: jax.Array) -> None:
    """The horseshoe in coordinates z = C⁻¹ (β − m), where m and C Cᵀ are mean and covariance of β
    given y and all other latents.

    With D = diag(τλ) and B = I + D Xᵀ X D / σ², these are D B⁻¹ D Xᵀ y / σ² and D B⁻¹ D.
    """
    sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
    tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
    with numpyro.plate("features", features.shape[1]):
        lam = numpyro.sample("lambda", dist.HalfCauchy(1.0))
        z = numpyro.sample("z", dist.Normal())
    scaled = features * tau * lam / sigma
    root = jnp.linalg.cholesky(jnp.eye(z.size) + scaled.T @ scaled)
    half = solve_triangular(root, scaled.T @ progress / sigma, lower=True)
    numpyro.deterministic("beta", tau * lam * solve_triangular(root.T, half + z))
    # The density of y given σ, τ and λ: β is integrated out.
    log_scale = len(progress) * jnp.log(sigma) + jnp.log(jnp.diagonal(root)).sum()
    square = progress @ progress / sigma**2 - half @ half
    numpyro.factor("y", -log_scale - 0.5 * (square + len(progress) * jnp.log(2 * jnp.pi)))


def horseshoe() -> Problem:
    """Linear regression of diabetes progression with a horseshoe prior (Carvalho et al. 2010)."""
    features, progress = load_diabetes(return_X_y=True)

    def model(features, progress):
        sigma = numpyro.sample("sigma", dist.HalfNormal(1.0))
        tau = numpyro.sample("tau", dist.HalfCauchy(1.0))
        with numpyro.plate("features", features.shape[1]):
            lam = numpyro.sample("lambda", dist.HalfCauchy(1.0))
            beta = numpyro.sample("beta", dist.Normal(0.0, tau * lam))
        numpyro.sample("y", dist.Normal(features @ beta, sigma).to_event(1), obs=progress)

    return Problem(
        name="horseshoe",
        title="Horseshoe regression",
        model=model,
        args=(_standardised(features), _standardised(progress)),
        effort=Effort(steps=30_000, alternated=True),
        shown=("log τ", "β[0]", "log λ[0]"),
        pair=("β[0]", "log λ[0]"),
        labels={"sigma": "σ", "tau": "τ", "lambda": "λ", "beta": "β"},
        logged=frozenset(["sigma", "tau", "lambda"]),
        chains=Chains(_conditionally_centred_horseshoe, 0.95),
    )


def logistic() -> Problem:
    """Logistic regression of malignancy on 30 measurements, in three groups of ten."""
    measured, benign = load_breast_cancer(return_X_y=True)

    def model(measured, malignant):
        intercept = numpyro.sample("intercept", dist.Normal(0.0, 2.0))
        with numpyro.plate("statistics", 3, dim=-2):
            tau = numpyro.sample("tau", dist.HalfNormal(2.0))
            with numpyro.plate("measurements", 10, dim=-1):
                beta = numpyro.sample("beta", dist.Normal(0.0, tau))
        logits = intercept + measured @ beta.reshape(30)
        numpyro.sample("y", dist.Bernoulli(logits=logits).to_event(1), obs=malignant)

    return Problem(
        name="logistic",
        title="Hierarchical logistic regression",
        model=model,
        args=(_standardised(measured), jnp.asarray(1.0 - benign, jnp.float32)),
        effort=Effort(steps=40_000, alternated=True),
        shown=("log τ[0]", "log τ[1]", "β[2,7]"),
        pair=("β[0,0]", "log τ[0]"),
        labels={"tau": "τ", "beta": "β"},
        logged=frozenset(["tau"]),
        chains=Chains(reparam(model, config={"beta": LocScaleReparam(0.0)})),
    )


class Autoregression(Transform):
    """h₁ = x₁ and hₜ = φ hₜ₋₁ + xₜ, by an associative scan."""

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, coefficient: jax.Array):
        self.coefficient = coefficient

    def __call__(self, x):
        """The levels h of the shocks x."""
        return _levels(self.coefficient, x)

    def _inverse(self, y):
        return y.at[..., 1:].add(-self.coefficient * y[..., :-1])

    def log_abs_det_jacobian(self, x, y, intermediates=None):
        """Zero: the Jacobian is triangular with ones on the diagonal."""
        return jnp.zeros_like(x[..., 0])

    def tree_flatten(self):
        """Register the coefficient with JAX."""
        return (self.coefficient,), (("coefficient",), {})


@jax.jit  # outside jit, the scan would compile every slice separately
def _levels(coefficient: jax.Array, shocks: jax.Array) -> jax.Array:
    def compose(first, then):
        (a, b), (c, d) = first, then
        return a * c, c * b + d

    slopes = jnp.broadcast_to(coefficient, shocks.shape)
    return lax.associative_scan(compose, (slopes, shocks), axis=-1)[1]


def volatility(days: int = 500) -> Problem:
    """Stochastic volatility (Kim, Shephard and Chib 1998) of simulated returns."""

    def model(returns):
        mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
        phi = numpyro.sample("phi", dist.Beta(20.0, 1.5))
        sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
        steady = sigma / jnp.sqrt(1.0 - phi**2)
        scales = jnp.full(len(returns), sigma).at[0].set(steady)
        shocks = dist.Normal().expand([len(returns)]).to_event(1)
        levels = dist.TransformedDistribution(
            shocks, [AffineTransform(0.0, scales), Autoregression(phi), AffineTransform(mu, 1.0)]
        )
        h = numpyro.sample("h", levels)
        numpyro.sample("y", dist.Normal(0.0, jnp.exp(h / 2)).to_event(1), obs=returns)

    return Problem(
        name="volatility",
        title=f"Stochastic volatility, {days} days",
        model=model,
        args=(simulated_returns(days),),
        effort=Effort(
            steps=10_000,
            learning_rate=2e-5,
            guide={"full_covariance": True},
            particles=(32, 4),
            alternated=True,
        ),
        shown=("log σ", "φ", "μ"),
        pair=("φ", "log σ"),
        labels={"mu": "μ", "phi": "φ", "sigma": "σ"},
        logged=frozenset(["sigma"]),
        chains=Chains(
            reparam(model, config={"h": TransformReparam()}), 0.9, [("mu", "phi", "sigma")]
        ),
    )


def simulated_returns(days: int) -> jax.Array:
    """Returns whose log-variance is an AR(1): mean −1, coefficient 0.97, innovation sd 0.2."""
    rng = np.random.default_rng(500)
    h = np.empty(days)
    h[0] = -1.0 + rng.normal() * 0.2 / (1.0 - 0.97**2) ** 0.5
    for day in range(1, days):
        h[day] = -1.0 + 0.97 * (h[day - 1] + 1.0) + 0.2 * rng.normal()
    return jnp.asarray(rng.normal(size=days) * np.exp(h / 2), jnp.float32)


def _standardised(values: np.ndarray) -> jax.Array:
    return jnp.asarray((values - values.mean(axis=0)) / values.std(axis=0), jnp.float32)


#: Functions that make the problems, by name.
PROBLEMS: dict[str, Callable[[], Problem]] = {
    make.__name__: make
    for make in (funnel10, eight_schools, banana, mixture25, horseshoe, logistic, volatility)
}
