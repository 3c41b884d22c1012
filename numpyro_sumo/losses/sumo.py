"""SUMO: the importance-weighted bound made unbiased by a Russian-roulette tail."""

from dataclasses import dataclass, field
from typing import ClassVar

import jax

from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.estimators.roulette import russian_roulette
from numpyro_sumo.stopping_times import ReciprocalTail, StoppingTime, check_stopping_time

from .base import ImportanceLoss
from .objectives import Sample


@dataclass(kw_only=True, eq=False, repr=False)
class SUMO(ImportanceLoss):
    r"""The stochastically unbiased marginalisation objective.

    .. math::
        L_m + \sum_{j=1}^{K} \frac{L_{m+j} - L_{m+j-1}}{P(K \ge j)}, \qquad
        L_k = \log \frac1k \sum_{i=1}^k \frac{p(x, z_i)}{q(z_i \mid x)}, \quad z_i \sim q(z \mid x)

    Unbiased for :math:`E[L_{m + c}]`, c the largest possible stopping time (196 by default). With a
    tail that is cut short, such as ``ReciprocalTail(knee=4, decay=0.0)``, it is unbiased for the
    bound over so many draws and no more, which its ``repr`` says. Its
    bias for log p(x) is about −Var(w) / (2 (m + c) E[w]²) nats, w being one weight. **Its variance
    grows without bound** as c grows, since squared increments fall only as 1/k² and the survival as
    1/k: single estimates can be far off.

    Each element of a plate that encloses all sample sites has its own stopping time, whether the
    plate is subsampled or not, if the draws of one element do not affect another: model and guide
    are traced once, and one element is computed by the operations that it needs. Each datum that
    ``data_axes`` splits off, and every draw of x inside :class:`~numpyro_sumo.ReverseKL`, also has
    its own. Otherwise all data share one stopping time per step, a warning says why, and the
    variance of the sum of their estimates grows as the square of their number.

    Defaults had the lowest, or nearly the lowest, loss at equal total draws on six models
    (``benchmarks/defaults``). Options that are not listed here are those of
    :class:`~numpyro_sumo.losses.base.ImportanceLoss`.

    :param num_particles: m, the particles always drawn, an integer ≥ 1; the same m as in
        :class:`~numpyro_sumo.IWELBO`. The mean number of draws is m + E[K].
    :param stopping_time: the distribution of K.
    :param from_above: include the u that generated x as the first of the m particles (an upper
        bound), and estimate the rest from fresh draws. ReverseKL only.
    :param rotations: average the estimate over this many rotations of the order of the draws.
        Given K the draws are exchangeable, so the mean is unchanged and the variance falls, without
        further draws.
    :param share_stopping_times: one stopping time for all data, where each would have its own.
    :raises ValueError: for options outside these, and in ``loss`` for a guide that does not match
        the model.

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

    guide_objectives: ClassVar[tuple[str, ...]] = ("iwelbo", "variance", "forward_kl")
    first_chunk_share: ClassVar[float] = 1.2

    stopping_time: StoppingTime = field(default_factory=ReciprocalTail)
    from_above: bool = False
    rotations: int = 1
    share_stopping_times: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_stopping_time(self.stopping_time)
        check_positive_integer("rotations", self.rotations)

    def estimate(self, sample: Sample) -> jax.Array:
        num_generating = int(sample.generating is not None)
        return russian_roulette(
            sample.log_weights,
            self.num_fresh + num_generating,
            sample.times_for(sample.kept[0]),
            self.stopping_time,
            num_generating=num_generating,
            rotations=self.rotations,
        )
