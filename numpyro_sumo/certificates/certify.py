"""Certificates: KL, log-evidence and k-hat of any trained guide, from its own draws."""

from dataclasses import replace
from typing import Any
import warnings

import numpy as np

import jax
from jax import lax, random

from numpyro_sumo._compat import jit_once
from numpyro_sumo.checks import check_sample_size
from numpyro_sumo.diagnostics.summaries import LARGEST_PARETO_K, check_log_weights, mean_and_error
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.proposal import WeightedDraw
from numpyro_sumo.guides.proposals import proposal_of
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Program
from numpyro_sumo.programs.validation import Inspection, refuse_subsamples

from .certificate import Certificate
from .certified_draws import PerDatum
from .plated import Plated
from .weights import WeightSummary, summarise_weights, systematic_resampling


def certify(
    rng_key: jax.Array,
    model: Program,
    guide: Program,
    params: Params,
    *args: Any,
    num_samples: int = 10_000,
    num_particles: int = 64,
    defensive_share: float = DEFENSIVE_SHARE,
    batch_size: int = 100,
    **kwargs: Any,
) -> Certificate:
    r"""Says how good a trained guide is, and corrects its draws by their weights.

    .. math::
        w_i = p(x, z_i) / q(z_i), \qquad \hat Z = \frac{1}{N} \sum_i w_i, \qquad
        \mathrm{KL} = \log Z - \mathrm{ELBO}

    For every guide whose density is known, these weights are exact: NumPyro's automatic guides
    (AutoLaplaceApproximation by its Normal), flows, and guides written by hand. For a
    :class:`~numpyro_sumo.HierarchicalGuide`, q is estimated: q̂ averages over the u that generated z
    and n draws of the reverse model mixed with a share of the sampler's own u. The weights are
    still unbiased for integrals over p with any reverse model
    (:class:`~numpyro_sumo.guides.extended_draws.ExtendedDraws`); a poor reverse model adds variance
    and widens the gap between the two bounds on ELBO and KL.

    If plates enclose all sites, each of their elements has its own latents, weights and evidence:
    the certificate adds up their estimates, has the largest k-hat and the smallest ESS among them,
    and resamples each by itself.

    All of this is measured at draws of the guide. It detects a wrong shape, light tails and a poor
    reverse model. It does not detect a mode of the target that the guide *never* draws: k-hat, ESS
    and KL look perfect, and log-evidence is too low by the missing mass (log 2 for one of two equal
    modes). To find such a mode, train again from other initial values (the larger log-evidence
    covers more of the posterior mass), or run long chains of
    :class:`~numpyro_sumo.IndependenceMetropolis` alternating with NUTS.

    :param model: the target. Discrete sites marked ``infer={"enumerate": "parallel"}`` are summed
        out.
    :param guide: the trained guide.
    :param params: values of the param sites of both.
    :param args: arguments of both, as are ``kwargs``.
    :param num_samples: draws of z, an integer ≥ 2.
    :param num_particles: n, draws of u for each z, for a hierarchical guide.
    :param defensive_share: share of the sampler's own u among them, in [0, 1). It bounds what one
        u of low reverse density can add to q̂.
    :param batch_size: draws of z evaluated at a time.
    :return: estimates in nats, draws, and their log-weights. The errors of log-evidence and KL are
        ∞ where the draws do not show that the weights have a mean: with 10,000 draws above a k-hat
        of about 0.8, with 1,000 above 0.65.
    :raises ValueError: if model and guide do not match, for a guide without a density (AutoDelta,
        AutoDAIS), for params of another guide, if the model is subsampled, if a log-weight is NaN
        or +∞, or if all weights are zero.
    :warns UserWarning: if k-hat is larger than 0.7.

    **References:** Vehtari et al. 2024, *Pareto smoothed importance sampling*; Yao et al. 2018,
    *Yes, but did it work?*, section 2; Sobolev and Vetrov 2019, *Importance weighted hierarchical
    variational inference*, section 5, for q̂.

    >>> import jax, optax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import SVI, Trace_ELBO
    >>> from numpyro.infer.autoguide import AutoNormal
    >>> from numpyro_sumo import certify
    >>> def model(y):
    ...     x = numpyro.sample("x", dist.Normal(0.0, 2.0))
    ...     numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
    >>> guide = AutoNormal(model)
    >>> svi = SVI(model, guide, optax.adam(0.03), Trace_ELBO(16))
    >>> params = svi.run(jax.random.key(0), 1_000, 1.3, progress_bar=False).params
    >>> certificate = certify(jax.random.key(1), model, guide, params, 1.3)
    >>> exact = float(dist.Normal(0.0, 5.0**0.5).log_prob(1.3))
    >>> bool(abs(certificate.log_evidence - exact) < 4 * certificate.log_evidence_se)
    True
    >>> certificate.verdict
    'good'
    >>> certificate.resampled["x"].shape
    (10000,)
    """
    check_sample_size("num_samples", num_samples)
    programs = Programs(model, guide, params, args, kwargs)
    proposal = proposal_of(programs, num_particles, defensive_share)
    found = proposal.check()
    refuse_subsamples(found.model.trace)
    proposal = proposal.split(found.data_dims)
    draws_key, resampling_key = random.split(rng_key)
    draws = jit_once(lambda key: proposal.draws(key, num_samples, batch_size))(draws_key)
    complete = jit_once(
        lambda sites: lax.map(programs.with_deterministic, sites, batch_size=batch_size)
    )
    certificate = certificate_of(programs, found, draws, resampling_key, complete)
    if certificate.pareto_k > LARGEST_PARETO_K:
        warnings.warn(
            f"Expected a k-hat of weights up to {LARGEST_PARETO_K}; it is "
            f"{certificate.pareto_k:.2f}, so that log_evidence, KL and resampled draws are not to "
            "be trusted. Train longer or with more particles, or run IndependenceMetropolis with "
            "alternate=NUTS(model).",
            stacklevel=2,
        )
    return replace(certificate, rng_key=rng_key)


def certificate_of(
    programs: Programs, found: Inspection, draws: WeightedDraw, rng_key: jax.Array, complete: Any
) -> Certificate:
    """The certificate of a guide from draws that are weighted already.

    :param found: from the check of the proposal.
    :param rng_key: for systematic resampling.
    :param complete: adds deterministic sites to latent ones, both with a leading axis of draws.
    """
    log_weights = draws.log_weight, draws.log_target - draws.log_below
    below, above = (np.asarray(values, np.float64) for values in log_weights)
    check_log_weights(below)
    weights = summarise_weights(below)
    plated = Plated.of(found)
    chosen = systematic_resampling(float(random.uniform(rng_key)), weights.smoothed)
    latents = jax.tree.map(np.asarray, draws.latents)
    resampled = {n: plated.take(n, values, chosen) for n, values in latents.items()}
    total = lambda values: values.reshape(len(values), -1).sum(axis=1)
    return Certificate(
        **_estimates(total(below), total(above), weights),
        pareto_k=float(np.max(weights.pareto_k)),
        ess=float(np.min(weights.ess)),
        draws=complete(latents),
        resampled=complete(resampled),
        log_weights=np.asarray(total(below)),
        log_target=total(np.asarray(draws.log_target, np.float64)),
        weights=weights,
        chosen=chosen,
        per_datum=_per_datum(weights),
        plated=plated,
        programs=programs,
        rng_key=rng_key,
    )


def _estimates(below: np.ndarray, above: np.ndarray, weights: WeightSummary) -> dict[str, float]:
    """Bounds on ELBO and KL, and log-evidence, with standard errors ``_se``.

    The errors of log-evidence and KL include those of the tails, added in quadrature over data.
    """
    relative, of_tails = weights.influence, weights.total_tail_error
    log_evidence = float(weights.log_evidence.sum())
    estimates: dict[str, tuple[float, np.ndarray]] = {
        "elbo_lower": (below.mean(), below),
        "elbo_upper": (above.mean(), above),
        "log_evidence": (log_evidence, relative),
        "kl_lower": (log_evidence - above.mean(), relative - above),
        "kl_upper": (log_evidence - below.mean(), relative - below),
    }
    values = {name: float(value) for name, (value, _) in estimates.items()}
    errors = {name: float(mean_and_error(each)[1]) for name, (_, each) in estimates.items()}
    for name in ("log_evidence", "kl_lower", "kl_upper"):
        errors[name] = float(np.hypot(errors[name], of_tails))
    return values | {f"{name}_se": error for name, error in errors.items()}


def _per_datum(weights: WeightSummary) -> PerDatum | None:
    if weights.log_evidence.ndim == 0:
        return None
    return PerDatum(*weights[:4])
