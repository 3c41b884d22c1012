"""The importance-weighted upper bound on a hierarchical sampler's log-density."""

from dataclasses import dataclass, field
from typing import ClassVar

from .base import ImportanceLoss


@dataclass(kw_only=True, eq=False)
class IWHVI(ImportanceLoss):
    r"""The importance-weighted *upper* bound, with the generating draw among the particles.

    .. math::
        \log \frac1m \sum_{j=0}^{m-1} \frac{q(x, u_j)}{r(u_j \mid x)}, \qquad
        (x, u_0) \sim q(x, u), \quad u_1 \dots u_{m-1} \sim r(u \mid x)

    An upper bound on E log q(x), in nats, hence one on KL(q ‖ p) inside
    :class:`~numpyro_sumo.ReverseKL`, which is the only place where the generating draw is known.
    The reverse model minimises −log r(u₀ | x), ``"forward_kl"``. One particle gives the bound of
    hierarchical variational models (Ranganath et al. 2016); it needs ``gradient="standard"`` in
    ReverseKL.

    :param num_particles: m, an integer ≥ 1, the generating draw included.
    :param chunk_size: as in :class:`~numpyro_sumo.losses.base.ImportanceLoss`; likewise
        ``sharding``.
    :raises ValueError: for options outside these; in ``loss``, outside ReverseKL.

    **Reference:** Sobolev and Vetrov 2019, *Importance weighted hierarchical variational
    inference*, theorem 1.

    >>> from numpyro_sumo import IWHVI, ReverseKL
    >>> ReverseKL(marginal=IWHVI(16)).marginal.num_particles
    16
    """

    guide_objectives: ClassVar[tuple[str, ...]] = ("forward_kl",)

    num_particles: int = field(default=16, kw_only=False)
    guide_objective: str | None = field(default=None, init=False, repr=False)
    gradient: str | None = field(default=None, init=False, repr=False)
    data_axes: None = field(default=None, init=False, repr=False)
    from_above: bool = field(default=True, init=False, repr=False)
