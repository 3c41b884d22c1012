"""A Normal fitted to a model in unconstrained space: where a hierarchical guide starts."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import optax

import jax
from jax import lax, random
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

import numpyro.distributions as dist
from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.util import potential_energy

from numpyro_sumo._compat import VectorGuide
from numpyro_sumo.programs.programs import Programs, with_params
from numpyro_sumo.programs.sites import values_of_type

#: Mean-field fit: steps, particles and learning rate.
_STEPS, _PARTICLES, _RATE = 2_000, 8, 1e-2

#: Fit with covariances: steps of two draws, and the first and the last learning rate.
_FULL_STEPS, _FULL_RATES = 400, (0.4, 0.01)

#: Largest number of coordinates with covariances: each step takes as many Hessian products.
_LARGEST_FULL = 1_000

#: Gain in ELBO, in nats, that covariances must have to be used; draws that estimate it.
_WORTH, _JUDGING_DRAWS = 0.1, 1_024

#: Columns of a Hessian, or draws, in memory at a time.
_BATCH = 64

#: Least share of the variance of any combination of coordinates that comes from u.
_SHARE = 0.1

Arrays = dict[str, jax.Array]

#: Log-density of standardised coordinates y, shape ``(d,)``, with a key for the model's own draws.
LogDensity = Callable[[jax.Array, jax.Array], jax.Array]


class _MeanField(AutoDiagonalNormal, VectorGuide):
    """A Normal without covariances, over latents in the order of their names."""


def fit_normal(
    rng_key: jax.Array,
    programs: Programs,
    *,
    init_loc_fn: Callable[..., Any],
    full_covariance: bool,
) -> Arrays:
    r"""Fits a Normal to the posterior of a model, in d unconstrained coordinates z.

    .. math::
        z = c + s \odot y, \qquad y \mid u \sim N(A u, \operatorname{diag} b^2), \qquad
        u \sim N(0, I_d), \qquad b_i^2 + \textstyle\sum_j A_{ij}^2 = 1

    The columns of diag(1/b) A are orthogonal, so that the coordinates of u given y are independent.
    The mean-field fit comes first, with A and b multiples of the identity. A fit with covariances
    starts from it and replaces it if the ELBO is larger by 0.1 nats; there is none above 1,000
    coordinates, or for a density without second derivatives. A coordinate whose mean-field fit is
    not finite keeps the value of ``init_loc_fn``, with scale one.

    :param programs: the model with its arguments; the guide and the params are not used.
    :param init_loc_fn: initial values; see NumPyro's initialisation strategies.
    :param full_covariance: whether to fit covariances.
    :return: ``loc`` and ``scale``, c and s of shape ``(d,)``; ``loading``, A of shape ``(d, d)``;
        ``noise``, b of shape ``(d,)``.
    """
    _, args, kwargs = programs.inputs
    model_key, fit_key = random.split(rng_key)
    with block():  # the model's own params keep their initial values
        sites = trace(seed(programs.model, model_key)).get_trace(*args, **kwargs)
    known = with_params(programs.model, values_of_type(sites, "param"))
    guide = _MeanField(known, init_loc_fn=init_loc_fn)
    svi = SVI(known, guide, optax.adam(_RATE), Trace_ELBO(_PARTICLES))

    def fit(rng_key: jax.Array) -> Arrays:
        params = svi.run(rng_key, _STEPS, *args, progress_bar=False, **kwargs).params
        mean_field = standardised(params["auto_loc"], params["auto_scale"], guide.initial_vector)
        if not full_covariance or guide.latent_dim > _LARGEST_FULL:
            return mean_field

        def log_density(y: jax.Array, rng_key: jax.Array) -> jax.Array:
            latents = guide.unpack(mean_field["loc"] + mean_field["scale"] * y)
            return -jnp.asarray(potential_energy(seed(known, rng_key), args, kwargs, latents))

        return _with_covariances(random.fold_in(rng_key, 1), log_density, mean_field)

    with block(), jax.default_matmul_precision("highest"):
        return jax.jit(fit)(fit_key)


def standardised(loc: jax.Array, scale: jax.Array, initial: jax.Array) -> Arrays:
    """A Normal without covariances as :func:`fit_normal` returns it.

    :param initial: location of coordinates whose ``loc`` or ``scale`` is not finite.
    """
    finite, size = jnp.isfinite(loc) & jnp.isfinite(scale), len(loc)
    return {
        "loc": jnp.where(finite, loc, initial),
        "scale": jnp.where(finite, scale, 1.0),
        "loading": _SHARE**0.5 * jnp.eye(size),
        "noise": jnp.full(size, (1.0 - _SHARE) ** 0.5),
    }


def _with_covariances(rng_key: jax.Array, log_density: LogDensity, mean_field: Arrays) -> Arrays:
    """The fit with covariances where its ELBO is larger, else the mean-field fit."""
    full_key, judge_key = random.split(rng_key)
    size = len(mean_field["loc"])
    standard = jnp.zeros(size), jnp.eye(size)
    try:
        mean, precision = _full_covariance(log_density, *standard, full_key)
    except (TypeError, NotImplementedError):  # no second derivative: an ODE solver, for instance
        return mean_field
    pairs = map(jnp.stack, zip((mean, precision), standard))
    elbos = jax.vmap(lambda mean, precision: _elbo(log_density, mean, precision, judge_key))(*pairs)
    deviations = jnp.sqrt(dist.MultivariateNormal(mean, precision_matrix=precision).variance)
    full = {
        "loc": mean_field["loc"] + mean_field["scale"] * mean,
        "scale": mean_field["scale"] * deviations,
        **_hierarchy(precision * deviations * deviations[:, None]),
    }
    sound = jnp.array([jnp.isfinite(value).all() for value in full.values()]).all()
    better = sound & (elbos[0] - elbos[1] > _WORTH)
    return {name: jnp.where(better, full[name], mean_field[name]) for name in full}


def _full_covariance(
    log_density: LogDensity, mean: jax.Array, precision: jax.Array, rng_key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean and precision of a Normal of larger ELBO, by stochastic Newton steps.

    The improved Bayesian learning rule keeps the precision positive definite for any Hessian: Lin,
    Schmidt and Khan 2020, *Handling the positive-definite constraint in the Bayesian learning
    rule*. A step that is not finite is skipped.
    """
    size = mean.size

    @partial(jax.vmap, in_axes=(0, None))
    def derivatives(y: jax.Array, rng_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient, product = jax.linearize(jax.grad(lambda y: log_density(y, rng_key)), y)
        return gradient, lax.map(product, jnp.eye(size), batch_size=_BATCH)

    def step(state: tuple[jax.Array, jax.Array], inputs: Any) -> Any:
        mean, precision = state
        rate, draw_key, model_key = inputs
        root = jnp.linalg.cholesky(precision)
        offset = solve_triangular(root.T, random.normal(draw_key, (size,)))
        sides = derivatives(mean + jnp.stack([offset, -offset]), model_key)
        gradient, hessian = (pair.mean(axis=0) for pair in sides)
        newton = cho_solve((root, True), gradient)
        # At most ``rate`` standard deviations, as a root mean square over directions.
        length = jnp.sqrt(jnp.maximum(gradient @ newton, 0.0) / size)
        change = -(hessian + hessian.T) / 2 - precision
        half = solve_triangular(root, change, lower=True)
        moved = precision + rate * change + rate**2 / 2 * half.T @ half
        new = mean + rate * newton / jnp.maximum(1.0, length), (moved + moved.T) / 2
        sound = jnp.isfinite(new[0]).all() & jnp.isfinite(jnp.linalg.cholesky(new[1])).all()
        return jax.tree.map(lambda n, old: jnp.where(sound, n, old), new, state), None

    rates = jnp.linspace(*_FULL_RATES, _FULL_STEPS)
    inputs = rates, *(random.split(key, _FULL_STEPS) for key in random.split(rng_key))
    return lax.scan(step, (mean, precision), inputs)[0]


def _elbo(
    log_density: LogDensity, mean: jax.Array, precision: jax.Array, rng_key: jax.Array
) -> jax.Array:
    """The ELBO of a Normal in nats."""
    normal = dist.MultivariateNormal(mean, precision_matrix=precision)
    draw_key, model_key = random.split(rng_key)
    draws = normal.sample(draw_key, (_JUDGING_DRAWS,))
    inputs = draws, random.split(model_key, _JUDGING_DRAWS)
    log_densities = lax.map(lambda each: log_density(*each), inputs, batch_size=_BATCH)
    return log_densities.mean() + normal.entropy()


def _hierarchy(precision: jax.Array) -> Arrays:
    """Loading A and noise b with this precision, that of coordinates of variance one."""
    given_others = 1.0 / jnp.sqrt(jnp.diag(precision))
    values, vectors = jnp.linalg.eigh(precision * given_others * given_others[:, None])
    largest = jnp.max(values)
    values = jnp.maximum(values, len(values) * float(np.finfo(values.dtype).eps) * largest)
    noise = given_others * jnp.sqrt((1.0 - _SHARE) / largest)
    gains = largest / ((1.0 - _SHARE) * values) - 1.0
    return {"loading": noise[:, None] * vectors * jnp.sqrt(gains), "noise": noise}
