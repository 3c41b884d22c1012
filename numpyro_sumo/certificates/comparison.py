"""The difference of two certificates of one model, with its standard error."""

from typing import NamedTuple

import numpy as np

from numpyro_sumo.diagnostics.summaries import mean_and_error

from .certificate import Certificate


class Comparison(NamedTuple):
    """Estimates of the first guide less those of the second, in nats, with standard errors.

    :param elbo: above zero where the first guide is closer to the posterior: its KL is smaller by
        as much (for hierarchical guides, the upper bound on its KL).
    :param log_evidence: zero within its error if both guides cover the posterior; otherwise the
        guide with the smaller one misses part of it.
    """

    elbo: float
    elbo_se: float
    log_evidence: float
    log_evidence_se: float

    def __str__(self) -> str:
        return (
            f"ELBO, first less second: {self.elbo:.3f} ± {self.elbo_se:.3f} nats; log-evidence: "
            f"{self.log_evidence:.3f} ± {self.log_evidence_se:.3f} nats"
        )


def compare_certificates(first: Certificate, second: Certificate) -> Comparison:
    """Which of two guides is closer to the posterior, and whether one misses part of it.

    The errors are those of the differences: if both certificates were made with one key, guides of
    one kind have draws in common (common random numbers), whose noise cancels. The errors of not
    knowing the tails of the two guides' weights do not cancel.

    :param first: the certificate of a guide; likewise ``second``, of the same model, data and
        number of draws.
    :return: differences in nats.
    :raises ValueError: for other numbers of draws or other latent sites.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import certify, compare_certificates
    >>> def model():
    ...     numpyro.sample("x", dist.Normal())
    >>> def close():
    ...     numpyro.sample("x", dist.Normal(0.1, 1.0))
    >>> def far():
    ...     numpyro.sample("x", dist.Normal(0.4, 1.0))
    >>> certificates = (certify(jax.random.key(0), model, guide, {}) for guide in (close, far))
    >>> comparison = compare_certificates(*certificates)
    >>> bool(abs(comparison.elbo - (0.4**2 - 0.1**2) / 2) < 4 * comparison.elbo_se)
    True
    """
    if first.num_samples != second.num_samples:
        raise ValueError(
            f"Expected certificates of as many draws; got {first.num_samples} and "
            f"{second.num_samples}. Pass one num_samples, and one key, to certify."
        )
    if first.plated.event_dims.keys() != second.plated.event_dims.keys():
        sites = [sorted(each.plated.event_dims) for each in (first, second)]
        raise ValueError(
            f"Expected certificates of one model; their latent sites are {sites[0]} and {sites[1]}."
            " Compare models by their log_evidence."
        )
    _, evidence_error = mean_and_error(first.weights.influence - second.weights.influence)
    of_tails = [each.weights.total_tail_error for each in (first, second)]
    elbo, elbo_error = mean_and_error(first.log_weights - second.log_weights)
    difference = first.log_evidence - second.log_evidence
    evidence_error = np.linalg.norm([evidence_error, *of_tails])
    return Comparison(float(elbo), float(elbo_error), difference, float(evidence_error))
