"""An optimiser for unbiased gradients with rare, large terms, which it does not shrink."""

from typing import NamedTuple

import optax

import jax
import jax.numpy as jnp

from .checks import check_positive_integer, check_share

#: The learning rate falls geometrically from the first value to the second.
_FIRST_RATE, _LAST_RATE = 2e-2, 2e-3


class PastRMSState(NamedTuple):
    """Number of gradients so far, and the mean of their squares for each parameter."""

    num_gradients: jax.Array
    mean_square: optax.Params


class AverageState(NamedTuple):
    """State of the optimiser, number of steps, and mean of the iterates since averaging began."""

    inner: optax.OptState
    num_steps: jax.Array
    mean: optax.Params


def averaged_adam(
    num_steps: int,
    learning_rate: optax.ScalarOrSchedule | None = None,
    *,
    b1: float = 0.9,
    averaged_share: float = 0.5,
) -> optax.GradientTransformation:
    r"""Adam for unbiased losses: denominators from the past alone, and averaged iterates.

    Gradient :math:`g_t` of a parameter :math:`\theta` is divided by the root mean square of the
    gradients *before* it, and limited to :math:`\sqrt t` times that:

    .. math::
        u_t = \mathrm{clip}\Big(\frac{g_t}{\sqrt{v_{t-1}}}, \pm\sqrt t\Big), \qquad
        v_t = v_{t-1} \Big(1 + \frac{2\,(u_t^2 - 1)}{t + 1}\Big), \qquad
        m_t = b_1 m_{t-1} + (1 - b_1)\,u_t, \qquad
        \theta_t = \theta_{t-1} - \eta_t m_t

    (:math:`u` = ±1 and :math:`v = g^2` at the first non-zero gradient). Step ``num_steps`` moves to
    the mean of the iterates of the last half, which is the result: take exactly that many steps.

    **What it keeps.** Adam divides :math:`g_t` by a mean that contains :math:`g_t^2`, so no
    gradient moves a parameter by more than about :math:`\eta / \sqrt{1 - b_2}`, 32 learning rates
    by default. An unbiased estimate has rare gradients that are larger, and Adam then stops where
    the mean of the *shrunk* gradients is zero. Here :math:`v_{t-1}` is known before :math:`g_t` is
    drawn. Below the limit the step is therefore linear in the gradient:
    :math:`E[u_t \mid \text{past}] = E[g_t \mid \text{past}] / \sqrt{v_{t-1}}` is zero if and only
    if the mean gradient is. If the gradient has a variance, v converges and the limit is reached
    finitely often, since :math:`\sum_t P(g^2 > t v) \le E[g^2] / v` (Borel and Cantelli). Momentum
    keeps the sum of what it is given: :math:`\sum_{s \le t} m_s + \frac{b_1}{1 - b_1} m_t =
    \sum_{s \le t} u_s`. What is left is the noise of the iterates. Averaging reduces it nearly to
    the least that so many gradients allow, whatever the learning rate (Polyak and Juditsky). A
    gradient whose variance is not finite, or as large as :class:`~numpyro_sumo.SUMO`'s, has no such
    guarantee.

    One gradient that is not finite makes its parameters NaN, as in ``optax.adam``.

    :param num_steps: the number of training steps, an integer ≥ 1.
    :param learning_rate: a number or an optax schedule; by default it falls geometrically from
        2e-2 to 2e-3 over ``num_steps``. With one that falls much faster, training can end before
        parameters that start far off have arrived. Neural networks may diverge at the default: pass
        a schedule that begins where you would begin with Adam.
    :param b1: the decay of the momentum, in [0, 1).
    :param averaged_share: the share of the steps, the last ones, over whose iterates the mean is
        taken, in [0, 1); 0 for none.
    :return: an optax transformation; it needs the parameters in ``update``.
    :raises ValueError: for options outside these; one line.

    **References:** Taniguchi et al. 2024, *ADOPT: Modified Adam can converge with any β₂ with the
    optimal rate* (denominators from the past; it limits by :math:`t^{1/4}`, which needs a fourth
    moment); Reddi, Kale and Kumar 2018, *On the convergence of Adam and beyond* (AdamNC: memory
    that grows with t); Polyak and Juditsky 1992, *Acceleration of stochastic approximation by
    averaging*.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import SVI, autoguide
    >>> from numpyro_sumo import MultilevelSUMO, averaged_adam
    >>> def model(x):
    ...     scale = numpyro.param("scale", 1.0, constraint=dist.constraints.positive)
    ...     z = numpyro.sample("z", dist.Normal(0.0, scale))
    ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> svi = SVI(model, autoguide.AutoNormal(model), averaged_adam(1_000), loss=MultilevelSUMO())
    >>> result = svi.run(jax.random.key(0), 1_000, 2.0, progress_bar=False)
    >>> print(f"{result.params['scale']:.1f}")  # exact: the square root of 2² − 1
    1.7
    """
    check_positive_integer("num_steps", num_steps)
    check_share("b1", b1)
    check_share("averaged_share", averaged_share)
    if learning_rate is None:
        learning_rate = optax.exponential_decay(_FIRST_RATE, num_steps, _LAST_RATE / _FIRST_RATE)
    steps = optax.chain(
        scale_by_past_rms(),
        # Without its correction for the start, which would not keep the sum.
        optax.ema(b1, debias=False),
        optax.scale_by_learning_rate(learning_rate),
    )
    return average_iterates(steps, num_steps, num_steps - round(averaged_share * num_steps))


def scale_by_past_rms() -> optax.GradientTransformation:
    """Divide each gradient by the root mean square of those before it; see averaged_adam."""

    def init(params: optax.Params) -> PastRMSState:
        return PastRMSState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: PastRMSState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, PastRMSState]:
        del params
        count = optax.safe_increment(state.num_gradients)
        limit, weight = jnp.sqrt(count), 2.0 / (count + 1)

        def scale(g: jax.Array, v: jax.Array) -> jax.Array:
            # The first non-zero gradient is divided by its own size; zeros before it stay zeros.
            rms = jnp.where(v > 0.0, jnp.sqrt(v), jnp.abs(g))
            return jnp.clip(g / jnp.where(rms == 0.0, 1.0, rms), -limit, limit).astype(g.dtype)

        def mean_square(g: jax.Array, u: jax.Array, v: jax.Array) -> jax.Array:
            # From the limited ratio: otherwise one huge gradient would shrink all later steps.
            return jnp.where(v > 0.0, v * (1.0 + weight * (u * u - 1.0)), g * g).astype(v.dtype)

        scaled = jax.tree.map(scale, updates, state.mean_square)
        means = jax.tree.map(mean_square, updates, scaled, state.mean_square)
        return scaled, PastRMSState(count, means)

    return optax.GradientTransformation(init, update)


def average_iterates(
    optim: optax.GradientTransformation, num_steps: int, start: int
) -> optax.GradientTransformation:
    """Polyak–Ruppert averaging: step ``num_steps`` moves to the mean iterate after ``start``.

    :param start: the number of steps before averaging begins; ``num_steps`` for no averaging.
    """

    def init(params: optax.Params) -> AverageState:
        zero = jnp.zeros([], jnp.int32)
        return AverageState(optim.init(params), zero, optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: AverageState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, AverageState]:
        if params is None:
            raise ValueError("Expected params, to average them; got None. Pass them to update.")
        updates, inner = optim.update(updates, state.inner, params)
        count = optax.safe_increment(state.num_steps)
        weight = 1.0 / jnp.maximum(count - start, 1)
        mean = jax.tree.map(
            lambda mean, at, step: (mean + weight * (at + step - mean)).astype(at.dtype),
            state.mean,
            params,
            updates,
        )
        is_last = (count == num_steps) & (start < num_steps)
        updates = jax.tree.map(
            lambda mean, at, step: jnp.where(is_last, mean - at, step), mean, params, updates
        )
        return updates, AverageState(inner, count, mean)

    return optax.GradientTransformation(init, update)
