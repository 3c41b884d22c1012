"""Importance-weighted bounds on log p(x), from log-weights alone."""

import math

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp


def importance_weighted_bound(log_weights: jax.Array) -> jax.Array:
    r"""The bound :math:`L_k = \log \frac1k \sum_{j=1}^k e^{\ell_j}` over the leading axis.

    A *lower* bound on log p(x) in expectation when the k log-weights are of independent draws from
    the proposal; an *upper* one when one of them is of the draw that generated x.

    :param log_weights: log-weights, shape ``(k, *batch)``, in nats.
    :return: the bound, shape ``(*batch)``, in nats; −inf where every weight is zero.

    **References:** Burda et al. 2016, *Importance weighted autoencoders*, eq. (8); for the upper
    bound, Sobolev and Vetrov 2019, *Importance weighted hierarchical variational inference*,
    theorem 1.

    >>> import jax.numpy as jnp
    >>> from numpyro_sumo.estimators import importance_weighted_bound
    >>> float(importance_weighted_bound(jnp.log(jnp.array([1.0, 3.0]))))  # log 2
    0.6931471824645996
    """
    all_zero = jnp.all(jnp.isneginf(log_weights), axis=0)
    # The gradient at weights that are all zero is zero, not 0/0.
    log_sum = logsumexp(jnp.where(all_zero, 0.0, log_weights), axis=0)
    return jnp.where(all_zero, -jnp.inf, log_sum - math.log(log_weights.shape[0]))
