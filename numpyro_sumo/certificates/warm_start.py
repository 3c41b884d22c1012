"""Starting points and a mass matrix for HMC and NUTS, from the draws of a guide."""

from typing import Any, NamedTuple

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.checks import check_positive_integer

from .certificate import Certificate
from .marginals import in_columns
from .model_groups import ModelGroups

#: Resampled draws are used if so many of them are effective.
_FEWEST_EFFECTIVE = 100


class WarmStart(NamedTuple):
    """What :class:`~numpyro.infer.NUTS` and :class:`~numpyro.infer.MCMC` are started with.

    :param init_params: unconstrained values by site, with a leading axis of chains (none for one
        chain): ``mcmc.run(key, init_params=warm.init_params)``.
    :param kernel: options of HMC and NUTS: ``NUTS(model, **warm.kernel)``.
    """

    init_params: dict[str, jax.Array]
    kernel: dict[str, Any]


def warm_start(
    rng_key: jax.Array, certificate: Certificate, num_chains: int = 4, *, dense: bool = False
) -> WarmStart:
    """Starts NUTS where a guide has been, with the variances that it found.

    The starting points are resampled draws; the inverse mass matrix holds the variances (or the
    covariance) of resampled draws in unconstrained space. Where fewer than 100 of them are
    effective, or for a covariance fewer than two for each latent number, both come from the guide's
    draws as they are. Short warm-up is then enough: ``MCMC(NUTS(model, **warm.kernel),
    num_warmup=100, ...)``, which goes on adapting both. Chains still find the posterior where the
    guide is wrong; they take longer.

    :param certificate: of the trained guide.
    :param num_chains: an integer ≥ 1.
    :param dense: whether the mass matrix has correlations. NUTS adapts it again from the few draws
        of a short warm-up, which spoils it unless latent numbers are few.
    :return: starting points and options.
    :raises ValueError: for options outside these, for more chains than draws, or for fewer than
        two draws for each latent number of a dense matrix.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import MCMC, NUTS
    >>> from numpyro_sumo import certify, warm_start
    >>> def model():
    ...     numpyro.sample("x", dist.LogNormal(1.0, 0.5))
    >>> def guide():
    ...     numpyro.sample("x", dist.LogNormal(0.9, 0.6))
    >>> certificate = certify(jax.random.key(0), model, guide, {})
    >>> warm = warm_start(jax.random.key(1), certificate, num_chains=1)
    >>> mcmc = MCMC(NUTS(model, **warm.kernel), num_warmup=100, num_samples=100, progress_bar=False)
    >>> mcmc.run(jax.random.key(2), init_params=warm.init_params)
    """
    check_positive_integer("num_chains", num_chains)
    if num_chains > certificate.num_samples:
        raise ValueError(
            f"Expected a draw for each chain; got {certificate.num_samples} draws for {num_chains} "
            "chains. Raise num_samples."
        )
    names = sorted(certificate.latents)
    dim = sum(values[0].size for values in certificate.latents.values())
    is_enough = certificate.ess >= max(_FEWEST_EFFECTIVE, 2 * dim if dense else 0)
    sites = certificate.resampled if is_enough else certificate.draws
    constrained = {name: np.asarray(sites[name]) for name in names}
    example = {name: values[0] for name, values in constrained.items()}
    draws = ModelGroups(certificate.programs, example).unconstrained(constrained)
    columns = in_columns({name: np.asarray(draws[name]) for name in names})
    if dense and certificate.num_samples < 2 * dim:
        raise ValueError(
            f"Expected twice as many draws as latent numbers for a dense mass matrix; got "
            f"{certificate.num_samples} for {dim}. Pass dense=False, or raise num_samples."
        )
    matrix = np.cov(columns.T).reshape(dim, dim) if dense else columns.var(axis=0)
    at = random.choice(rng_key, certificate.num_samples, (num_chains,), replace=False)
    starts = {name: draws[name][at] if num_chains > 1 else draws[name][at[0]] for name in names}
    kernel = {"inverse_mass_matrix": {tuple(names): jnp.asarray(matrix, jnp.result_type(float))}}
    return WarmStart(starts, {**kernel, "dense_mass": dense})
