"""How far a trained hierarchical guide can be trusted, and its draws corrected by weights."""

from collections.abc import Callable
import math
from typing import Any, NamedTuple
import warnings

import numpy as np

import jax
from jax import lax, random

from numpyro_sumo.checks import check_sample_size
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.extended_draws import ExtendedDraws, check_draws_of_u
from numpyro_sumo.guides.hierarchical import HierarchicalGuide, Sites
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params

#: k-hat beyond which averages under the weights are not to be relied on.
LARGEST_PARETO_K = 0.7


class Certificate(NamedTuple):
    """What draws of a sampler say of it, in nats, with standard errors (``_se``).

    :param elbo_lower: E[log p(x) − log q(x)] from below, by an upper bound on log q.
    :param elbo_upper: the same from above; the two are apart where the reverse model is poor.
    :param log_evidence: log Z of the target p, by importance weights that are unbiased for Z.
    :param kl_lower: KL(q ‖ p/Z) from below, log-evidence less ``elbo_upper``.
    :param kl_upper: the same from above: the one to report, as far as log-evidence is right.
    :param pareto_k: k-hat of the weights. Up to 0.5 their variance is finite; beyond 0.7 neither
        log-evidence nor resampled draws are to be trusted. Where weights are missed, log-evidence
        is too low, and both ends of KL with it. −∞ where all weights are the same.
    :param ess: (Σw)² / Σw², the independent draws of p that the weighted ones are worth.
    :param draws: draws of q by site, the model's deterministic sites among them, with a leading
        axis of ``num_samples``.
    :param log_weights: of these draws, shape ``(num_samples,)``.
    :param resampled: as many draws, chosen by weights of which the tail is Pareto-smoothed: close
        to draws of p where k-hat is small. Those chosen more than once stand side by side.
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
    model: Callable,
    guide: HierarchicalGuide,
    params: Params,
    *args: Any,
    num_samples: int = 10_000,
    num_particles: int = 64,
    defensive_share: float = DEFENSIVE_SHARE,
    batch_size: int = 100,
    **kwargs: Any,
) -> Certificate:
    r"""Judges a trained hierarchical guide by draws of its own, and corrects them.

    .. math::
        w_i = p(x_i) / \hat q(x_i), \qquad \hat Z = \frac{1}{N} \sum_i w_i, \qquad
        \mathrm{KL} = \log Z - \mathrm{ELBO}

    q̂ averages over n draws from the reverse model, a share of the sampler's own among them, and the
    one that x came with, such that the weights are unbiased for integrals over p whatever the
    reverse model (:class:`~numpyro_sumo.guides.extended_draws.ExtendedDraws`). A poor reverse model costs
    spread, and sets the two ends of ELBO and KL apart.

    All of this is seen from where the sampler goes: there it tells a shape that does not fit,
    tails that are too light, a reverse model that does not keep up. A mode of the target where the
    sampler *never* goes none of it can tell: k-hat, ESS and KL look perfect, and the log-evidence
    is low by the mass that is lost (log 2 for one of two equal modes). What may tell: training
    again, longer and from other starts, and comparing log-evidences, where the larger one has seen
    more; long chains of :class:`~numpyro_sumo.IndependenceMetropolis` that alternate with NUTS;
    NUTS by itself from scattered starts.

    :param model: the target.
    :param guide: the sampler with its reverse model.
    :param params: values of the param sites of both.
    :param args: arguments of both, as are ``kwargs``.
    :param num_samples: draws of x, an integer ≥ 2.
    :param num_particles: n, draws of u for each x.
    :param defensive_share: of the sampler's own draws of u among them, in [0, 1): it limits what a
        u that the reverse model gives next to no density can add to q̂.
    :param batch_size: draws of x handled at a time.
    :raises ValueError: if model and guide do not fit each other, for params of another guide, if
        the model is subsampled, if a draw has no weight (NaN), or if all weights are zero.
    :warns UserWarning: where k-hat is larger than 0.7.

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
    check_draws_of_u(num_particles, defensive_share, batch_size)
    programs = Programs(model, guide, params, args, kwargs)
    extended = ExtendedDraws(programs, num_particles, defensive_share)
    extended.check()

    from numpyro_sumo.diagnostics.arviz import pareto_smoothed

    def one_draw(key):
        draw = extended.draw(key)
        sites = extended.with_deterministic(draw.latents)
        return sites, draw.log_weight, draw.log_target - draw.log_below

    draws_key, resampling_key = random.split(rng_key)
    keys = random.split(draws_key, num_samples)
    draws, log_weights, from_above = jax.jit(
        lambda keys: lax.map(one_draw, keys, batch_size=batch_size)
    )(keys)
    below, above = np.asarray(log_weights, np.float64), np.asarray(from_above, np.float64)
    _check_weights(below)

    largest = below.max()
    weights = np.exp(below - largest)
    mean_weight = weights.mean()
    relative = weights / mean_weight
    log_evidence = float(largest + np.log(mean_weight))
    elbo_lower, elbo_lower_se = _mean_and_error(below)
    elbo_upper, elbo_upper_se = _mean_and_error(above)
    smoothed, pareto_k = pareto_smoothed(below)
    if pareto_k > LARGEST_PARETO_K:
        warnings.warn(
            f"Expected a k-hat of weights up to {LARGEST_PARETO_K}; it is {pareto_k:.2f}, so that "
            "neither log_evidence, and KL by it, nor resampled draws are to be trusted. Train "
            "longer or with more particles, or run IndependenceMetropolis with "
            "alternate=NUTS(model).",
            stacklevel=2,
        )
    chosen = _systematic(float(random.uniform(resampling_key)), np.exp(smoothed))
    return Certificate(
        elbo_lower=elbo_lower,
        elbo_lower_se=elbo_lower_se,
        elbo_upper=elbo_upper,
        elbo_upper_se=elbo_upper_se,
        log_evidence=log_evidence,
        log_evidence_se=_mean_and_error(relative)[1],
        kl_lower=log_evidence - elbo_upper,
        kl_lower_se=_mean_and_error(relative - above)[1],
        kl_upper=log_evidence - elbo_lower,
        kl_upper_se=_mean_and_error(relative - below)[1],
        pareto_k=float(pareto_k),
        ess=float(weights.sum() ** 2 / (weights**2).sum()),
        draws=draws,
        log_weights=log_weights,
        resampled=jax.tree.map(lambda values: values[chosen], draws),
    )


def _check_weights(log_weights: np.ndarray) -> None:
    """Refuses draws that have no weight, and draws of which none has a weight above zero."""
    unknown = int((np.isnan(log_weights) | (log_weights == np.inf)).sum())
    if unknown:
        raise ValueError(
            f"Expected every draw to have a weight; {unknown} of {len(log_weights)} have NaN or "
            "infinity. Look for what overflows in model or guide, or train again in smaller steps."
        )
    if np.all(log_weights == -np.inf):
        raise ValueError(
            f"Expected draws in the support of the model; all {len(log_weights)} lie outside. "
            "Give the sampler's sites the supports of the model's."
        )


def _mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Mean and standard error; the error is infinite if values are."""
    if not np.all(np.isfinite(values)):
        return float(values.mean()), math.inf
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _systematic(offset: float, weights: np.ndarray) -> np.ndarray:
    """Indices by systematic resampling: i is chosen N·wᵢ times, rounded up or down."""
    shares = np.cumsum(weights)
    points = (np.arange(len(weights)) + offset) / len(weights)
    return np.searchsorted(shares / shares[-1], points, side="right")
