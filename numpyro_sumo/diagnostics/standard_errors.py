"""Standard errors of maximum-likelihood estimates of a model's parameters."""

from dataclasses import replace
from typing import Any
import warnings

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.losses import IWELBO, MultilevelSUMO
from numpyro_sumo.programs.check_params import check_params_of_both
from numpyro_sumo.programs.model_params import ModelParams
from numpyro_sumo.programs.programs import Programs, at_full_size
from numpyro_sumo.programs.sites import Params, Program

from .clusters import cluster_of_each, summed_by_cluster
from .derivatives import Derivatives, estimate_derivatives, sample_derivatives
from .information import check_information, inverse_information, newton_step, sandwich
from .summaries import LARGEST_PARETO_K
from .wald import StandardErrors, WaldSource

#: Leaving one out says something of the error from about this number on.
_FEWEST_ESTIMATES = 10

#: Log-weights of each datum for k-hat, whose standard error is then about 0.1.
_NUM_WEIGHTS = 1_000

#: Distance to the maximum, in standard errors, from which intervals are misleading.
_FAR = 0.5

_DEFAULT = MultilevelSUMO(8)


def standard_errors(
    rng_key: jax.Array,
    model: Program,
    guide: Program,
    params: Params,
    *args: Any,
    estimator: MultilevelSUMO = _DEFAULT,
    num_estimates: int = 100,
    batch_size: int = 10,
    level: float = 0.95,
    robust: bool = False,
    clusters: Any = None,
    progress_bar: bool = True,
    **kwargs: Any,
) -> StandardErrors:
    r"""Standard errors, intervals and scores of the *model's* parameters, at their maximum.

    .. math::
        A = -\sum_i \nabla^2 \log p_\theta(x_i), \qquad
        B = \sum_i s_i s_i^\top, \quad s_i = \nabla \log p_\theta(x_i)

    ``se`` are from :math:`A^{-1}`, the inverse observed information, and ``se_sandwich`` from
    :math:`A^{-1} B A^{-1}`, which stays right in large samples if the model is not. A, the
    :math:`s_i` and B are estimated *without bias*: by first and second derivatives of estimates of
    log p(x) at draws that do not depend on θ, and for B by products of independent estimates. What
    is left is Monte Carlo error: ``mc_se`` measures that of ``se``, by leaving out one estimate
    after another, and falls as one over the root of ``num_estimates``.

    All of it is computed in unconstrained space (a positive parameter is its logarithm) and mapped
    back by the delta method. The interval of a constrained parameter is symmetric in unconstrained
    space, so that it stays inside the support; where a constraint ties elements together (a
    simplex), it is symmetric around the estimate. ``errors.of(function)`` gives the table of any
    function of the parameters.

    Data are the elements of the plates that enclose all sites, or what ``data_axes`` of the
    estimator splits; subsampled plates are run with all their elements. Without such a plate there
    is one joint likelihood: the observed information still holds, the sandwich needs independent
    data. Elements without observations, masked out or of a group that no datum belongs to, have a
    score of zero and add nothing to A and B. A param site of both model and guide is a parameter of
    the model; the guide keeps its value.

    No factor for small samples is applied. With the scores as an array, other sandwiches are two
    lines::

        bread = numpy.linalg.inv(errors.information)
        covariance = bread @ meat(errors.scores) @ bread  # of errors.free_names

    :param model: the model; its param sites are the parameters.
    :param guide: the proposal, with a known density (an AutoGuide, for example).
    :param params: values of the param sites of both, the model's at the maximum of log p(x).
    :param args: arguments of both, as are ``kwargs``.
    :param estimator: a :class:`~numpyro_sumo.MultilevelSUMO`: products need its finite variance.
    :param num_estimates: R, an integer ≥ 10. The memory is R × data × parameters numbers.
    :param batch_size: estimates evaluated at a time.
    :param level: of the intervals, in (0, 1).
    :param robust: whether z and intervals are those of the sandwich.
    :param clusters: a label for each datum: scores are summed within clusters before products are
        taken, so that the sandwich allows for dependence inside clusters.
    :param progress_bar: whether to show a progress bar.
    :return: a table that prints, with covariances, scores and information.
    :raises ValueError: if model and guide do not match, for params that are not theirs or at the
        edge of their support, a model without param sites, options outside these ranges, an
        estimate that is not finite, or an information matrix that is not positive definite (the
        line names the combination of parameters that is not identified).
    :warns UserWarning: if the k-hat of the weights is larger than 0.7, or Newton's step to the
        maximum longer than half a standard error.

    **References:** Shi and Cornish 2021, *On multilevel Monte Carlo unbiased gradient estimation
    for deep latent variable models*, for the estimates; White 1982, *Maximum likelihood estimation
    of misspecified models*, for the sandwich.

    >>> import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import standard_errors
    >>> def model(x):
    ...     mu = numpyro.param("mu", 0.0)
    ...     with numpyro.plate("data", len(x)):
    ...         z = numpyro.sample("z", dist.Normal(mu, 1.0))
    ...         numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> def guide(x):
    ...     with numpyro.plate("data", len(x)):
    ...         numpyro.sample("z", dist.Normal(0.4 * x, 0.8))
    >>> x = jnp.array([-1.0, 0.5, 2.0, 0.1])
    >>> errors = standard_errors(
    ...     jax.random.key(0), model, guide, {"mu": x.mean()}, x, progress_bar=False
    ... )
    >>> bool(abs(errors.se[0] - (2.0 / 4) ** 0.5) < 4 * errors.mc_se[0])  # x ~ N(mu, 2)
    True
    >>> errors.scores.shape
    (4, 1)
    >>> table = errors.of(lambda params: jnp.exp(params["mu"]))
    """
    _check_options(estimator, num_estimates, level)
    check_positive_integer("batch_size", batch_size)
    programs = Programs(at_full_size(model), at_full_size(guide), params, args, kwargs)
    check_params_of_both(programs)
    of_model = ModelParams.of(programs)
    batch = min(batch_size, num_estimates)
    run = jax.jit(
        lambda key: estimate_derivatives(
            key, batch, estimator=estimator, programs=programs, params=of_model
        )
    )
    weights_key, estimates_key = random.split(rng_key)
    index = cluster_of_each(_shape(run, estimates_key, programs), clusters, robust)
    found = sample_derivatives(estimates_key, run, num_estimates, batch, progress_bar)
    errors = summarize(found, of_model, level=level, robust=robust, clusters=index)
    errors = replace(errors, pareto_k=_pareto_k(weights_key, programs, estimator, batch_size))
    _warn(errors)
    return errors


def summarize(
    found: Derivatives, params: ModelParams, *, level: float, robust: bool, clusters: Any
) -> StandardErrors:
    """Standard errors from independent estimates of the derivatives.

    :param clusters: number of each datum's cluster, or None if there is to be no sandwich.
    """
    precision = float(jnp.finfo(params.unconstrained.dtype).eps)
    check_information(found.informations, params.free_names, precision)
    bread = inverse_information(found.informations)
    robust_covariances = None
    if clusters is not None:
        robust_covariances = sandwich(bread, summed_by_cluster(found.scores, clusters))
    source = WaldSource(params, bread, robust_covariances, level, robust)
    columns = source.of_params()
    _check_errors(columns)
    step, step_error = newton_step(bread, found.scores)
    free_se = np.sqrt(np.diag(bread.of_all))
    log_likelihoods = found.log_likelihoods
    return StandardErrors(
        **columns,
        covariance=source.jacobian @ bread.of_all @ source.jacobian.T,
        covariance_sandwich=None
        if robust_covariances is None
        else source.jacobian @ robust_covariances.of_all @ source.jacobian.T,
        log_likelihood=float(log_likelihoods.mean()),
        log_likelihood_mc_se=float(log_likelihoods.std(ddof=1) / len(log_likelihoods) ** 0.5),
        free_names=params.free_names,
        information=found.informations.mean(axis=0),
        scores=found.scores.mean(axis=0),
        to_maximum=step / free_se,
        to_maximum_mc_se=step_error / free_se,
        _source=source,
    )


def _check_options(estimator: Any, num_estimates: Any, level: Any) -> None:
    if not isinstance(estimator, MultilevelSUMO):
        raise ValueError(
            "Expected estimator to be a MultilevelSUMO, whose derivatives have finite variance; "
            f"got {estimator!r}. Pass MultilevelSUMO(8), for instance."
        )
    check_positive_integer("num_estimates", num_estimates)
    if num_estimates < _FEWEST_ESTIMATES:
        raise ValueError(
            f"Expected num_estimates >= {_FEWEST_ESTIMATES}, for the Monte Carlo error of a "
            f"covariance; got {num_estimates}. Raise it."
        )
    if not 0.0 < level < 1.0:
        raise ValueError(f"Expected level in (0, 1); got {level!r}. Pass 0.95, for instance.")


def _shape(run: Any, rng_key: jax.Array, programs: Programs) -> tuple[int, ...]:
    """The shape ``(1 + P, num_estimates, *data)`` of a batch of derivatives.

    :raises ValueError: for arguments that are a batch of the data.
    """
    try:
        by_datum, _ = run.eval_shape(rng_key)
    except Exception as error:
        cause = str(error).partition("\n")[0].rstrip(".")
        subsampled = any(p.is_subsampled for p in (programs.model, programs.guide))  # type: ignore[attr-defined]
        if not subsampled or cause.startswith("Expected"):
            raise
        raise ValueError(
            "Expected model and guide that can be run with all elements of their plates, for each "
            f'has a score; run so, they raise "{cause}". Pass all data, and take batches by '
            "numpyro.subsample or the plate's indices."
        ) from None
    return tuple(by_datum.shape)


def _check_errors(columns: dict[str, Any]) -> None:
    """Refuses variances that Monte Carlo error has made negative."""
    for name in ("se", "mc_se", "se_sandwich", "mc_se_sandwich"):
        if columns[name] is not None and not np.all(np.isfinite(columns[name])):
            raise ValueError(
                f"Expected estimates precise enough for a covariance; {name} is "
                f"{np.array2string(columns[name], precision=3)}. Raise num_estimates, or the "
                "estimator's num_particles."
            )


def _pareto_k(
    rng_key: jax.Array, programs: Programs, estimator: MultilevelSUMO, batch_size: int
) -> float:
    """k-hat of the importance weights, the largest of all data."""
    # Imported here because ArviZ takes seconds to import.
    from .pareto_k import pareto_k

    single = IWELBO(1, data_axes=estimator.data_axes)
    draw = jax.jit(lambda key: single.sample_estimates(key, programs, batch_size)[0])
    keys = random.split(rng_key, -(-_NUM_WEIGHTS // batch_size))
    log_weights = np.concatenate([np.asarray(draw(key), np.float64) for key in keys])
    return float(np.max(pareto_k(np.moveaxis(log_weights, 0, -1))))


def _warn(errors: StandardErrors) -> None:
    """Warns of a guide that misses part of a posterior, and of params far from the maximum."""
    if errors.pareto_k > LARGEST_PARETO_K:
        warnings.warn(
            f"Expected a k-hat of weights up to {LARGEST_PARETO_K}; it is {errors.pareto_k:.2f}: "
            "trust neither the standard errors nor their Monte Carlo errors. "
            "Choose a guide with wider tails, or train it longer.",
            stacklevel=3,
        )
    excess = np.abs(errors.to_maximum) - 3.0 * errors.to_maximum_mc_se
    worst = int(np.argmax(excess))
    if excess[worst] > _FAR:
        warnings.warn(
            "Expected params at the maximum of log p(x); Newton's step to it changes "
            f"'{errors.free_names[worst]}' by {errors.to_maximum[worst]:.2g} standard errors. "
            "Train longer, and on an unbiased loss.",
            stacklevel=3,
        )
