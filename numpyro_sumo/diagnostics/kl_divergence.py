"""The Kullback–Leibler divergence between any two NumPyro distributions."""

from contextlib import suppress
from typing import NamedTuple

import jax
import jax.numpy as jnp

from numpyro.distributions import Distribution, ImproperUniform, Kumaraswamy
from numpyro.distributions.kl import kl_divergence as closed_form

from numpyro_sumo.checks import check_sample_size
from numpyro_sumo.programs.sites import is_delta, is_masked, layers

from .summaries import mean_and_error


class KLDivergence(NamedTuple):
    """A divergence in nats with its standard error, zero where the value is exact."""

    value: jax.Array
    standard_error: jax.Array


def kl_divergence(
    rng_key: jax.Array, q: Distribution, p: Distribution, num_samples: int = 1_000
) -> KLDivergence:
    r"""KL(q ‖ p), exact where NumPyro has an exact formula, else by Monte Carlo from q.

    .. math::
        \mathrm{KL}(q \,\|\, p) = E_{x \sim q} \big[ \log q(x) - \log p(x) \big]

    Differentiable in the parameters of both: draws are reparameterised.

    :param q: the distribution that draws come from.
    :param p: the distribution to compare with.
    :param num_samples: draws for an estimate, an integer ≥ 2.
    :return: value and standard error in nats, of the broadcast batch shape; both ∞ where a draw of
        q is impossible under p.
    :raises ValueError: for arguments that are not distributions, for different event shapes, for
        masked distributions, for a Delta q against a density, and for a q without reparameterised
        sampler where there is no exact formula.

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
    _check_distributions(q, p)
    # NumPyro's formula for a Kumaraswamy q is a series cut after ten terms.
    if not any(isinstance(layer, Kumaraswamy) for layer in layers(q)):
        with suppress(NotImplementedError):
            exact = jnp.asarray(closed_form(q, p))
            return KLDivergence(exact, jnp.zeros_like(exact))
    return _monte_carlo(rng_key, q, p, num_samples)


def _check_distributions(q: Distribution, p: Distribution) -> None:
    for name, distribution in {"q": q, "p": p}.items():
        if not isinstance(distribution, Distribution):
            raise ValueError(
                f"Expected {name} to be a NumPyro distribution; got {distribution!r}. "
                "Pass dist.Normal(0.0, 1.0), for instance."
            )
        if any(isinstance(layer, ImproperUniform) for layer in layers(distribution)):
            raise ValueError(
                f"Expected {name} to integrate to 1; got ImproperUniform, which does not. Pass a "
                "proper distribution."
            )
        if is_masked(distribution):
            raise ValueError(
                f"Expected {name} without a mask, under which a density does not integrate to 1; "
                "got a masked one. Pass the unmasked distribution, and mask the divergence."
            )
    if q.event_shape != p.event_shape:
        raise ValueError(
            f"Expected q and p to have one event shape; got {q.event_shape} and {p.event_shape}. "
            "Use to_event to say which dimensions belong together."
        )
    if is_delta(q) and not (is_delta(p) or p.support.is_discrete):
        raise ValueError(
            f"Expected q to have a density, as p has; got Delta and {type(p).__name__}, whose "
            "divergence is infinite. Choose another q, or use -p.log_prob at the point."
        )


def _monte_carlo(
    rng_key: jax.Array, q: Distribution, p: Distribution, num_samples: int
) -> KLDivergence:
    if not q.has_rsample:
        raise ValueError(
            f"Expected q with a reparameterised sampler, or a pair with an exact formula; got "
            f"{type(q).__name__} and {type(p).__name__}. Choose another q."
        )
    q = q.expand(jnp.broadcast_shapes(q.batch_shape, p.batch_shape))
    x, intermediates = q.sample_with_intermediates(rng_key, (num_samples,))
    log_q = q.log_prob(x, intermediates) if intermediates else q.log_prob(x)
    possible = p.support(x)
    # Outside its support the density of p may be any number: it is evaluated at another point.
    inside = possible.reshape(*possible.shape, *[1] * len(p.event_shape))
    log_p = p.log_prob(jnp.where(inside, x, p.support.feasible_like(x)))
    return KLDivergence(*mean_and_error(log_q - jnp.where(possible, log_p, -jnp.inf)))
