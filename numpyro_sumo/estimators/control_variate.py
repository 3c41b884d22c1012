"""The expected change of a bound that contains the generating draw, as fresh draws are added."""

import jax
import jax.numpy as jnp


def expected_increment(
    log_ratio: jax.Array, before: jax.Array | int, more: jax.Array | int
) -> jax.Array:
    r"""Expected change of the bound as some fresh draws are added to those that are there.

    A control variate: what does not depend on the stopping time may be subtracted from the
    increments under a random truncation, and added back outside it. The generating draw counts for
    less and less as fresh ones of mean weight W are added: with n of them, and G its weight, the
    bound is :math:`\log (G + n W)/(n + 1)`.

    :param log_ratio: log G/W, W as the first draws have it, in nats; see :func:`log_ratio_of`.
    :param before: fresh draws that are there; broadcasts with the others, as does ``more``.
    :param more: fresh draws that are added.
    :return: in nats; zero where the ratio is not finite.
    """
    known = jnp.isfinite(log_ratio)
    # Beyond e^60 the draws in question make no difference to the sum.
    ratio = jnp.exp(jnp.clip(jnp.where(known, log_ratio, 0.0), max=60.0))
    expected = jnp.log1p(more / (ratio + before)) - jnp.log1p(more / (1.0 + before))
    return jnp.where(known, expected, 0.0)


def log_ratio_of(generating: jax.Array, fresh: jax.Array) -> jax.Array:
    """log G/W from log G and log W; −∞ where either is not finite."""
    known = jnp.isfinite(generating) & jnp.isfinite(fresh)
    return jnp.where(
        known, jnp.where(known, generating, 0.0) - jnp.where(known, fresh, 0.0), -jnp.inf
    )
