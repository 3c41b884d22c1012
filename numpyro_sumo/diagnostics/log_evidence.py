"""The log-evidence of a model, with all that is needed to know how far to trust it."""

from collections.abc import Callable
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
from numpyro_sumo.programs.sites import Params

#: Log-weights behind each Pareto k-hat: its own error is then about 0.05.
_NUM_WEIGHTS = 4_000

_DEFAULT = MultilevelSUMO(8)


class LogEvidence(NamedTuple):
    """Estimates of log p(x), in nats.

    :param mean: of the estimates.
    :param standard_error: of that mean.
    :param pareto_k: shape of the upper tail of the importance weights (Vehtari et al. 2024). Up to
        0.5 their variance is finite and standard errors are what they seem; beyond 0.7 the guide
        misses where the posterior is, and neither mean nor standard error is to be trusted. −∞
        where all weights are the same; NaN where elements are subsampled, since then it would be
        the tail of the data.
    :param mean_draws: expected number of log-weights behind each estimate.
    :param per_datum: the same for each element of the data plates, with arrays of their shape; None
        where there is one weight for all, or where elements are subsampled.
    """

    mean: Any
    standard_error: Any
    pareto_k: Any
    mean_draws: float
    per_datum: "LogEvidence | None" = None


def log_evidence(
    rng_key: jax.Array,
    model: Callable,
    guide: Callable,
    params: Params,
    *args: Any,
    estimator: ImportanceLoss = _DEFAULT,
    num_estimates: int = 1_000,
    batch_size: int = 100,
    progress_bar: bool = True,
    **kwargs: Any,
) -> LogEvidence:
    r"""Estimates log p(x), or the log normaliser of a model without observed sites.

    Independent estimates are averaged, a batch at a time: memory is that of one batch. Besides them
    4,000 single log-weights are drawn for the Pareto k-hat. Where weights can be zero, choose
    ``num_particles`` so large that no estimate rests on zeros alone, or the mean is −∞.

    For the *score*, the gradient of log p(x) with respect to the data, differentiate a single
    estimate and average: it is unbiased as well.

    :param rng_key: a key.
    :param model: the model, with x among its observed sites.
    :param guide: the proposal for its latent sites.
    :param params: values of the param sites of both.
    :param args: arguments of both, as are ``kwargs``.
    :param estimator: a loss that stands on its own; :class:`~numpyro_sumo.IWELBO` gives a lower
        bound, the others log p(x) itself.
    :param num_estimates: an integer ≥ 2.
    :param batch_size: estimates evaluated together.
    :param progress_bar: whether to show one.
    :raises ValueError: if model and guide do not fit each other, for params that are not theirs, or
        for options outside these.

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
    >>> loss = SUMO()
    >>> score = jax.grad(lambda x: loss.log_evidence(jax.random.key(1), {}, model, guide, x))(x)
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

    from numpyro_sumo.diagnostics.arviz import pareto_k

    def batches(estimator, rng_key, total, description):
        """Estimates and scales, a batch at a time."""
        batch = min(batch_size, total)
        run = jax.jit(lambda key: estimator.sample_estimates(key, programs, batch))
        with tqdm(total=total, desc=description, disable=not progress_bar) as bar:
            for index in range(math.ceil(total / batch)):
                count = min(batch, total - index * batch)
                values, scales = run(random.fold_in(rng_key, index))
                yield np.asarray(values, np.float64)[:count], np.asarray(scales)[:count]
                bar.update(count)

    weights_key, estimates_key = random.split(rng_key)
    totals, moments, whole = [], _Moments(), True
    for values, scales in batches(estimator, estimates_key, num_estimates, "log-evidence"):
        totals.append((values * scales).reshape(len(values), -1).sum(axis=1))
        moments.add(values)
        whole &= bool(np.all(scales == 1.0))
    pairs = batches(IWELBO(1, data_axes=estimator.data_axes), weights_key, _NUM_WEIGHTS, "weights")
    log_weights = np.concatenate([values for values, _ in pairs])
    pareto_ks = pareto_k(np.moveaxis(log_weights, 0, -1)) if whole else np.array(np.nan)
    total = np.concatenate(totals)
    finite = bool(np.all(np.isfinite(total)))
    per_datum = None
    if whole and log_weights.ndim > 1:
        mean, error = moments.mean_and_error()
        per_datum = LogEvidence(mean, error, pareto_ks, estimator.mean_draws)
    return LogEvidence(
        float(total.mean()),
        float(total.std(ddof=1) / math.sqrt(num_estimates)) if finite else math.inf,
        float(np.max(pareto_ks)),
        estimator.mean_draws,
        per_datum,
    )


class _Moments:
    """Mean and standard error along the leading axis, of values that come in batches."""

    def __init__(self):
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    @np.errstate(invalid="ignore")  # −∞ less −∞: the mean is −∞, its error NaN
    def add(self, values: np.ndarray) -> None:
        count, mean = len(values), values.mean(axis=0)
        total, delta = self.count + count, mean - self.mean
        self.squares += ((values - mean) ** 2).sum(axis=0)
        self.squares += delta**2 * self.count * count / total
        self.mean += delta * count / total
        self.count = total

    def mean_and_error(self) -> tuple[np.ndarray, np.ndarray]:
        return self.mean, np.sqrt(self.squares / (self.count - 1) / self.count)
