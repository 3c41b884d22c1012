"""Logarithms of sums."""

import jax
import jax.numpy as jnp


def log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(e^a + e^b); where both are −∞ its gradient is zero, not 0/0."""
    both_zero = jnp.isneginf(a) & jnp.isneginf(b)
    total = jnp.logaddexp(jnp.where(both_zero, 0.0, a), jnp.where(both_zero, 0.0, b))
    return jnp.where(both_zero, -jnp.inf, total)
