"""The optimisers that ``--optimisers`` compares."""

from collections.abc import Callable, Sequence
from typing import Any

import optax

from jax import lax
import jax.numpy as jnp

from numpyro_sumo.optim import average_iterates, averaged_adam

#: The recipe of the comparison of losses.
RECIPE = "averaged_adam"


def clip_with_error_feedback(limit: float) -> optax.GradientTransformation:
    """Clip by global norm; add what was cut off to the gradients that follow."""
    clipped = optax.clip_by_global_norm(limit)

    def update(updates, kept, params=None):
        total = optax.tree.add(updates, kept)
        taken, _ = clipped.update(total, optax.EmptyState())
        return taken, optax.tree.sub(total, taken)

    return optax.GradientTransformation(optax.tree.zeros_like, update)


def clip_by_quantile(probability: float) -> optax.GradientTransformation:
    """Clip by the running quantile of the global norm, found by stochastic approximation."""

    def init(params):
        return jnp.zeros(2)  # the logarithm of the quantile, and the number of steps

    def update(updates, state, params=None):
        log_limit, count = state
        norm = optax.tree.norm(updates)
        log_limit = jnp.where(count == 0, jnp.log(norm), log_limit)
        factor = jnp.minimum(1.0, jnp.exp(log_limit) / norm)
        above = norm > jnp.exp(log_limit)
        log_limit += 0.05 * (above - (1.0 - probability))
        return optax.tree.scale(factor, updates), jnp.stack([log_limit, count + 1.0])

    return optax.GradientTransformation(init, update)


def candidates(num_steps: int) -> dict[str, optax.GradientTransformation]:
    """The optimisers compared, by name; the recipe first."""
    fast = optax.exponential_decay(2e-2, num_steps, 1e-3)
    slow = optax.exponential_decay(2e-2, num_steps, 1e-1)
    half = num_steps // 2
    return {
        RECIPE: averaged_adam(num_steps),
        "averaged_adam, not averaged": averaged_adam(num_steps, fast, averaged_share=0.0),
        "Adam": optax.adam(fast),
        "Adam, b2 .9999": optax.adam(fast, b2=0.9999),
        "Adam, averaged": average_iterates(optax.adam(slow), num_steps, half),
        "Adam, b2 .9999, averaged": average_iterates(optax.adam(slow, b2=0.9999), num_steps, half),
        "Adam, clipped at 10": optax.chain(optax.clip_by_global_norm(10.0), optax.adam(fast)),
        "Adam, clipped at the 99 % quantile": optax.chain(clip_by_quantile(0.99), optax.adam(fast)),
        "Adam, error feedback at 60": optax.chain(clip_with_error_feedback(60.0), optax.adam(fast)),
        "Adam, error feedback at 60, averaged": average_iterates(
            optax.chain(clip_with_error_feedback(60.0), optax.adam(slow)), num_steps, half
        ),
        "SGD with momentum, averaged": average_iterates(
            optax.sgd(optax.exponential_decay(4e-4, num_steps, 1e-1), 0.9), num_steps, half
        ),
        "AdaBelief (measured variance), averaged": average_iterates(
            optax.adabelief(slow), num_steps, half
        ),
        "ADOPT, averaged": average_iterates(optax.contrib.adopt(slow), num_steps, half),
    }


def one_of(
    optims: Sequence[optax.GradientTransformation], which: Any
) -> optax.GradientTransformation:
    """The optimiser at the index ``which``, so that one compiled program serves all."""

    def init(params):
        return tuple(optim.init(params) for optim in optims)

    def update(updates, states, params=None):
        def branch(at: int) -> Callable:
            def chosen(args):
                new, state = optims[at].update(args[0], args[1][at], args[2])
                return new, (*args[1][:at], state, *args[1][at + 1 :])

            return chosen

        return lax.switch(
            which, [branch(at) for at in range(len(optims))], (updates, states, params)
        )

    return optax.GradientTransformation(init, update)
