"""A Normal fitted to a model in unconstrained space, as the linear part of a hierarchical guide."""

from collections.abc import Callable
from functools import partial

import optax

import jax
from jax import lax, random
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular

from numpyro.handlers import block, seed, trace
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoDiagonalNormal
from numpyro.infer.util import potential_energy

from numpyro_sumo._compat import VectorGuide
from numpyro_sumo.programs.handlers import with_params

#: Of the mean-field fit.
_STEPS, _PARTICLES, _RATE = 2_000, 8, 1e-2

#: Of the fit with covariances: steps of two draws, and rates from the first to the last.
_FULL_STEPS, _FULL_RATES = 400, (0.4, 0.01)

#: Coordinates above which there is no such fit: Hessians have as many columns.
_LARGEST_FULL = 1_000

#: Nats that covariances must gain, or else coordinates stay apart; and draws to tell by.
_WORTH, _JUDGING_DRAWS = 0.1, 1_024

#: Columns of a Hessian, and draws, that are held in memory together.
_BATCH = 64

#: The least share of the variance of any combination of coordinates that auxiliary normals bring.
_SHARE = 0.1


class _MeanField(AutoDiagonalNormal, VectorGuide):  # type: ignore[misc]
    """A Normal without covariances."""


def fit_normal(
    model: Callable,
    init_loc_fn: Callable,
    full_covariance: bool,
    args: tuple,
    kwargs: dict,
    rng_key: jax.Array,
) -> dict[str, jax.Array]:
    r"""A Normal near the posterior of a model, in d unconstrained coordinates z.

    .. math::
        z = c + s \odot y, \qquad y \mid u \sim N(A u, \operatorname{diag} b^2), \qquad
        u \sim N(0, I_d), \qquad b_i^2 + \textstyle\sum_j A_{ij}^2 = 1

    The columns of diag(1/b) A are orthogonal, so that u given y has independent coordinates. Mean
    field comes first, where A and b are multiples of the identity. A fit with covariances begins
    from it and takes its place if its ELBO is larger by 0.1 nats; there is none above 1,000
    coordinates or of a density without second derivatives. Coordinates in which mean field is lost
    begin where ``init_loc_fn`` says.

    :param full_covariance: whether to fit covariances at all.
    :param args: of the model, as are ``kwargs``.
    :return: ``loc`` and ``scale``, c and s of shape ``(d,)``; ``loading``, A of shape ``(d, d)``;
        ``noise``, b of shape ``(d,)``.
    """
    model_key, fit_key = random.split(rng_key)
    with block():  # the model's own parameters stay where they begin
        sites = trace(seed(model, model_key)).get_trace(*args, **kwargs)
    own = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
    known = with_params(model, own)
    normal = _MeanField(known, init_loc_fn=init_loc_fn)
    svi = SVI(known, normal, optax.adam(_RATE), Trace_ELBO(_PARTICLES))

    @jax.jit
    def fit(rng_key):
        full_key, judge_key = random.split(random.fold_in(rng_key, 1))
        params = svi.run(rng_key, _STEPS, *args, progress_bar=False, **kwargs).params
        found = jnp.isfinite(params["auto_loc"]) & jnp.isfinite(params["auto_scale"])
        loc = jnp.where(found, params["auto_loc"], normal.initial_vector)
        scale = jnp.where(found, params["auto_scale"], 1.0)
        size = normal.latent_dim
        loading, noise = _SHARE**0.5 * jnp.eye(size), jnp.full(size, (1.0 - _SHARE) ** 0.5)
        apart = {"loc": loc, "scale": scale, "loading": loading, "noise": noise}
        if not full_covariance or size > _LARGEST_FULL:
            return apart

        def log_density(y, rng_key):
            latents = normal.unpack(loc + scale * y)
            return -potential_energy(seed(known, rng_key), args, kwargs, latents)

        standard = jnp.zeros(size), jnp.eye(size)
        try:
            mean, precision = _full_covariance(log_density, *standard, full_key)
        except (TypeError, NotImplementedError):  # of a solver of ODEs, say
            return apart
        pairs = map(jnp.stack, zip((mean, precision), standard))
        elbos = jax.vmap(lambda *normal: _elbo(log_density, *normal, judge_key))(*pairs)
        deviations = _deviations(precision)
        full = {
            "loc": loc + scale * mean,
            "scale": scale * deviations,
            **_hierarchy(precision * deviations * deviations[:, None]),
        }
        sound = jnp.array([jnp.isfinite(value).all() for value in full.values()]).all()
        better = sound & (elbos[0] - elbos[1] > _WORTH)
        return {name: jnp.where(better, full[name], apart[name]) for name in full}

    with block(), jax.default_matmul_precision("highest"):
        return fit(fit_key)


def blank_fit(size: int) -> dict[str, jax.Array]:
    """What :func:`fit_normal` gives for that many coordinates, all zero."""
    vectors = dict.fromkeys(["loc", "scale", "noise"], jnp.zeros(size))
    return vectors | {"loading": jnp.zeros((size, size))}


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

    @partial(jax.vmap, in_axes=(0, None))
    def derivatives(y, rng_key):
        gradient, product = jax.linearize(jax.grad(lambda y: log_density(y, rng_key)), y)
        return gradient, lax.map(product, jnp.eye(size), batch_size=_BATCH)

    def step(state, inputs):
        mean, precision = state
        rate, draw_key, model_key = inputs
        root = jnp.linalg.cholesky(precision)
        offset = solve_triangular(root.T, random.normal(draw_key, (size,)))
        sides = derivatives(mean + jnp.stack([offset, -offset]), model_key)
        gradient, hessian = (pair.mean(axis=0) for pair in sides)
        newton = cho_solve((root, True), gradient)
        # By at most ``rate`` standard deviations, in the mean of squares over all directions.
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
    """The ELBO of a Normal, up to a constant."""
    root = jnp.linalg.cholesky(precision)
    draw_key, model_key = random.split(rng_key)
    noise = random.normal(draw_key, (_JUDGING_DRAWS, mean.size))

    def at(inputs):
        draw, key = inputs
        return log_density(mean + solve_triangular(root.T, draw), key)

    keys = random.split(model_key, _JUDGING_DRAWS)
    mean_log_density = lax.map(at, (noise, keys), batch_size=_BATCH).mean()
    return mean_log_density - jnp.log(jnp.diag(root)).sum()


def _deviations(precision: jax.Array) -> jax.Array:
    """Standard deviations of coordinates."""
    root = jnp.linalg.cholesky(precision)
    inverse = solve_triangular(root, jnp.eye(len(precision)), lower=True)
    return jnp.sqrt(jnp.square(inverse).sum(axis=0))


def _hierarchy(precision: jax.Array) -> dict[str, jax.Array]:
    """Loading and noise that have this precision, of coordinates whose variances are one."""
    given_others = 1.0 / jnp.sqrt(jnp.diag(precision))
    values, vectors = jnp.linalg.eigh(precision * given_others * given_others[:, None])
    largest = jnp.max(values)
    values = jnp.maximum(values, len(values) * jnp.finfo(values.dtype).eps * largest)
    noise = given_others * jnp.sqrt((1.0 - _SHARE) / largest)
    gains = largest / ((1.0 - _SHARE) * values) - 1.0
    return {"loading": noise[:, None] * vectors * jnp.sqrt(gains), "noise": noise}
