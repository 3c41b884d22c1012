"""The log-evidence of a model with its standard error and the k-hat of its weights."""

import math
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

import jax
from jax import random

from numpyro_sumo.checks import check_positive_integer, check_sample_size
from numpyro_sumo.losses import IWELBO, MultilevelSUMO
from numpyro_sumo.losses.base import ImportanceLoss
from numpyro_sumo.programs.check_params import check_params_of_both
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Program

from .summaries import check_log_weights, mean_and_error

#: Number of log-weights for each Pareto k-hat, whose standard error is then about 0.05.
_NUM_WEIGHTS = 4_000

_DEFAULT = MultilevelSUMO(8)


class LogEvidence(NamedTuple):
    """Estimates of log p(x), in nats.

    :param mean: mean of the estimates.
    :param standard_error: standard error of that mean; ∞ where the mean is not finite.
    :param pareto_k: shape of the upper tail of the importance weights (Vehtari et al. 2024). Up to
        0.5 their variance is finite and the standard error is reliable; above 0.7 the guide misses
        part of the posterior: trust neither mean nor standard error. −∞ where all weights are
        equal; NaN for subsampled plates, where the weights also vary with the subsample.
    :param mean_draws: expected number of log-weights for each estimate.
    :param per_datum: LogEvidence with arrays of the plates' shape, one entry for each element; None
        if there is one joint weight, or if elements are subsampled.
    """

    mean: Any
    standard_error: Any
    pareto_k: Any
    mean_draws: float
    per_datum: "LogEvidence | None" = None


def log_evidence(
    rng_key: jax.Array,
    model: Program,
    guide: Program,
    params: Params,
    *args: Any,
    estimator: ImportanceLoss = _DEFAULT,
    num_estimates: int = 1_000,
    batch_size: int = 100,
    progress_bar: bool = True,
    **kwargs: Any,
) -> LogEvidence:
    r"""Estimates log p(x) in nats, or the log normaliser of a model without observed sites.

    Averages independent estimates, evaluated a batch at a time, and draws 4,000 single log-weights
    for the Pareto k-hat. If weights can be zero, choose a larger ``num_particles``: one estimate
    with only zero weights makes the mean −∞.

    For the *score*, the gradient of log p(x) with respect to the data, average the gradients of
    single estimates: they are unbiased too.

    :param model: the model, with x among its observed sites.
    :param guide: the proposal, with a known density (an AutoGuide, for example).
    :param params: values of the param sites of both.
    :param args: arguments of both, as are ``kwargs``.
    :param estimator: an importance-weighted loss; :class:`~numpyro_sumo.IWELBO` estimates a lower
        bound, :class:`~numpyro_sumo.SUMO` and :class:`~numpyro_sumo.MultilevelSUMO` log p(x).
    :param num_estimates: an integer ≥ 2.
    :param batch_size: estimates evaluated at a time.
    :param progress_bar: whether to show a progress bar.
    :return: the mean in nats, its standard error and k-hat.
    :raises ValueError: if model and guide do not match, for a HierarchicalGuide (use
        :func:`~numpyro_sumo.certify`), for params that are not theirs, for options outside these
        ranges, or if a log-weight is NaN or +∞.

    **Reference:** Shi and Cornish 2021, *On multilevel Monte Carlo unbiased gradient estimation for
    deep latent variable models*, for the default estimator.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import SUMO, log_evidence
    >>> def model(x):
    ...     with numpyro.plate("data", len(x)):
    ...         z = numpyro.sample("z", dist.Normal())
    ...         numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with numpyro.plate("data", len(x)):
    ...         numpyro.sample("z", dist.Normal(0.4 * x, 0.8))
    >>> x = jnp.array([-1.0, 0.5])
    >>> evidence = log_evidence(jax.random.key(0), model, guide, {}, x, progress_bar=False)
    >>> exact = dist.Normal(0.0, 2.0**0.5).log_prob(x)
    >>> bool(abs(evidence.mean - exact.sum()) < 4 * evidence.standard_error)
    True
    >>> evidence.per_datum.mean.shape
    (2,)
    >>> loss = SUMO(data_axes=0)
    >>> score = jax.grad(lambda x: -loss.loss(jax.random.key(1), {}, model, guide, x))(x)
    """
    check_sample_size("num_estimates", num_estimates)
    check_positive_integer("batch_size", batch_size)
    if not isinstance(estimator, ImportanceLoss):
        raise ValueError(
            f"Expected estimator to be one of the importance-weighted losses; got {estimator!r}. "
            "Pass MultilevelSUMO(8) or SUMO(8), for instance."
        )
    programs = Programs(model, guide, params, args, kwargs)
    check_params_of_both(programs)
    # Imported here because ArviZ takes seconds to import.
    from .pareto_k import pareto_k

    def sample(
        rng_key: jax.Array, loss: ImportanceLoss, total: int, what: str
    ) -> tuple[np.ndarray, np.ndarray]:
        batch = min(batch_size, total)
        run = jax.jit(lambda key: loss.sample_estimates(key, programs, batch))
        found = []
        with tqdm(total=total, desc=what, disable=not progress_bar) as bar:
            for index in range(math.ceil(total / batch)):
                values, scales = run(random.fold_in(rng_key, index))
                found.append((np.asarray(values, np.float64), np.asarray(scales)))
                bar.update(min(batch, total - index * batch))
        values, scales = (np.concatenate(arrays)[:total] for arrays in zip(*found))
        return values, scales

    weights_key, estimates_key = random.split(rng_key)
    values, scales = sample(estimates_key, estimator, num_estimates, "log-evidence")
    single = IWELBO(1, data_axes=estimator.data_axes)
    log_weights, _ = sample(weights_key, single, _NUM_WEIGHTS, "weights")
    check_log_weights(log_weights)
    check_log_weights(values, "estimate")

    pareto_ks, per_datum = np.array(np.nan), None
    if np.all(scales == 1.0):
        pareto_ks = pareto_k(np.moveaxis(log_weights, 0, -1))
        if values.ndim > 1:
            per_datum = LogEvidence(*mean_and_error(values), pareto_ks, estimator.mean_draws)
    totals = (values * scales).reshape(num_estimates, -1).sum(axis=1)
    mean, error = map(float, mean_and_error(totals))
    return LogEvidence(mean, error, float(np.max(pareto_ks)), estimator.mean_draws, per_datum)
