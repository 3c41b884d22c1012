"""What a bound that contains a given draw is expected to do as fresh ones are added."""

import jax
import jax.numpy as jnp


def expected_increments(given: jax.Array, fresh: jax.Array, fresh_counts: jax.Array) -> jax.Array:
    r"""Expected change of the bound from each number of fresh draws to the next.

    Anything that does not depend on the stopping time may be taken from an increment under a
    random truncation and added back outside it. A given draw counts for less and less as fresh ones
    of mean weight W are added: with n of them its weight G makes the bound
    :math:`\log (G + n W)/(n + 1)`, a known path which need not be left to chance.

    :param given: log G, shape ``batch``, in nats.
    :param fresh: log W as the first draws have it, shape ``batch``, in nats.
    :param fresh_counts: ascending numbers n, shape ``(1 + k,)``.
    :return: shape ``(k, *batch)``, in nats; zero where either weight is not finite.
    """
    known = jnp.isfinite(given) & jnp.isfinite(fresh)
    # G / W; beyond e^60 the draws in question make no difference to the sum
    ratio = jnp.exp(jnp.clip(jnp.where(known, given - fresh, 0.0), max=60.0))
    counts = jnp.asarray(fresh_counts, ratio.dtype).reshape(-1, *[1] * ratio.ndim)
    before, more = counts[:-1], counts[1:] - counts[:-1]
    expected = jnp.log1p(more / (ratio + before)) - jnp.log1p(more / (1.0 + before))
    return jnp.where(known, expected, 0.0)
