"""SUMO: the importance-weighted bound made unbiased by a Russian-roulette tail."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from numpyro_sumo.checks import check_positive_integer, check_stopping_time
from numpyro_sumo.estimators import importance_weighted_bound, russian_roulette
from numpyro_sumo.ragged import PATH, Particle, TailSums, evaluate_tails
from numpyro_sumo.stopping_times import ReciprocalTail, StoppingTime

from .base import Draws, ImportanceLoss, with_given

_PAPER = ReciprocalTail()


class SUMO(ImportanceLoss):
    r"""The stochastically unbiased marginalisation objective.

    .. math::
        L_m + \sum_{j=1}^{K} \frac{L_{m+j} - L_{m+j-1}}{P(K \ge j)}, \qquad
        L_k = \log \frac1k \sum_{i=1}^k \frac{p(x, z_i)}{q(z_i \mid x)}, \quad z_i \sim q(z \mid x)

    Unbiased for :math:`E[L_{m + c}]`, c the largest possible stopping time (196 by default). That
    is log p(x) less about Var(w) / 2(m + c)E[w]², w being one weight. **Its variance is not
    finite** as c grows: the squared increments fall only as 1/k² against a survival of 1/k, and
    single estimates can be off by thousands of nats. Its mean is right all the same.

    Each element of a subsampled plate that encloses all sites has a stopping time of its own, if
    model and guide follow the plate's indices (data by ``numpyro.subsample`` or indexing) and have
    no mutable state. They are then run for one element at a time, and what they make of the
    batch's length or of statistics over it would be that of one element: pass
    ``share_stopping_times=True`` where that matters. So has each datum that ``data_axes`` splits
    off, and every draw of x inside :class:`~numpyro_sumo.ReverseKL`. Work is then what was drawn
    for each. Otherwise one stopping time is drawn per step and shared by all data, whose estimates
    are large or small together: the variance of their sum grows as the square of their number
    (``benchmarks/speed.py``).

    Number of particles, guide objective and gradient are by default those that did best, or nearly
    so, draw for draw, on the six models of ``benchmarks/defaults.py``.

    :param num_particles: m, the particles always drawn, an integer ≥ 1; the same m as in
        :class:`~numpyro_sumo.IWELBO`. The mean number of draws is m + E[K].
    :param stopping_time: the distribution of K.
    :param guide_objective: what the guide is fitted by, as the expectation of the estimate does not
        depend on it: ``"iwelbo"``, the bound over the first m particles (the default);
        ``"variance"``, the squared difference between the estimate and a baseline from 32
        independent draws (the paper's, plus the baseline; quiet near the posterior, but blind while
        the guide is much narrower than it: begin with a wide one); or, inside ReverseKL,
        ``"forward_kl"``, −log r(u | x) at the draw that generated x (the default there).
    :param gradient: how the guide climbs under ``"iwelbo"``: as in :class:`~numpyro_sumo.IWELBO`.
    :param from_above: begin from the upper bound, with the generating draw as the first of the m
        particles, inside ReverseKL only: unbiased for E log q(x) as before, with tamer increments.
    :param rotations: average the estimate over this many rotations of the order of the draws.
        Given K the draws are exchangeable, so its mean stays; its variance falls, at the cost of
        arithmetic on scalars and of no further draw.
    :param data_axes: the axis of the data in each positional argument of model and guide, with the
        meaning of ``in_axes`` in :func:`jax.vmap` (keyword arguments are not split): each datum
        then has a stopping time of its own. Programs with a plate over that axis are run for
        batches of one, others for single data.
    :param share_stopping_times: one stopping time for all data, where elements of a subsampled
        plate would have their own: for programs in which they look at each other.
    :param sharding: a :class:`jax.sharding.NamedSharding` over one axis of a mesh, of type Auto;
        draws that are evaluated together are split over its devices. The numbers stay the same.
    :param chunk_size: log-weights evaluated at a time; memory is that of two chunks and, for each
        datum, of a few scalars more than m: of m + c for an only datum, and with rotations. By
        default the first draws and most of the tails are evaluated together, and the rest by data.
    :raises ValueError: for options outside these, and in ``loss`` for a guide that does not fit the
        model.

    **Reference:** Luo et al. 2020, *SUMO: Unbiased estimation of log marginal probability for
    latent variable models*, eq. (6).

    >>> import jax, optax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import SVI, autoguide
    >>> from numpyro_sumo import SUMO
    >>> def model(x):
    ...     z = numpyro.sample("z", dist.Normal())
    ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> svi = SVI(model, autoguide.AutoNormal(model), optax.adam(1e-2), loss=SUMO(8))
    >>> result = svi.run(jax.random.key(0), 100, 1.5, progress_bar=False)
    """

    stopping_time: StoppingTime

    guide_objectives = ("iwelbo", "variance", "forward_kl")
    first_chunk_share = 1.2

    def __init__(
        self,
        num_particles: int = 4,
        *,
        stopping_time: StoppingTime = _PAPER,
        guide_objective: str | None = None,
        gradient: str | None = None,
        from_above: bool = False,
        rotations: int = 1,
        data_axes: Any = None,
        chunk_size: int | None = None,
        sharding: NamedSharding | None = None,
        share_stopping_times: bool = False,
    ):
        super().__init__(
            num_particles,
            guide_objective,
            chunk_size,
            gradient,
            data_axes,
            sharding,
            share_stopping_times,
        )
        check_stopping_time(stopping_time)
        check_positive_integer("rotations", rotations)
        self.stopping_time = stopping_time
        self.from_above = from_above
        self.rotations = rotations

    def draw(
        self,
        rng_key: jax.Array,
        particle: Particle,
        num_data: int = 1,
        given: dict[str, jax.Array] | None = None,
        fresh_only: Collection[str] = (),
    ) -> Draws:
        if num_data == 1 or self.rotations > 1:
            # In rows: for an only datum they are quicker, and rotations need them.
            return super().draw(rng_key, particle, num_data, given, fresh_only)
        plan, stopping_times = self.plan(num_data), self.draw_stopping_times(rng_key, num_data)
        sums = evaluate_tails(
            particle,
            rng_key,
            stopping_times,
            self.stopping_time,
            num_always=plan.num_head,
            first_chunk=plan.first_chunk,
            chunk_size=plan.chunk_size,
            at_once=plan.at_once,
            given=given,
            head_only=fresh_only,
            sharding=self.sharding,
        )
        return Draws(sums, stopping_times, given or {})

    def estimate(self, draws: Draws, *views: str) -> jax.Array:
        kept, given = draws.seen(views)
        if not isinstance(kept, TailSums):
            num_given = int(given is not None)
            return russian_roulette(
                with_given(kept, given),
                self.num_fresh + num_given,
                draws.times_for(kept[0]),
                self.stopping_time,
                num_given=num_given,
                rotations=self.rotations,
            )
        bound = importance_weighted_bound(with_given(kept.always, given))
        tail = kept.tail if given is None else kept.tail_with_given
        return jnp.where(jnp.isneginf(bound), -jnp.inf, bound + tail)

    def fresh_bound(self, draws: Draws, view: str) -> jax.Array:
        kept = draws.kept[view]
        if not isinstance(kept, TailSums):
            return super().fresh_bound(draws, view)
        return importance_weighted_bound(kept.always, score_free=view == PATH)
