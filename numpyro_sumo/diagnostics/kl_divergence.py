"""The Kullback–Leibler divergence between any two NumPyro distributions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from numpyro.distributions import Distribution
from numpyro.distributions.kl import kl_divergence as closed_form

from numpyro_sumo.checks import check_sample_size


class KLDivergence(NamedTuple):
    """A divergence in nats, with the standard error of its estimate: zero if it is exact."""

    value: jax.Array
    standard_error: jax.Array


def kl_divergence(
    rng_key: jax.Array, q: Distribution, p: Distribution, num_samples: int = 1_000
) -> KLDivergence:
    r"""KL(q ‖ p), exact where NumPyro knows the formula, else by Monte Carlo from q.

    .. math::
        \mathrm{KL}(q \,\|\, p) = E_{x \sim q} \big[ \log q(x) - \log p(x) \big]

    Differentiable in the parameters of both, for draws are reparameterised.

    :param rng_key: a key; unused where there is a closed form.
    :param q: the distribution that is drawn from.
    :param p: the distribution it is compared with.
    :param num_samples: draws behind an estimate, an integer ≥ 2.
    :return: value and standard error in nats, shaped as the two batch shapes together; both ∞ where
        a draw of q is impossible under p.
    :raises ValueError: for what is not a distribution, for different event shapes, and for a q
        without reparameterised sampler where there is no closed form.

    **Reference:** Kullback and Leibler 1951, *On information and sufficiency*.

    >>> import jax, numpyro.distributions as dist
    >>> from numpyro_sumo import kl_divergence
    >>> normal = dist.Normal(0.4, 0.8)
    >>> round(float(kl_divergence(jax.random.key(0), normal, dist.Normal(0.0, 1.0)).value), 4)
    0.1231
    >>> halves = dist.Categorical(probs=jax.numpy.array([0.5, 0.5]))
    >>> locs, scales = jax.numpy.array([-0.2, 1.0]), jax.numpy.array([0.4, 0.5])
    >>> mixture = dist.MixtureSameFamily(halves, dist.Normal(locs, scales))
    >>> estimate = kl_divergence(jax.random.key(0), normal, mixture, 100_000)
    >>> bool(abs(estimate.value - 0.0801) < 4 * estimate.standard_error)  # by quadrature
    True
    """
    check_sample_size("num_samples", num_samples)
    for name, distribution in {"q": q, "p": p}.items():
        if not isinstance(distribution, Distribution):
            raise ValueError(
                f"Expected {name} to be a NumPyro distribution; got {distribution!r}. "
                "Pass dist.Normal(0.0, 1.0), for instance."
            )
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"Expected q and p to have one event shape; got {q.event_shape} and {p.event_shape}. "
            "Use to_event to say which dimensions belong together."
        )
    try:
        exact = closed_form(q, p)
    except NotImplementedError:
        return _estimated(rng_key, q, p, num_samples)
    return KLDivergence(exact, jnp.zeros_like(exact))


def _estimated(rng_key, q, p, num_samples):
    if not q.has_rsample:
        raise ValueError(
            f"Expected q with a reparameterised sampler, or a pair with a known closed form; got "
            f"{type(q).__name__} and {type(p).__name__}. Choose another q."
        )
    shape = jnp.broadcast_shapes(q.batch_shape, p.batch_shape)
    q = q.expand(shape) if q.batch_shape != shape else q
    x, intermediates = q.sample_with_intermediates(rng_key, (num_samples,))
    log_q = q.log_prob(x, intermediates) if intermediates else q.log_prob(x)
    possible = p.support(x)
    # Outside its support p's formula may be anything: there it is read elsewhere.
    inside = possible.reshape(*possible.shape, *[1] * len(p.event_shape))
    log_p = p.log_prob(jnp.where(inside, x, p.support.feasible_like(x)))
    differences = log_q - jnp.where(possible, log_p, -jnp.inf)
    value = differences.mean(axis=0)
    error = differences.std(axis=0, ddof=1) / num_samples**0.5
    return KLDivergence(value, jnp.where(jnp.isfinite(value), error, jnp.inf))
