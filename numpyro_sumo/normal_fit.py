"""A Normal fitted to a model in unconstrained space, and told as what a hierarchical guide is."""

from collections.abc import Callable

import optax

import jax
from jax import lax, random
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.util import potential_energy

from .latent_order import InOrder
from .trained_model import with_params

#: Of the mean-field fit.
_STEPS, _PARTICLES, _RATE = 2_000, 8, 1e-2

#: Of that of the covariance; two draws a step, one the mirror image of the other.
_FULL_STEPS, _FULL_RATES = 400, (0.4, 0.01)

#: Coordinates above which none is fitted: Hessians have as many columns.
_LARGEST_FULL = 1_000

#: Nats that covariances must gain, or else coordinates stay apart; and draws to tell by.
_WORTH, _JUDGING_DRAWS = 0.1, 1_000

#: Columns of a Hessian, and draws, that are held in memory together.
_BATCH = 64

#: How much of what variance a coordinate has given the others comes through auxiliary normals.
_SHARE = 0.1


class _MeanField(AutoDiagonalNormal, InOrder):
    """A Normal without covariances."""


def fit_normal(
    model: Callable, init_loc_fn: Callable, args: tuple, kwargs: dict, rng_key: jax.Array
) -> dict[str, jax.Array]:
    r"""A Normal near the posterior of a model, in d unconstrained coordinates and in two stages.

    .. math::
        z = c + s \odot y, \qquad y \mid u \sim N(A u, \operatorname{diag} b^2), \qquad
        u \sim N(0, I_d), \qquad b_i^2 + \textstyle\sum_j A_{ij}^2 = 1

    The columns of diag(1/b) A are orthogonal, so that u given y has independent coordinates. Mean
    field comes first; a fit of the full covariance begins from it and takes its place where that
    is worth it. Where mean field is lost, the guide begins where ``init_loc_fn`` says.

    :return: ``loc`` and ``scale``, c and s of shape ``(d,)``; ``loading``, A of shape ``(d, d)``;
        ``noise``, b of shape ``(d,)``.
    """
    model_key, fit_key = random.split(rng_key)
    with block():  # the model's own parameters stay where they begin
        sites = trace(seed(model, model_key)).get_trace(*args, **kwargs)
        own = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
        return _fit(with_params(model, own), init_loc_fn, args, kwargs, fit_key)


def blank_fit(size: int) -> dict[str, jax.Array]:
    """What :func:`fit_normal` gives for that many coordinates, all zero."""
    vectors = dict.fromkeys(["loc", "scale", "noise"], jnp.zeros(size))
    return vectors | {"loading": jnp.zeros((size, size))}


def _fit(
    model: Callable, init_loc_fn: Callable, args: tuple, kwargs: dict, rng_key: jax.Array
) -> dict[str, jax.Array]:
    normal = _MeanField(model, init_loc_fn=init_loc_fn)
    svi = SVI(model, normal, optax.adam(_RATE), Trace_ELBO(_PARTICLES))

    @jax.jit
    def fit(rng_key):
        field_key, full_key, judge_key = random.split(rng_key, 3)
        params = svi.run(field_key, _STEPS, *args, progress_bar=False, **kwargs).params
        found = jnp.isfinite(params["auto_loc"]) & jnp.isfinite(params["auto_scale"])
        loc = jnp.where(found, params["auto_loc"], normal._init_latent)
        scale = jnp.where(found, params["auto_scale"], 1.0)
        size = normal.latent_dim
        apart = jnp.zeros(size), jnp.eye(size)
        if size > _LARGEST_FULL:
            return {"loc": loc, "scale": scale, **_hierarchy(apart[1])}

        def log_density(y, rng_key):
            latents = normal._unpack_latent(loc + scale * y)
            return -potential_energy(seed(model, rng_key), args, kwargs, latents)

        full = _full_covariance(log_density, *apart, full_key)
        gain = _elbo(log_density, *full, judge_key) - _elbo(log_density, *apart, judge_key)
        mean, precision = (jnp.where(gain > _WORTH, *pair) for pair in zip(full, apart))
        spread = jnp.sqrt(jnp.diag(jnp.linalg.inv(precision)))
        correlated = precision * spread * spread[:, None]
        return {"loc": loc + scale * mean, "scale": scale * spread, **_hierarchy(correlated)}

    return fit(rng_key)


def _full_covariance(
    log_density: Callable[[jax.Array, jax.Array], jax.Array],
    mean: jax.Array,
    precision: jax.Array,
    rng_key: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Mean and precision of a Normal of larger ELBO, by Newton steps in expectation.

    The improved Bayesian learning rule, whose precision stays positive definite whatever the
    Hessians are: Lin, Schmidt and Khan 2020, *Handling the positive-definite constraint in the
    Bayesian learning rule*. A step that is not finite is not taken.
    """
    size = mean.size
    rates = jnp.linspace(*_FULL_RATES, _FULL_STEPS)

    def derivatives(y, rng_key):
        gradient, product = jax.linearize(jax.grad(lambda y: log_density(y, rng_key)), y)
        return gradient, lax.map(product, jnp.eye(size), batch_size=_BATCH)

    def step(state, inputs):
        mean, precision = state
        rate, draw_key, model_key = inputs
        root = jnp.linalg.cholesky(precision)
        offset = solve_triangular(root.T, random.normal(draw_key, (size,)))
        sides = [derivatives(mean + each, model_key) for each in (offset, -offset)]
        gradient, hessian = (sum(pair) / 2 for pair in zip(*sides))
        newton = cho_solve((root, True), gradient)
        # No coordinate moves, in the mean of squares, by more than its standard deviation.
        length = jnp.sqrt(jnp.maximum(gradient @ newton, 0.0) / size)
        change = -(hessian + hessian.T) / 2 - precision
        half = solve_triangular(root, change, lower=True)
        moved = precision + rate * change + rate**2 / 2 * half.T @ half
        new = mean + rate * newton / jnp.maximum(1.0, length), (moved + moved.T) / 2
        sound = jnp.isfinite(new[0]).all() & jnp.isfinite(jnp.linalg.cholesky(new[1])).all()
        return jax.tree.map(lambda n, old: jnp.where(sound, n, old), new, state), None

    inputs = rates, *(random.split(key, _FULL_STEPS) for key in random.split(rng_key))
    return lax.scan(step, (mean, precision), inputs)[0]


def _elbo(
    log_density: Callable[[jax.Array, jax.Array], jax.Array],
    mean: jax.Array,
    precision: jax.Array,
    rng_key: jax.Array,
) -> jax.Array:
    """The ELBO of a Normal, up to a constant; not finite never is above another."""
    root = jnp.linalg.cholesky(precision)
    draw_key, model_key = random.split(rng_key)
    noise = random.normal(draw_key, (_JUDGING_DRAWS, mean.size))

    def at(inputs):
        draw, key = inputs
        return log_density(mean + solve_triangular(root.T, draw), key)

    keys = random.split(model_key, _JUDGING_DRAWS)
    mean_log_density = lax.map(at, (noise, keys), batch_size=_BATCH).mean()
    return mean_log_density - jnp.log(jnp.diag(root)).sum()


def _hierarchy(precision: jax.Array) -> dict[str, jax.Array]:
    """Loading and noise that have this precision, of coordinates whose variances are one."""
    given_others = 1.0 / jnp.sqrt(jnp.diag(precision))
    values, vectors = jnp.linalg.eigh(precision * given_others * given_others[:, None])
    largest = jnp.max(values)
    noise = given_others * jnp.sqrt((1.0 - _SHARE) / largest)
    gains = largest / ((1.0 - _SHARE) * values) - 1.0
    return {"loading": noise[:, None] * vectors * jnp.sqrt(gains), "noise": noise}
