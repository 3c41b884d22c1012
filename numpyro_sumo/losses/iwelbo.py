"""The importance-weighted bound as a loss."""

from typing import Any

from jax.sharding import NamedSharding

from .base import ImportanceLoss


class IWELBO(ImportanceLoss):
    r"""The importance-weighted evidence lower bound.

    .. math::
        \log \frac1m \sum_{j=1}^m \frac{p(x, z_j)}{q(z_j \mid x)}, \qquad z_j \sim q(z \mid x)

    A lower bound on log p(x) in expectation, with a bias of O(1/m); one particle gives the ELBO.

    Number of particles, guide objective and gradient are by default those that did best, or nearly
    so, draw for draw, on the six models of ``benchmarks/defaults.py``.

    :param num_particles: m, an integer ≥ 1.
    :param guide_objective: ``"iwelbo"`` (the guide climbs the bound too, the default) or, inside
        :class:`~numpyro_sumo.ReverseKL`, ``"forward_kl"`` (the default there).
    :param gradient: how the guide climbs: ``"dreg"``, the doubly reparameterised gradient, of the
        same mean, with no noise where the guide is the posterior; or ``"standard"``. None is "dreg"
        for guides that depend on their parameters through random draws alone, and "standard" for
        the others (AutoDelta, AutoDAIS). The model's parameters get the same from either.
    :param data_axes: the axis of the data in each positional argument of model and guide, with the
        meaning of ``in_axes`` in :func:`jax.vmap` (keyword arguments are not split). Programs with
        a plate over that axis are run for batches of one, others for single data.
    :param sharding: a :class:`jax.sharding.NamedSharding` over one axis of a mesh, of type Auto;
        draws that are evaluated together are split over its devices. The numbers stay the same.
    :param chunk_size: log-weights evaluated at a time; None evaluates all of them at once.
    :raises ValueError: for options outside these, and in ``loss`` for a guide that does not fit the
        model.

    **References:** Burda et al. 2016, *Importance weighted autoencoders*, eq. (8); Tucker et al.
    2019,
    *Doubly reparameterized gradient estimators for Monte Carlo objectives*, eq. (8).

    >>> import jax, optax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import SVI, autoguide
    >>> from numpyro_sumo import IWELBO
    >>> def model(x):
    ...     z = numpyro.sample("z", dist.Normal())
    ...     numpyro.sample("x", dist.Normal(z, 1.0), obs=x)
    >>> svi = SVI(model, autoguide.AutoNormal(model), optax.adam(1e-2), loss=IWELBO(8))
    >>> result = svi.run(jax.random.key(0), 100, 1.5, progress_bar=False)
    """

    guide_objectives = ("iwelbo", "forward_kl")

    def __init__(
        self,
        num_particles: int = 4,
        *,
        guide_objective: str | None = None,
        gradient: str | None = None,
        data_axes: Any = None,
        chunk_size: int | None = None,
        sharding: NamedSharding | None = None,
    ):
        super().__init__(num_particles, guide_objective, chunk_size, gradient, data_axes, sharding)
