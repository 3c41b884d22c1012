"""A fit as ArviZ data: draws, likelihoods, predictions and data, with dims from the plates."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np

import jax
from jax import random

from numpyro.infer import MCMC

from numpyro_sumo._compat import inputs_of_mcmc
from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.programs.programs import Programs

from .certificate import Certificate
from .model_groups import ModelGroups

Draws = Mapping[str, np.ndarray | jax.Array]

#: Statistics of MCMC kernels under ArviZ's names.
_RENAMED = {"accept_prob": "acceptance_rate", "potential_energy": "lp", "num_steps": "n_steps"}


def to_arviz(
    fit: Certificate | MCMC,
    *,
    corrected: bool = True,
    num_draws: int = 2_000,
    rng_key: jax.Array | None = None,
) -> Any:
    """A certificate, a posterior, or chains, as ArviZ data for its summaries and plots.

    Groups: ``posterior`` with deterministic sites, ``unconstrained_posterior``,
    ``posterior_predictive``, ``log_likelihood``, ``observed_data``, ``constant_data`` (arrays among
    the model's arguments), and ``sample_stats``: of a certificate ``lp`` (log p(x, z)), ``log_q``
    and ``log_weight`` in nats; of chains what was collected by ``extra_fields``. The axes of a site
    are named after its plates, ``school_dim`` for a plate ``school``. Models whose discrete sites
    are summed out have neither likelihoods nor predictions. The log-likelihood of a masked
    observation is zero.

    :param fit: from :func:`~numpyro_sumo.certify` or :func:`~numpyro_sumo.fit`; or an
        :class:`~numpyro.infer.MCMC` that has run.
    :param corrected: of a certificate, whether to take the resampled draws, which are close to the
        posterior's, or those of the guide as they are.
    :param num_draws: of a certificate, at most so many draws, evenly spread over all.
    :param rng_key: for predictions; by default a fixed key.
    :return: ``InferenceData`` under ArviZ 0.23, ``DataTree`` under 1.x.
    :raises ValueError: for anything else, and for chains that have not run.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro_sumo import certify, to_arviz
    >>> def model(y):
    ...     x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    ...     with numpyro.plate("measurement", len(y)):
    ...         numpyro.sample("y", dist.Normal(x, 1.0), obs=y)
    >>> def guide(y):
    ...     numpyro.sample("x", dist.Normal(0.5, 0.6))
    >>> y = jax.numpy.array([0.3, 1.2])
    >>> data = to_arviz(certify(jax.random.key(0), model, guide, {}, y))
    >>> dict(data.log_likelihood["y"].sizes)
    {'chain': 1, 'draw': 2000, 'measurement_dim': 2}
    """
    if isinstance(fit, MCMC):
        programs, posterior, latents, stats = _of_chains(fit)
    elif isinstance(fit, Certificate):
        check_positive_integer("num_draws", num_draws)
        programs, posterior, latents, stats = _of_certificate(fit, corrected, num_draws)
    elif hasattr(fit, "to_arviz"):  # a Posterior
        return fit.to_arviz(rng_key=rng_key)
    else:
        raise ValueError(
            f"Expected a certificate, a posterior, or MCMC that has run; got {type(fit).__name__}. "
            "Pass certify(key, model, guide, params, ...)."
        )
    return arviz_of(programs, posterior, latents, stats, rng_key)


def arviz_of(
    programs: Programs,
    posterior: Draws,
    latents: Draws,
    stats: Draws,
    rng_key: jax.Array | None,
) -> Any:
    """Draws of shape ``(chain, draw, ...)`` as ArviZ data, with all groups that the model gives.

    :param posterior: latent and deterministic sites; ``latents`` are the former.
    :param stats: statistics of the draws by ArviZ's names.
    """
    # Imported here because ArviZ takes seconds to import.
    from numpyro_sumo.diagnostics.arviz import arviz_data

    key = random.key(0) if rng_key is None else rng_key
    model = ModelGroups(programs, {name: values[0, 0] for name, values in latents.items()})
    groups = {"posterior": posterior, "sample_stats": stats, **_groups(key, model, latents)}
    return arviz_data(groups, model.coords(), model.dims())


def _of_certificate(fit: Certificate, corrected: bool, num_draws: int) -> tuple[Any, ...]:
    """Programs, posterior, its latent sites, and statistics of one chain of independent draws."""
    count = min(num_draws, fit.num_samples)
    at = np.linspace(0, fit.num_samples - 1, count).astype(int)
    chain = lambda values: np.asarray(values)[at][None]
    draws = fit.resampled if corrected else fit.draws
    posterior = {name: chain(values) for name, values in draws.items()}
    latents = {name: posterior[name] for name in fit.plated.event_dims}
    stats = {
        "lp": fit.log_target,
        "log_q": fit.log_target - fit.log_weights,
        "log_weight": fit.log_weights,
    }
    if corrected and fit.chosen.ndim == 1:
        stats = {name: values[fit.chosen] for name, values in stats.items()}
    elif corrected:
        stats = {}  # each datum has a draw of its own
    return fit.programs, posterior, latents, {name: chain(v) for name, v in stats.items()}


def _of_chains(mcmc: MCMC) -> tuple[Any, ...]:
    """The same of MCMC, all chains."""
    args, kwargs = inputs_of_mcmc(mcmc)
    kernel = mcmc.sampler
    if kernel.model is None:
        raise ValueError(
            "Expected chains of a model; the kernel was made from a potential_fn. Pass its draws "
            "to arviz.from_numpyro."
        )
    programs = Programs(kernel.model, kernel.model, getattr(kernel, "params", {}), args, kwargs)
    draws = mcmc.get_samples(group_by_chain=True)
    posterior = {name: np.asarray(values) for name, values in draws.items()}
    example = {name: values[0, 0] for name, values in posterior.items()}
    sites = ModelGroups(programs, example).sites
    latents = {n: v for n, v in posterior.items() if sites.get(n, {}).get("type") == "sample"}
    fields = mcmc.get_extra_fields(group_by_chain=True)
    stats = {_RENAMED.get(name, name): np.asarray(values) for name, values in fields.items()}
    if "potential_energy" in fields:
        stats["lp"] = -stats["lp"]
    return programs, posterior, latents, stats


def _groups(rng_key: jax.Array, model: ModelGroups, latents: Draws) -> dict[str, Any]:
    """The groups that the model is run for."""
    shape = next(iter(latents.values())).shape[:2]
    flat: dict[str, Any] = {n: v.reshape(-1, *v.shape[2:]) for n, v in latents.items()}
    found: dict[str, Any] = {"unconstrained_posterior": model.unconstrained(flat)}
    if model.observed and not model.sums_out_sites:
        found["log_likelihood"] = model.log_likelihood(flat)
        # A distribution with a density only cannot predict.
        with suppress(NotImplementedError):
            found["posterior_predictive"] = model.posterior_predictive(rng_key, flat)
    in_chains = lambda values: np.asarray(values).reshape(*shape, *values.shape[1:])
    data = {"observed_data": model.observed_data, "constant_data": model.constant_data}
    return jax.tree.map(in_chains, found) | {name: group for name, group in data.items() if group}
