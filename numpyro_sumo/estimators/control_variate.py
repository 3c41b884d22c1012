"""The expected change of a bound that contains the generating draw, as fresh draws are added."""

import jax
import jax.numpy as jnp


def expected_increment(
    log_ratio: jax.Array, before: jax.Array | int, more: jax.Array | int
) -> jax.Array:
    r"""Expected change of log((G + nW)/(n + 1)) when n grows from ``before`` to ``before + more``.

    G is the weight of the generating draw, W the mean weight of fresh draws. Subtract it from the
    roulette increments and add its sum back: the mean is unchanged, the variance falls.

    :param log_ratio: log G/W, W estimated from the first draws, in nats; see :func:`log_ratio_of`.
    :param before: number of fresh draws before; broadcasts with the others, as does ``more``.
    :param more: number of fresh draws added.
    :return: in nats; zero where the ratio is not finite.
    """
    known = jnp.isfinite(log_ratio)
    # Beyond e^60 fresh draws do not change the sum in float32.
    ratio = jnp.exp(jnp.clip(jnp.where(known, log_ratio, 0.0), max=60.0))
    expected = jnp.log1p(more / (ratio + before)) - jnp.log1p(more / (1.0 + before))
    return jnp.where(known, expected, 0.0)


def log_ratio_of(generating: jax.Array, fresh: jax.Array) -> jax.Array:
    """log G/W from log G and log W; −∞ where either is not finite."""
    known = jnp.isfinite(generating) & jnp.isfinite(fresh)
    return jnp.where(
        known, jnp.where(known, generating, 0.0) - jnp.where(known, fresh, 0.0), -jnp.inf
    )
