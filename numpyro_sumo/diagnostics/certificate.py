"""Certificates: KL, log-evidence and k-hat of a trained hierarchical guide, from its own draws."""

from typing import Any, NamedTuple
import warnings

import numpy as np

import jax
from jax import lax, random

from numpyro_sumo.checks import check_sample_size
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.extended_draws import ExtendedDraw, ExtendedDraws
from numpyro_sumo.guides.hierarchical import HierarchicalGuide, Sites
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Program
from numpyro_sumo.programs.validation import refuse_subsamples

from .summaries import check_log_weights, mean_and_error

#: Largest k-hat at which averages under the weights can be trusted.
LARGEST_PARETO_K = 0.7


class Certificate(NamedTuple):
    """Estimates from draws of a sampler, in nats, with standard errors (``_se``).

    :param elbo_lower: lower bound on E[log p(x) − log q(x)], from an upper bound on log q.
    :param elbo_upper: upper bound on it; far above ``elbo_lower`` where the reverse model is poor.
    :param log_evidence: log Z of the target p; the importance weights are unbiased for Z.
    :param kl_lower: lower bound on KL(q ‖ p/Z): log-evidence minus ``elbo_upper``.
    :param kl_upper: upper bound on it: report this one. Both rely on log-evidence.
    :param pareto_k: k-hat of the weights. Up to 0.5 their variance is finite; above 0.7 do not
        trust log-evidence and resampled draws. If the sampler misses large weights, log-evidence is
        too low, and so are ``kl_lower`` and ``kl_upper``. −∞ where all weights are equal.
    :param ess: (Σw)² / Σw², the effective number of independent draws of p.
    :param draws: draws of q by site, with the model's deterministic sites and a leading axis of
        ``num_samples``.
    :param log_weights: log-weights of these draws, shape ``(num_samples,)``.
    :param resampled: ``num_samples`` of the draws, resampled by Pareto-smoothed weights: close to
        draws of p where k-hat is small. Repeated draws are adjacent.
    """

    elbo_lower: float
    elbo_lower_se: float
    elbo_upper: float
    elbo_upper_se: float
    log_evidence: float
    log_evidence_se: float
    kl_lower: float
    kl_lower_se: float
    kl_upper: float
    kl_upper_se: float
    pareto_k: float
    ess: float
    draws: Sites
    log_weights: jax.Array
    resampled: Sites


def certify(
    rng_key: jax.Array,
    model: Program,
    guide: HierarchicalGuide,
    params: Params,
    *args: Any,
    num_samples: int = 10_000,
    num_particles: int = 64,
    defensive_share: float = DEFENSIVE_SHARE,
    batch_size: int = 100,
    **kwargs: Any,
) -> Certificate:
    r"""Estimates KL and log-evidence of a trained hierarchical guide, and resamples its draws.

    .. math::
        w_i = p(x_i) / \hat q(x_i), \qquad \hat Z = \frac{1}{N} \sum_i w_i, \qquad
        \mathrm{KL} = \log Z - \mathrm{ELBO}

    q̂ averages over the u that generated x and n draws of the reverse model mixed with a share of
    the sampler's own u. The weights are then unbiased for integrals over p with any reverse model
    (:class:`~numpyro_sumo.guides.extended_draws.ExtendedDraws`). A poor reverse model adds variance
    and widens the gap between the two bounds on ELBO and KL.

    All of this is measured at draws of the sampler. It detects a wrong shape, light tails and a
    poor reverse model. It does not detect a mode of the target that the sampler *never* draws:
    k-hat, ESS and KL look perfect, and log-evidence is too low by the missing mass (log 2 for one
    of two equal modes). To find such a mode, train again from other initial values (the larger
    log-evidence covers more of the posterior mass), or run long chains of
    :class:`~numpyro_sumo.IndependenceMetropolis` alternating with NUTS.

    :param model: the target.
    :param guide: the sampler with its reverse model.
    :param params: values of the param sites of both.
    :param args: arguments of both, as are ``kwargs``.
    :param num_samples: draws of x, an integer ≥ 2.
    :param num_particles: n, draws of u for each x.
    :param defensive_share: share of the sampler's own u among them, in [0, 1). It bounds what one
        u of low reverse density can add to q̂.
    :param batch_size: draws of x evaluated at a time.
    :return: estimates in nats, draws, and their log-weights.
    :raises ValueError: if model and guide do not match, for params of another guide, if the model
        is subsampled, if a log-weight is NaN or +∞, or if all weights are zero.
    :warns UserWarning: if k-hat is larger than 0.7.

    **References:** Sobolev and Vetrov 2019, *Importance weighted hierarchical variational
    inference*, section 5; Vehtari et al. 2024, *Pareto smoothed importance sampling*.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import HierarchicalGuide, certify
    >>> def target():
    ...     numpyro.sample("x", dist.Normal(0.0, 1.5))
    ...     numpyro.factor("constant", 0.7)
    >>> def sampler():
    ...     u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    ...     numpyro.sample("x", dist.Normal(u, 1.3))
    >>> def reverse(latents):
    ...     numpyro.sample("u", dist.Normal(0.4 * latents["x"], 0.8))
    >>> guide = HierarchicalGuide(sampler, reverse)
    >>> certificate = certify(jax.random.key(0), target, guide, {}, num_samples=1_000)
    >>> bool(abs(certificate.log_evidence - 0.7) < 4 * certificate.log_evidence_se)
    True
    >>> bool(certificate.kl_upper < 0.02), bool(certificate.ess > 900)
    (True, True)
    >>> certificate.resampled["x"].shape
    (1000,)
    """
    check_sample_size("num_samples", num_samples)
    programs = Programs(model, guide, params, args, kwargs)
    extended = ExtendedDraws(programs, num_particles, defensive_share)
    refuse_subsamples(extended.check())

    @jax.jit
    def complete_draws(key: jax.Array) -> ExtendedDraw:
        draws = extended.draws(key, num_samples, batch_size)
        sites = lax.map(programs.with_deterministic, draws.latents, batch_size=batch_size)
        return draws._replace(latents=sites)

    draws_key, resampling_key = random.split(rng_key)
    return _certificate(complete_draws(draws_key), float(random.uniform(resampling_key)))


def _certificate(draws: ExtendedDraw, offset: float) -> Certificate:
    """The certificate of weighted draws; ``offset`` in [0, 1) is for systematic resampling."""
    # Imported here because ArviZ takes seconds to import.
    from .pareto_k import pareto_smoothed

    log_weights = draws.log_weight, draws.log_target - draws.log_below
    below, above = (np.asarray(values, np.float64) for values in log_weights)
    check_log_weights(below)
    largest = below.max()
    if largest == -np.inf:
        raise ValueError(
            f"Expected draws in the support of the model; all {len(below)} lie outside. "
            "Give the sampler's sites the supports of the model's."
        )
    weights = np.exp(below - largest)
    mean_weight = weights.mean()
    log_evidence = float(largest + np.log(mean_weight))
    smoothed, pareto_k = pareto_smoothed(below)
    if pareto_k > LARGEST_PARETO_K:
        warnings.warn(
            f"Expected a k-hat of weights up to {LARGEST_PARETO_K}; it is {pareto_k:.2f}, so that "
            "log_evidence, KL and resampled draws are not to be trusted. Train longer or with more "
            "particles, or run IndependenceMetropolis with alternate=NUTS(model).",
            stacklevel=3,
        )
    # Linearised errors: d log(mean weight) = d(mean weight) / mean weight.
    relative = weights / mean_weight
    estimates: dict[str, tuple[float, np.ndarray]] = {
        "elbo_lower": (below.mean(), below),
        "elbo_upper": (above.mean(), above),
        "log_evidence": (log_evidence, relative),
        "kl_lower": (log_evidence - above.mean(), relative - above),
        "kl_upper": (log_evidence - below.mean(), relative - below),
    }
    errors = {f"{n}_se": float(mean_and_error(v)[1]) for n, (_, v) in estimates.items()}
    chosen = _systematic(offset, np.exp(smoothed))
    return Certificate(
        **{name: float(value) for name, (value, _) in estimates.items()},
        **errors,
        pareto_k=float(pareto_k),
        ess=float(weights.sum() ** 2 / (weights**2).sum()),
        draws=draws.latents,
        log_weights=draws.log_weight,
        resampled=jax.tree.map(lambda values: values[chosen], draws.latents),
    )


def _systematic(offset: float, weights: np.ndarray) -> np.ndarray:
    """Indices of systematic resampling: i appears N·wᵢ times, rounded up or down."""
    shares = np.cumsum(weights)
    points = (np.arange(len(weights)) + offset) / len(weights)
    return np.searchsorted(shares / shares[-1], points, side="right")
