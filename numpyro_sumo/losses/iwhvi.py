"""The importance-weighted upper bound on a hierarchical sampler's log-density."""

from jax.sharding import NamedSharding

from .base import ImportanceLoss


class IWHVI(ImportanceLoss):
    r"""The importance-weighted *upper* bound, with the generating draw among the particles.

    .. math::
        \log \frac1m \sum_{j=0}^{m-1} \frac{q(x, u_j)}{r(u_j \mid x)}, \qquad
        (x, u_0) \sim q(x, u), \quad u_1 \dots u_{m-1} \sim r(u \mid x)

    An upper bound on E log q(x), hence one on KL(q ‖ p) when put into
    :class:`~numpyro_sumo.ReverseKL`, which is the only place where the generating draw is known.
    One particle gives the bound of hierarchical variational models (Ranganath et al. 2016); it goes
    with ``gradient="standard"``.

    :param num_particles: m, an integer ≥ 1, the generating draw included.
    :param guide_objective: what the reverse model descends: ``"forward_kl"`` (the default, which
        did better in ``benchmarks/funnel_variants/__main__.py``), −log r(u₀ | x); or ``"iwhvi"``, the bound
        itself.
    :param chunk_size: log-weights evaluated at a time; None evaluates all of them at once.
    :param sharding: as in :class:`~numpyro_sumo.SUMO`.
    :raises ValueError: for options outside these; in ``loss``, outside ReverseKL.

    **Reference:** Sobolev and Vetrov 2019, *Importance weighted hierarchical variational
    inference*, theorem 1.

    >>> from numpyro_sumo import IWHVI, ReverseKL
    >>> ReverseKL(marginal=IWHVI(16)).marginal.num_particles
    16
    """

    guide_objectives = ("iwhvi", "forward_kl")
    from_above = True

    def __init__(
        self,
        num_particles: int = 16,
        *,
        guide_objective: str | None = None,
        chunk_size: int | None = None,
        sharding: NamedSharding | None = None,
    ):
        super().__init__(num_particles, guide_objective, chunk_size, sharding=sharding)
