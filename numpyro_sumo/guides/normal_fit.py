"""A Normal fitted to a model in unconstrained space: where a hierarchical guide starts."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import optax

import jax
from jax import lax, random
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.scipy.special import logsumexp

from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.initialization import init_to_uniform
from numpyro.infer.util import potential_energy

from numpyro_sumo._compat import VectorGuide, jit_once
from numpyro_sumo.programs.programs import Programs, with_initial_latents, with_params
from numpyro_sumo.programs.sites import values_of_type

from .newton_modes import gradient_and_hessian, newton_modes
from .whitening import Whitening, lower_root

#: Mean-field fit: steps, particles and learning rate.
_STEPS, _PARTICLES, _RATE = 2_000, 8, 1e-2

#: Starts of the search for modes by default, and how far from zero they are at most.
NUM_STARTS, _RADIUS = 4, 2.0

#: Fit with covariances: steps of two draws, and the first and the last learning rate.
_FULL_STEPS, _FULL_RATES = 400, (0.4, 0.01)

#: Largest number of coordinates with covariances, by default and if they are asked for: each step
#: takes twice as many Hessian products.
LARGEST_BY_DEFAULT, LARGEST_FULL = 100, 1_000

#: Draws that estimate an ELBO, and the gain in nats that is not noise.
_JUDGING_DRAWS, _WORTH = 1_024, 0.01

#: Draws evaluated at a time.
_BATCH = 64

#: Log-density of unconstrained coordinates z, shape ``(d,)``, with a key for the model's own draws.
LogDensity = Callable[[jax.Array, jax.Array], jax.Array]


class Candidates(NamedTuple):
    """Normals that were found from different starts, the mean-field fit first.

    :param normals: with a leading axis of candidates.
    :param elbo: in nats, of each; −∞ if it is not finite.
    :param log_evidence: log Z in nats, from draws of each with their importance weights: that of
        the mass around a mode.
    :param converged: whether the search for a mode came to its end.
    """

    normals: Whitening
    elbo: jax.Array
    log_evidence: jax.Array
    converged: jax.Array


class NormalFit(NamedTuple):
    """A Normal z = c + L y, its ELBO and log Z by its weights in nats, and the candidates."""

    whitening: Whitening
    elbo: jax.Array
    log_evidence: jax.Array
    candidates: Candidates


class _MeanField(AutoDiagonalNormal, VectorGuide):
    """A Normal without covariances, over latents in the order of their names."""


def fit_normal(
    rng_key: jax.Array,
    programs: Programs,
    *,
    init_loc_fn: Callable[..., Any],
    full_covariance: bool | None,
    num_starts: int = NUM_STARTS,
) -> NormalFit:
    r"""Fits a Normal to the posterior of a model, in d unconstrained coordinates z = c + L y.

    Candidates are a mean-field fit by gradient steps, and Laplace approximations at modes that
    Newton's method finds (:func:`~.newton_modes.newton_modes`). From the one of the largest ELBO
    starts a fit with covariances by Newton steps in expectation, which replaces it if its ELBO is
    larger by 0.01 nats. Without covariances, or for a density without second derivatives, there is
    the mean-field fit alone; a coordinate where it is not finite keeps the value of
    ``init_loc_fn``, with scale one.

    :param programs: the model with its arguments; the guide and the params are not used.
    :param init_loc_fn: initial values, from which modes are sought as well. For NumPyro's default,
        :func:`~numpyro.infer.initialization.init_to_uniform`, the other starts are random.
    :param full_covariance: whether to fit covariances, of at most 1,000 coordinates; None for up to
        100.
    :param num_starts: starts of the search for modes.
    :return: c, and L, or its diagonal alone if covariances were not to be fitted.
    """
    options: dict[str, Any] = {"init_loc_fn": init_loc_fn, "full_covariance": full_covariance}
    fit, fit_key = normal_fit(rng_key, programs, **options, num_starts=num_starts)
    with block():
        return jit_once(fit)(fit_key)


def normal_fit(
    rng_key: jax.Array,
    programs: Programs,
    *,
    init_loc_fn: Callable[..., Any],
    full_covariance: bool | None,
    num_starts: int,
) -> tuple[Callable[[jax.Array], NormalFit], jax.Array]:
    """A function, to be compiled, that does the work of :func:`fit_normal`; and a key for it."""
    _, args, kwargs = programs.inputs
    model_key, fit_key = random.split(rng_key)
    with block():  # the model's own params keep their initial values
        seeded = with_initial_latents(model_key, programs.model)
        sites = trace(seeded).get_trace(*args, **kwargs)
    known = with_params(programs.model, values_of_type(sites, "param"))
    guide = _MeanField(known, init_loc_fn=init_loc_fn)
    svi = SVI(known, guide, optax.adam(_RATE), Trace_ELBO(_PARTICLES))

    def log_density(z: jax.Array, rng_key: jax.Array) -> jax.Array:
        return -jnp.asarray(potential_energy(seed(known, rng_key), args, kwargs, guide.unpack(z)))

    def fit(rng_key: jax.Array) -> NormalFit:
        params = svi.run(rng_key, _STEPS, *args, progress_bar=False, **kwargs).params
        initial = guide.initial_vector
        finite = jnp.isfinite(params["auto_loc"]) & jnp.isfinite(params["auto_scale"])
        mean_field = Whitening(
            jnp.where(finite, params["auto_loc"], initial),
            jnp.where(finite, params["auto_scale"], 1.0),
        )
        start_key, rest_key = random.split(random.fold_in(rng_key, 1))
        if not has_covariances(full_covariance, guide.latent_dim):
            return _mean_field_alone(rest_key, log_density, mean_field)
        starts = initial[None]
        if init_loc_fn is init_to_uniform:
            shape = num_starts - 1, guide.latent_dim
            others = random.uniform(start_key, shape, initial.dtype, -_RADIUS, _RADIUS)
            starts = jnp.concatenate([starts, others])
        return _with_covariances(rest_key, log_density, mean_field, starts)

    def precise_fit(rng_key: jax.Array) -> NormalFit:
        with block(), jax.default_matmul_precision("highest"):
            return fit(rng_key)

    return precise_fit, fit_key


def has_covariances(full_covariance: bool | None, dim: int) -> bool:
    """Whether :func:`fit_normal` fits covariances of so many coordinates."""
    if full_covariance is None:
        return dim <= LARGEST_BY_DEFAULT
    return full_covariance and dim <= LARGEST_FULL


def _mean_field_alone(
    rng_key: jax.Array, log_density: LogDensity, mean_field: Whitening
) -> NormalFit:
    """The mean-field fit as the only candidate."""
    batch = jax.tree.map(lambda leaf: leaf[None], mean_field)
    candidates = _judged(rng_key, log_density, batch, jnp.array([True]))
    return NormalFit(mean_field, candidates.elbo[0], candidates.log_evidence[0], candidates)


def _with_covariances(
    rng_key: jax.Array, log_density: LogDensity, mean_field: Whitening, starts: jax.Array
) -> NormalFit:
    """The Normal of the largest ELBO that is found from the mean-field fit and from modes."""
    full_key, judge_key, model_key = random.split(rng_key, 3)
    diagonal = Whitening(mean_field.loc, jnp.diag(mean_field.root))
    at_fixed_key = lambda z: log_density(z, model_key)
    try:
        jax.eval_shape(partial(gradient_and_hessian, at_fixed_key), mean_field.loc)
    except (TypeError, NotImplementedError):  # no second derivative: an ODE solver, for instance
        return _mean_field_alone(judge_key, log_density, diagonal)
    modes = newton_modes(at_fixed_key, starts)
    normals = jax.tree.map(
        lambda one, others: jnp.concatenate([one[None], others]),
        diagonal,
        Whitening(modes.loc, modes.root),
    )
    converged = jnp.append(True, modes.converged)
    candidates = _judged(judge_key, log_density, normals, converged)
    at_best = lambda each: each[jnp.argmax(candidates.elbo)]
    best = jax.tree.map(at_best, normals)
    standard = jnp.zeros_like(best.loc), jnp.eye(best.loc.size, dtype=best.loc.dtype)
    whitened = lambda y, rng_key: log_density(best.color(y), rng_key)
    mean, precision = _full_covariance(whitened, *standard, full_key)
    inverse_root = solve_triangular(jnp.linalg.cholesky(precision), standard[1], lower=True)
    full = Whitening(best.color(mean), lower_root(best.root @ inverse_root.T))
    of_full = full, *_elbo(log_density, full, judge_key)
    of_best = best, at_best(candidates.elbo), at_best(candidates.log_evidence)
    better = of_full[1] > of_best[1] + _WORTH
    chosen = jax.tree.map(lambda new, old: jnp.where(better, new, old), of_full, of_best)
    whitening, elbo, log_evidence = chosen
    return NormalFit(whitening, elbo, log_evidence, candidates)


def _judged(
    rng_key: jax.Array, log_density: LogDensity, normals: Whitening, converged: jax.Array
) -> Candidates:
    """Normals with their ELBOs and log-evidences, from the same random numbers."""
    elbo, log_evidence = lax.map(lambda normal: _elbo(log_density, normal, rng_key), normals)
    return Candidates(normals, elbo, log_evidence, converged)


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
        return gradient_and_hessian(lambda y: log_density(y, rng_key), y)

    def step(state: tuple[jax.Array, jax.Array], inputs: Any) -> Any:
        mean, precision = state
        rate, draw_key, model_key = inputs
        root = jnp.linalg.cholesky(precision)
        offset = solve_triangular(root.T, random.normal(draw_key, (size,), mean.dtype))
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

    rates = jnp.linspace(*_FULL_RATES, _FULL_STEPS, dtype=mean.dtype)
    inputs = rates, *(random.split(key, _FULL_STEPS) for key in random.split(rng_key))
    return lax.scan(step, (mean, precision), inputs)[0]


def _elbo(
    log_density: LogDensity, normal: Whitening, rng_key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The ELBO of a Normal in nats, without noise at the posterior, and log Z by its weights.

    Both are −∞ if they are not finite.
    """
    draw_key, model_key = random.split(rng_key)
    y = random.normal(draw_key, (_JUDGING_DRAWS, normal.loc.size))
    inputs = normal.color(y), random.split(model_key, _JUDGING_DRAWS)
    log_densities = lax.map(lambda each: log_density(*each), inputs, batch_size=_BATCH)
    log_q = -0.5 * (jnp.square(y) + jnp.log(2.0 * jnp.pi)).sum(axis=1)
    scales = normal.root if normal.root.ndim == 1 else jnp.diag(normal.root)
    log_weights = log_densities - log_q + jnp.log(scales).sum()
    figures = log_weights.mean(), logsumexp(log_weights) - jnp.log(float(_JUDGING_DRAWS))
    elbo, log_evidence = (jnp.where(jnp.isfinite(each), each, -jnp.inf) for each in figures)
    return elbo, log_evidence
