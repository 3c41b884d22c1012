"""SUMO's successor with finite variance: levels of doubled draws instead of single ones."""

from collections.abc import Callable
from dataclasses import dataclass, field
import math
from typing import ClassVar

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro_sumo.estimators.multilevel import multilevel
from numpyro_sumo.estimators.taylor import compose, parameters
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params
from numpyro_sumo.ragged.evaluate import evaluate_ragged
from numpyro_sumo.ragged.level_derivatives import LevelDerivatives
from numpyro_sumo.ragged.levels import Levels
from numpyro_sumo.ragged.particle import MODEL, Particle
from numpyro_sumo.ragged.queue import Queue
from numpyro_sumo.stopping_times import GeometricTail, StoppingTime, check_stopping_time

from .base import ImportanceLoss
from .layout import layout_of
from .objectives import Sample, SampleViews
from .particles import model_key

#: Blocks of draws are counted in int32.
_MOST_LEVELS = 24


@dataclass(kw_only=True, eq=False, repr=False)
class MultilevelSUMO(ImportanceLoss):
    r"""The multilevel estimate of log p(x): unbiased, with finite variance at finite cost.

    .. math::
        I_0 + \sum_{k=1}^{K} \frac{\Delta_k}{P(K \ge k)}, \qquad
        \Delta_k = L_{2^k m} - \tfrac12 \big( L'_{2^{k-1} m} + L''_{2^{k-1} m} \big)

    :math:`2^K` blocks of m particles are drawn; :math:`I_0` is the mean of :math:`L_m` over them,
    and :math:`L'`, :math:`L''` are the bounds over the halves of the draws of :math:`L_{2^k m}`.
    Halves cancel to first order, so that :math:`E[\Delta_k^2]` falls as :math:`4^{-k}` where cost
    rises as :math:`2^k`. Unbiased for :math:`E[L_{2^c m}]`, c the largest possible level (17 by
    default), in nats: a tail that is cut short (``max_level=2``) is unbiased for the bound over so
    many draws and no more, which the loss's ``repr`` says. The variance is finite if that of the
    weights and some higher moments are. Choose a larger m for heavy-tailed weights, and for weights
    that can be zero: one block with only zero weights makes the estimate −∞.

    Data have their own stopping times, or share one, as in :class:`~numpyro_sumo.SUMO`. Defaults
    had the lowest, or nearly the lowest, loss at equal total draws on six models
    (``benchmarks/defaults``). Options that are not listed here are those of
    :class:`~numpyro_sumo.losses.base.ImportanceLoss`; ``guide_objective="iwelbo"`` is here the mean
    bound over the two blocks that are always drawn, and ``chunk_size`` is rounded down to blocks.

    :param num_particles: m, the block size, an integer ≥ 1. The mean number of draws is
        :math:`m\, E[2^K]`, 4.7 m by default.
    :param stopping_time: the distribution of K; by default the geometric one with the least
        variance times work.
    :param from_above: include the u that generated x among the m particles of each block and of
        every bound over several blocks (an upper bound). ReverseKL only.
    :param share_stopping_times: one stopping time for all data, where each would have its own.
    :raises ValueError: for options outside these, for a stopping time under which the mean number
        of draws is not finite, and in ``loss`` for a guide that does not match the model.

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

    guide_objectives: ClassVar[tuple[str, ...]] = ("iwelbo", "variance", "forward_kl")

    stopping_time: StoppingTime = field(default_factory=GeometricTail)
    from_above: bool = False
    share_stopping_times: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stopping_time(self.stopping_time)
        _check_cost(self.stopping_time)
        if self.num_fresh < 1:
            raise ValueError(
                "Expected num_particles >= 2, for the generating draw is one of them; "
                f"got {self.num_particles}. Pass at least 2."
            )

    @property
    def max_draws(self) -> int:
        return int(self.from_above + self.num_fresh * 2**self.stopping_time.cap)

    @property
    def mean_draws(self) -> float:
        levels = np.arange(1, self.stopping_time.cap + 1)
        mean_blocks = float(np.sum(self.stopping_time.probabilities * 2.0**levels))
        return self.from_above + self.num_fresh * mean_blocks

    def sample(
        self,
        rng_key: jax.Array,
        particle: Particle,
        num_data: int = 1,
        generating: dict[str, jax.Array] | None = None,
        fixed_only: tuple[str, ...] = (),
    ) -> SampleViews:
        levels = self.sample_stopping_times(rng_key, num_data)
        sums = Levels(self.stopping_time.cap, frozenset(fixed_only))
        queue = Queue.of(jnp.left_shift(1, levels), layout_of(self, num_data))
        kept = evaluate_ragged(rng_key, particle, queue, sums, generating)
        return SampleViews(kept, levels, generating or {})

    def sample_derivatives(
        self,
        rng_key: jax.Array,
        programs: Programs,
        params_at: Callable[[jax.Array], Params],
        num_params: int,
        num_estimates: int,
    ) -> jax.Array:
        """Independent estimates of log p(x), its gradient and its Hessian, all without bias.

        They are those of one multilevel estimate, at draws that do not depend on the parameters.

        :param params_at: maps displacements of the model's parameters, shape ``(num_params,)``, to
            the params of the model. The guide keeps those of ``programs``.
        :return: in nats, shape ``(coefficients, num_estimates, *data)``, in the form of
            :func:`~numpyro_sumo.estimators.taylor.compose`; scaled as in the sum over the data.
        """
        if self.from_above:
            self._refuse_alone()
        plate_key, draws_key = random.split(rng_key)
        weights = self._per_datum(plate_key, programs, num_estimates)
        displacements = parameters(num_params)

        def weigh(i: jax.Array, key: jax.Array, _: None, detached: bool) -> jax.Array:
            proposal, of_model = weights.propose(i, key), model_key(key)
            weight_at = lambda at: weights.with_params(params_at(at)).weigh(i, of_model, proposal)
            return compose(weight_at, displacements)

        levels = self.sample_stopping_times(draws_key, weights.num_data)
        sums = LevelDerivatives(self.stopping_time.cap)
        queue = Queue.of(jnp.left_shift(1, levels), layout_of(self, weights.num_data))
        kept = evaluate_ragged(draws_key, Particle(weigh), queue, sums)[MODEL]

        def estimate(of_levels: tuple[jax.Array, jax.Array]) -> jax.Array:
            log_sums, bounds = of_levels
            return self.estimate(
                Sample(kept._replace(log_sums=log_sums, bounds=bounds), levels, None)
            )

        estimates = compose(estimate, (kept.log_sums, kept.bounds))
        return jax.vmap(weights.by_estimate)(estimates * weights.scale_of(estimates[0]))

    def fixed_blocks(self, num_data: int) -> tuple[int, int]:
        return 2, self.num_fresh

    def estimate(self, sample: Sample) -> jax.Array:
        sums, generating = sample.kept, sample.generating
        bounds = sums.bounds if generating is None else sums.bounds_with_generating
        levels = sample.times_for(bounds)
        estimate = multilevel(
            sums.log_sums,
            bounds / 2.0**levels,
            levels,
            self.num_fresh,
            self.stopping_time,
            generating=None if generating is None else generating - sums.reference,
        )
        return sums.reference + estimate

    def fixed_bound(self, sample: Sample, *, score_free: bool = False) -> jax.Array:
        # The sums of a view PATH are score-free already.
        sums = sample.kept
        return sums.reference + jnp.mean(sums.log_sums[:2], axis=0) - math.log(self.num_fresh)


def _check_cost(stopping_time: StoppingTime) -> None:
    """Refuses tails under which doubling draws costs more and more, level by level."""
    survival = stopping_time.survival
    if not stopping_time.is_cut_short and 2.0 * survival[-1] >= survival[-2]:
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
