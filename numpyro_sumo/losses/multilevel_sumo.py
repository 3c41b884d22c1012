"""SUMO's successor with finite variance: levels of doubled draws instead of single ones."""

from collections.abc import Collection
import math
from typing import Any

import numpy as np

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from numpyro_sumo.checks import check_one_of, check_stopping_time
from numpyro_sumo.estimators import TRUNCATIONS, multilevel
from numpyro_sumo.ragged import Particle, evaluate_levels
from numpyro_sumo.stopping_times import GeometricTail, StoppingTime

from .base import Draws, ImportanceLoss

#: Where work times variance is least, for each way of cutting the sum short.
_BEST_TAILS = {"roulette": GeometricTail(0.6340), "single": GeometricTail(1 - 2**-1.5)}

#: A tail that ends while it is likelier than this was cut short on purpose.
_NEARLY_IMPOSSIBLE = 2.0**-20

#: Blocks of draws are counted in int32.
_MOST_LEVELS = 24


class MultilevelSUMO(ImportanceLoss):
    r"""The multilevel estimate of log p(x): unbiased, with finite variance at finite cost.

    .. math::
        I_0 + \sum_{k=1}^{K} \frac{\Delta_k}{P(K \ge k)}, \qquad
        \Delta_k = L_{2^k m} - \tfrac12 \big( L'_{2^{k-1} m} + L''_{2^{k-1} m} \big)

    :math:`2^K` blocks of m particles are drawn; :math:`I_0` is the mean of :math:`L_m` over them,
    and :math:`L'`, :math:`L''` are the bounds over the halves of the draws of :math:`L_{2^k m}`.
    Halves cancel to first order, so that :math:`E[\Delta_k^2]` falls as :math:`4^{-k}` where cost
    rises as :math:`2^k`. Unbiased for :math:`E[L_{2^c m}]`, c the largest possible level (17 by
    default). Heavy-tailed weights want a larger m: the variance is finite if that of the weights
    is, and some higher moments. Where weights can be zero, so does a block of nothing but zeros,
    which makes the estimate −∞ (as it does the mean of :math:`L_m`).

    Data have stopping times of their own, or share one, as in :class:`~numpyro_sumo.SUMO`.

    Number of particles, guide objective and gradient are by default those that did best, or nearly
    so, draw for draw, on the six models of ``benchmarks/defaults.py``.

    :param num_particles: m, the block size, an integer ≥ 1. The mean number of draws is
        :math:`m\, E[2^K]`, 4.7 m by default.
    :param truncation: ``"roulette"``, as above; or ``"single"``: :math:`I_0 + \Delta_K / P(K = K)`
        alone.
    :param stopping_time: the distribution of K; by default the geometric one with the least
        variance times work.
    :param guide_objective: as in :class:`~numpyro_sumo.SUMO`; ``"iwelbo"`` is the mean bound over
        the two blocks that are always drawn.
    :param gradient: how the guide climbs under ``"iwelbo"``: as in :class:`~numpyro_sumo.IWELBO`.
    :param from_above: begin from the upper bound, inside ReverseKL only: the generating draw is one
        of the m particles of each block, and of every bound over several.
    :param data_axes: the axis of the data in each positional argument of model and guide, with the
        meaning of ``in_axes`` in :func:`jax.vmap` (keyword arguments are not split): each datum
        then has a stopping time of its own. Programs with a plate over that axis are run for
        batches of one, others for single data.
    :param share_stopping_times: one stopping time for all data, where elements of a subsampled
        plate would have their own: for programs in which they look at each other.
    :param sharding: a :class:`jax.sharding.NamedSharding` over one axis of a mesh, of type Auto;
        draws that are evaluated together are split over its devices. The numbers stay the same.
    :param chunk_size: log-weights evaluated at a time, rounded down to blocks, and never less than
        one; memory is that of two chunks, and of c scalars for each datum. By default the first
        draws and most of the tails are evaluated together, and the rest by data.
    :raises ValueError: for options outside these, for a stopping time under which the mean number
        of draws is not finite, and in ``loss`` for a guide that does not fit the model.

    **Reference:** Shi and Cornish 2021, *On multilevel Monte Carlo unbiased gradient estimation for
    deep latent variable models*; Blanchet and Glynn 2015, *Unbiased Monte Carlo for optimization
    and functions of expectations via multi-level randomization*.

    >>> import jax, optax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import SVI, autoguide
    >>> from numpyro_sumo import MultilevelSUMO
    >>> def model(x):
    ...     z = numpyro.sample("z", dist.Normal())
    ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> svi = SVI(model, autoguide.AutoNormal(model), optax.adam(1e-2), loss=MultilevelSUMO(4))
    >>> result = svi.run(jax.random.key(0), 100, 1.5, progress_bar=False)
    """

    stopping_time: StoppingTime

    guide_objectives = ("iwelbo", "variance", "forward_kl")

    def __init__(
        self,
        num_particles: int = 4,
        *,
        truncation: str = "roulette",
        stopping_time: StoppingTime | None = None,
        guide_objective: str | None = None,
        gradient: str | None = None,
        from_above: bool = False,
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
        check_one_of("truncation", truncation, TRUNCATIONS)
        self.truncation = truncation
        self.stopping_time = _BEST_TAILS[truncation] if stopping_time is None else stopping_time
        check_stopping_time(self.stopping_time)
        _check_cost(self.stopping_time)
        self.from_above = from_above
        if self.num_fresh < 1:
            raise ValueError(
                "Expected num_particles >= 2, for the generating draw is one of them; "
                f"got {num_particles}. Pass at least 2."
            )

    @property
    def mean_draws(self) -> float:
        levels = np.arange(1, self.stopping_time.cap + 1)
        mean_blocks = float(np.sum(self.stopping_time.probabilities * 2.0**levels))
        return self.from_above + self.num_fresh * mean_blocks

    def draw(
        self,
        rng_key: jax.Array,
        particle: Particle,
        num_data: int = 1,
        given: dict[str, jax.Array] | None = None,
        fresh_only: Collection[str] = (),
    ) -> Draws:
        plan, levels = self.plan(num_data), self.draw_stopping_times(rng_key, num_data)
        blocks = lambda num_draws: max(1, num_draws // self.num_fresh)
        sums = evaluate_levels(
            particle,
            rng_key,
            levels,
            block_size=self.num_fresh,
            max_level=self.stopping_time.cap,
            first_chunk=plan.first_chunk // self.num_fresh,
            chunk_size=blocks(plan.chunk_size),
            at_once=None if plan.at_once is None else blocks(plan.at_once),
            given=given,
            head_only=fresh_only,
            sharding=self.sharding,
        )
        return Draws(sums, levels, given or {})

    def num_head(self, num_data: int) -> int:
        return 2 * self.num_fresh

    def estimate(self, draws: Draws, *views: str) -> jax.Array:
        sums, given = draws.seen(views)
        bounds = sums.bounds if given is None else sums.bounds_with_given
        levels = draws.times_for(bounds)
        estimate = multilevel(
            sums.log_sums,
            bounds / 2.0**levels,
            levels,
            self.num_fresh,
            self.stopping_time,
            truncation=self.truncation,
            given=None if given is None else given - sums.reference,
        )
        return sums.reference + estimate

    def fresh_bound(self, draws: Draws, view: str) -> jax.Array:
        sums = draws.kept[view]
        return sums.reference + jnp.mean(sums.log_sums[:2], axis=0) - math.log(self.num_fresh)


def _check_cost(stopping_time: StoppingTime) -> None:
    """Refuses tails under which doubling draws costs more and more, level by level."""
    survival = stopping_time.survival
    cut_short = survival[-1] > _NEARLY_IMPOSSIBLE
    if not cut_short and 2.0 * survival[-1] >= survival[-2]:
        raise ValueError(
            "Expected a stopping time with a finite mean number of draws, P(K >= k) falling faster "
            f"than 2^-k; that of {stopping_time!r} does not. Pass a GeometricTail with "
            "success_probability above 1/2, or one that is cut short."
        )
    if stopping_time.cap > _MOST_LEVELS:
        raise ValueError(
            f"Expected a stopping time of at most {_MOST_LEVELS} levels, for level k draws 2^k "
            f"blocks; {stopping_time!r} goes to {stopping_time.cap}. Pass GeometricTail()."
        )
