"""Leave-one-out cross-validation of a variational fit, by importance sampling from its guide."""

from typing import NamedTuple
import warnings

import numpy as np
from scipy.special import logsumexp

from numpyro_sumo.checks import check_sample_size
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K
from numpyro_sumo.programs.sites import scale_of

from .certificate import Certificate
from .model_groups import ModelGroups


class LOO(NamedTuple):
    """Expected log predictive density for new data, in nats.

    :param elpd: the sum of :math:`\\log p(y_i \\mid y_{-i})` over all data.
    :param elpd_se: its standard error over data: how much it would differ for other data. With a
        subsample of the data, the error of the subsample is included.
    :param monte_carlo_se: its standard error over draws of the guide.
    :param p_loo: effective number of parameters.
    :param pointwise: :math:`\\log p(y_i \\mid y_{-i})` of each datum, or of those in ``indices``.
    :param pareto_k: k-hat of each of them; above 0.7 do not trust it.
    :param indices: places of the data that were evaluated, among all observed values.
    """

    elpd: float
    elpd_se: float
    monte_carlo_se: float
    p_loo: float
    pointwise: np.ndarray
    pareto_k: np.ndarray
    indices: np.ndarray

    def __str__(self) -> str:
        poor = int((~(self.pareto_k <= LARGEST_PARETO_K)).sum())
        return (
            f"elpd {self.elpd:.2f} ± {self.elpd_se:.2f} nats, of {len(self.pointwise)} data; "
            f"p_loo {self.p_loo:.2f}; {poor} with k-hat above {LARGEST_PARETO_K}"
        )


def loo(certificate: Certificate, *, num_data: int | None = None, seed: int = 0) -> LOO:
    r"""PSIS-LOO of a variational fit, with the weights of the guide's draws in it.

    .. math::
        p(y_i \mid y_{-i}) \approx
        \frac{\sum_s r_{si}\, p(y_i \mid z_s)}{\sum_s r_{si}}, \qquad
        r_{si} = \frac{w_s}{p(y_i \mid z_s)}, \qquad w_s = \frac{p(y, z_s)}{q(z_s)}

    where the ratios :math:`r_{si}` are Pareto-smoothed for each datum. The guide need not be the
    posterior: what it lacks is in its weights :math:`w_s`. A datum is a value of an observed site,
    a vector if the site is multivariate; masked ones are left out. For ``arviz.compare`` pass
    :func:`~numpyro_sumo.to_arviz` of the certificates.

    :param certificate: of the fit, with its draws.
    :param num_data: for large data, evaluate so many of them (at least 2), chosen at random, and
        estimate the sum over all by the difference from log p(yᵢ | posterior mean).
    :param seed: for the choice of ``num_data``.
    :return: estimates in nats.
    :raises ValueError: for a model without observed sites, with sites that are summed out, or with
        plates around all sites, where leaving one out leaves its latents out as well.
    :warns UserWarning: if a k-hat is larger than 0.7.

    **References:** Vehtari et al. 2017, *Practical Bayesian model evaluation using leave-one-out
    cross-validation and WAIC*, section 2; Magnusson et al. 2019, *Bayesian leave-one-out
    cross-validation for large data*, eq. (6) for the weights and section 2.3 for the subsample.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import certify, loo
    >>> def model(y):
    ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("data", len(y)):
    ...         numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
    >>> def guide(y):
    ...     numpyro.sample("x", dist.Normal(0.5, 0.6))
    >>> y = jax.numpy.array([0.3, 1.2])
    >>> result = loo(certify(jax.random.key(0), model, guide, {}, y))
    >>> exact = dist.Normal(y[::-1] / 2, 1.5**0.5).log_prob(y)  # p(y1 | y2) and p(y2 | y1)
    >>> bool(abs(result.elpd - exact.sum()) < 4 * result.monte_carlo_se)
    True
    """
    if num_data is not None:
        check_sample_size("num_data", num_data)
    latents = certificate.latents
    model = ModelGroups(certificate.programs, {name: v[0] for name, v in latents.items()})
    _check(certificate, model)
    log_weights = certificate.log_weights
    data = model.unmasked
    at_mean = model.log_likelihood_of(_posterior_mean(certificate), data)[0]
    chosen = np.arange(len(data))
    if num_data is not None and num_data < len(data):
        chosen = np.sort(np.random.default_rng(seed).choice(len(data), num_data, replace=False))
    log_likelihood = model.log_likelihood_of(latents, data[chosen])
    _check_likelihoods(log_likelihood)
    pointwise, pareto_k, influence = _leave_one_out(log_weights, log_likelihood)
    with_all = logsumexp(log_weights[:, None] - logsumexp(log_weights) + log_likelihood, axis=0)
    elpd, elpd_se = _total(pointwise, at_mean, chosen)
    if poor := int((~(pareto_k <= LARGEST_PARETO_K)).sum()):
        warnings.warn(
            f"Expected a k-hat up to {LARGEST_PARETO_K} for each datum; it is larger for {poor} of "
            f"{len(pareto_k)}, which dominate what is learned. Refit without them, or use K-fold "
            "cross-validation.",
            stacklevel=2,
        )
    share = len(data) / len(chosen)
    return LOO(
        elpd,
        elpd_se,
        float(share * np.sqrt((influence**2).sum())),
        float(share * (with_all - pointwise).sum()),
        pointwise,
        pareto_k,
        data[chosen],
    )


def _check(certificate: Certificate, model: ModelGroups) -> None:
    if not model.observed:
        raise ValueError(
            "Expected a model with observed sites, which are left out one by one; it has none. "
            "Condition it on data by obs=..."
        )
    if model.sums_out_sites:
        raise ValueError(
            "Expected a model whose data are independent given its latent sites; its discrete "
            "sites are summed out, which couples them. Write the sum as a mixture distribution."
        )
    scaled = [n for n, site in model.observed.items() if not np.all(scale_of(site) == 1.0)]
    if scaled:
        raise ValueError(
            f"Expected observed sites without a scale, whose data count once; {scaled} have one. "
            "Drop handlers.scale and subsample_size."
        )
    if certificate.per_datum is not None:
        raise ValueError(
            "Expected latent sites that data have in common; plates enclose all sites, so that "
            "each datum has its own. Its leave-one-out density is its evidence: "
            "certificate.per_datum.log_evidence."
        )


def _check_likelihoods(log_likelihood: np.ndarray) -> None:
    impossible = int((~np.isfinite(log_likelihood)).any(axis=1).sum())
    if impossible:
        raise ValueError(
            f"Expected draws under which every datum has a density; {impossible} of "
            f"{len(log_likelihood)} give one of them zero or NaN. Give the guide the support that "
            "the data leave."
        )


def _posterior_mean(certificate: Certificate) -> dict[str, np.ndarray]:
    """The mean of each latent site under the weights, with a leading axis of one."""
    weights = certificate.weights.smoothed
    return {
        name: np.tensordot(weights, values, axes=1).astype(values.dtype)[None]
        for name, values in certificate.latents.items()
    }


def _leave_one_out(
    log_weights: np.ndarray, log_likelihood: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """log p(yᵢ | y₋ᵢ) and k-hat of each column of log-likelihoods; the influence of each draw.

    The influence is to first order on the sum over data, whose errors have the draws in common.
    """
    from numpyro_sumo.diagnostics.pareto_k import pareto_smoothed

    ratios, pareto_k = pareto_smoothed((log_weights[:, None] - log_likelihood).T)
    values = logsumexp(ratios + log_likelihood.T, axis=1)
    relative = np.exp(log_likelihood.T - values[:, None])
    return values, pareto_k, (np.exp(ratios) * (relative - 1.0)).sum(axis=0)


def _total(pointwise: np.ndarray, at_mean: np.ndarray, chosen: np.ndarray) -> tuple[float, float]:
    """The sum over all data and its standard error, from the chosen ones."""
    count, number = len(at_mean), len(chosen)
    of_data = count * pointwise.var(ddof=1) if number > 1 else np.inf
    if number == count:
        return float(pointwise.sum()), float(np.sqrt(of_data))
    differences = pointwise - at_mean[chosen]
    total = at_mean.sum() + count * differences.mean()
    of_subsample = count**2 * (1.0 - number / count) * differences.var(ddof=1) / number
    return float(total), float(np.sqrt(of_subsample + of_data))
