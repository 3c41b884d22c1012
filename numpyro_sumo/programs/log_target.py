"""The log-density of a model at given latent sites, discrete sites summed out."""

import jax

from numpyro.handlers import seed, substitute

from .log_weights import log_joint, sum_to_data
from .programs import Programs
from .sites import JOINT, Params, Program, Trace, is_enumerated, latent_sites


def log_target(
    rng_key: jax.Array, programs: Programs, latents: Params, data_dims: frozenset[int] = JOINT
) -> jax.Array:
    """log p(x, z) of the model at z, not normalised, in nats; −∞ outside the support.

    Discrete sites marked ``infer={"enumerate": "parallel"}`` are summed out.

    :param latents: z, values of the latent sites.
    :param data_dims: batch dimensions (negative) over which densities are kept apart.
    """
    values = {**programs.params, **latents}
    model = seed(programs.model, rng_key)
    sites = programs.trace_at(model, values)
    if any(map(is_enumerated, latent_sites(sites).values())):
        return _log_marginal(model, programs, values, sites)
    return sum_to_data(log_joint(sites), data_dims)


def _log_marginal(model: Program, programs: Programs, values: Params, sites: Trace) -> jax.Array:
    """The log-density with all enumerated sites summed out, by funsor's variable elimination."""
    try:
        from numpyro.contrib.funsor import config_enumerate, enum, log_density
    except ImportError as error:
        raise ValueError(
            "Expected the package funsor, which sums out discrete sites; it is not installed. "
            "Run pip install funsor."
        ) from error
    batch_dims = (len(s["fn"].batch_shape) for s in sites.values() if s["type"] == "sample")
    first_free = -max(batch_dims, default=0) - 1
    summed = enum(config_enumerate(substitute(model, data=values)), first_free)
    total: jax.Array = log_density(summed, programs.args, programs.kwargs, values)[0]
    return total
