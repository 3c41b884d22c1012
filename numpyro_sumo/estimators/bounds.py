"""Importance-weighted bounds on log p(x), from log-weights alone."""

import math

import jax
from jax.lax import stop_gradient
import jax.numpy as jnp


def importance_weighted_bound(log_weights: jax.Array, *, score_free: bool = False) -> jax.Array:
    r"""The bound :math:`L_k = \log \frac1k \sum_{j=1}^k e^{\ell_j}` over the leading axis.

    A *lower* bound on log p(x) in expectation when the k log-weights are of independent draws from
    the proposal; an *upper* one when one of them is of the draw that generated x.

    :param log_weights: log-weights, shape ``(k, *batch)``, in nats.
    :param score_free: make the derivative in each log-weight
        :math:`\partial L_k/\partial\ell_i - \partial^2 L_k/\partial\ell_i^2 = \tilde w_i^2`, the
        square of its share: the doubly reparameterised gradient, for log-weights of independent
        draws that are differentiated along their path alone. Its mean is that of the usual one.
    :return: the bound, shape ``(*batch)``, in nats; −inf where every weight is zero, +inf
        where one is infinite.

    **References:** Burda et al. 2016, *Importance weighted autoencoders*, eq. (8); for the upper
    bound, Sobolev and Vetrov 2019, *Importance weighted hierarchical variational inference*,
    theorem 1; for the score-free gradient, Tucker et al. 2019, *Doubly reparameterized gradient
    estimators for Monte Carlo objectives*, eq. (8).

    >>> import jax.numpy as jnp
    >>> from numpyro_sumo.estimators import importance_weighted_bound
    >>> float(importance_weighted_bound(jnp.log(jnp.array([1.0, 3.0]))))  # log 2
    0.6931471824645996
    """
    largest = stop_gradient(jnp.max(log_weights, axis=0))
    # The gradient at weights that are all zero, or infinite, is zero: not 0/0, or ∞/∞.
    rows = jnp.where(jnp.isinf(largest), 0.0, log_weights - largest)
    log_sum = jnp.log(jnp.sum(jnp.exp(rows), axis=0))
    if score_free:
        detached, log_sum = stop_gradient((rows, log_sum))
        change = jnp.where(jnp.isneginf(rows), 0.0, rows - detached)
        log_sum += jnp.sum(jnp.exp(2.0 * (detached - log_sum)) * change, axis=0)
    # At ±∞ the largest is the bound.
    return largest + (log_sum - math.log(len(log_weights)))
