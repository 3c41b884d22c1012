"""The chain of IndependenceMetropolis over proposals that have been drawn and weighted already."""

import numpy as np

#: A chain starts at one of so many of its proposals, chosen by weight.
_POOL = 64


def chain_of_draws(
    rng: np.random.Generator, log_weights: np.ndarray, num_chains: int
) -> tuple[np.ndarray, float]:
    r"""Metropolis–Hastings whose proposals are independent draws of a guide, in their order.

    .. math::
        P(\text{accept } z') = \min(1, w' / w), \qquad w = p(x, z) / \hat q(z)

    The draws are dealt to the chains. With weights that are unbiased for integrals over p, as those
    of a :class:`~numpyro_sumo.Certificate`, the posterior is invariant, as in
    :class:`~numpyro_sumo.IndependenceMetropolis`, and no density is evaluated again.

    :param log_weights: log w of each draw, in nats, shape ``(draws,)``; −∞ is never accepted.
    :param num_chains: an integer ≥ 1.
    :return: which draw each state is, shape ``(num_chains, states)``; and the acceptance rate.
    """
    count = len(log_weights) // num_chains
    dealt = np.arange(num_chains * count).reshape(num_chains, count)
    weights = np.asarray(log_weights, np.float64)[dealt]
    pool = min(_POOL, count)
    gumbel = rng.gumbel(size=(num_chains, pool))
    at = np.argmax(weights[:, :pool] + gumbel, axis=1)
    chains = np.arange(num_chains)
    log_uniform = np.log(rng.uniform(size=(num_chains, count)))
    states = np.empty((num_chains, count - pool), int)
    accepted = 0
    for i in range(pool, count):
        accept = log_uniform[:, i] < weights[:, i] - weights[chains, at]
        at = np.where(accept, i, at)
        accepted += int(accept.sum())
        states[:, i - pool] = at
    return dealt[chains[:, None], states], accepted / states.size
