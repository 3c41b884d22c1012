"""Logarithms of running sums, over runs of a sequence."""

import jax
from jax import lax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

#: So few terms are sooner summed pair by pair than in a loop.
_FEW = 16


@jax.custom_vjp
def running_log_sums(log_terms: jax.Array, begins: jax.Array) -> jax.Array:
    r"""The logarithm of the sum of each run's terms so far, the present one included.

    .. math::
        s_i = \log \sum_{j = b_i}^{i} e^{\ell_j}

    :math:`b_i` is where the run of term i begins.

    Work grows as the logarithm of the longest run. Differentiable in reverse mode only.

    :param log_terms: shape ``(n, *rest)``; −∞ for a term that is nought.
    :param begins: whether a run begins at each term, shape ``(n,)``. The first does in any case.
    :return: of the shape of ``log_terms``.

    >>> import jax.numpy as jnp
    >>> from .log_sums import running_log_sums
    >>> log_terms = jnp.log(jnp.array([1.0, 2.0, 3.0, 4.0]))
    >>> sums = running_log_sums(log_terms, jnp.array([True, False, True, False]))
    >>> [f"{total:.2f}" for total in jnp.exp(sums)]
    ['1.00', '3.00', '3.00', '7.00']
    """
    if len(begins) <= _FEW:
        return logsumexp(_by_pairs(begins, log_terms[None], -jnp.inf), axis=1)
    of_run = _place_in_run(begins, log_terms)

    def double(state):
        # What reaches back over d terms reaches, with the one d before it, over 2 d.
        distance, sums = state
        longer = jnp.logaddexp(sums, jnp.roll(sums, distance, axis=0))
        return 2 * distance, jnp.where(of_run >= distance, longer, sums)

    is_shorter = lambda state: state[0] <= jnp.max(of_run)
    return lax.while_loop(is_shorter, double, (1, log_terms))[1]


def _forward(log_terms, begins):
    sums = running_log_sums(log_terms, begins)
    return sums, (log_terms, begins, sums)


def _backward(residuals, cotangent):
    log_terms, begins, sums = residuals
    if len(begins) <= _FEW:
        of_pairs = _ratio(log_terms[None], sums[:, None]) * cotangent[:, None]
        return jnp.sum(_by_pairs(begins, of_pairs, 0.0), axis=0), None
    # Of each sum, what it is of the next; and so on to all that follow in the run.
    ratio = _ratio(sums, jnp.roll(sums, -1, axis=0))
    follow = _place_in_run(jnp.roll(begins[::-1], 1), sums)[::-1]

    def double(state):
        distance, ratio, total = state
        on = lambda values: ratio * jnp.roll(values, -distance, axis=0)
        goes_on = follow >= distance
        total = total + jnp.where(goes_on, on(total), 0.0)
        return 2 * distance, jnp.where(goes_on, on(ratio), 0.0), total

    is_shorter = lambda state: state[0] <= jnp.max(follow)
    *_, total = lax.while_loop(is_shorter, double, (1, ratio, cotangent))
    return _ratio(log_terms, sums) * total, None


running_log_sums.defvjp(_forward, _backward)


def _by_pairs(begins, of_pairs, otherwise):
    """Values of pairs (sum, term), and ``otherwise`` where the term is not of the sum."""
    run, place = jnp.cumsum(begins), jnp.arange(len(begins))
    is_of = (run[:, None] == run) & (place[:, None] >= place)
    return jnp.where(is_of.reshape(*is_of.shape, *[1] * (of_pairs.ndim - 2)), of_pairs, otherwise)


def log_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """log(e^a + e^b), whose gradient where both are −∞ is zero and not 0/0."""
    nothing = jnp.isneginf(a) & jnp.isneginf(b)
    total = jnp.logaddexp(jnp.where(nothing, 0.0, a), jnp.where(nothing, 0.0, b))
    return jnp.where(nothing, -jnp.inf, total)


def _ratio(part, whole):
    """e^(part - whole), and nought where both are nought."""
    return jnp.where(jnp.isneginf(part), 0.0, jnp.exp(part - whole))


def _place_in_run(begins, like):
    """How many terms of its run come before each, as a column beside the others' axes."""
    place = jnp.arange(len(begins))
    return as_column(place - lax.cummax(jnp.where(begins, place, 0)), like)


def as_column(values: jax.Array, like: jax.Array) -> jax.Array:
    """One number for each element of the leading axis, beside the other axes of ``like``."""
    return values.reshape(-1, *[1] * (like.ndim - 1))
