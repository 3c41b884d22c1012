"""A hierarchical guide for any model with continuous latents, with its neural networks."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.distributions.transforms import ReshapeTransform
from numpyro.handlers import block, seed, substitute
from numpyro.infer.initialization import init_to_uniform

from numpyro_sumo._compat import VectorGuide, at_compile_time
from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.programs.check_latents import check_continuous_latents
from numpyro_sumo.programs.check_params import check_params
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, Program

from .hierarchical import HierarchicalGuide, Sites
from .normal_fit import LARGEST_FULL, fit_normal, has_covariances
from .placement import Placement, check_placement
from .skip_network import check_hidden_sizes, skip_network
from .whitening import Whitening

#: s, the share of the variance of each coordinate y that comes from u at first.
_SHARE = 0.1

#: Number of draws that quantiles are computed from.
_NUM_DRAWS = 10_000


class AutoHierarchicalNormal(HierarchicalGuide, VectorGuide):
    r"""A hierarchical guide for any model with continuous latents.

    In unconstrained space, with d latents in one vector z, and n ≥ d auxiliary normals u, of which
    the first d are :math:`u_{:d}`:

    .. math::
        u \sim N(0, I_n), \qquad z = c + L y, \qquad
        y \mid u \sim N\big(e^{g_\theta(u)} \odot (\sqrt{s}\, u_{:d} + \mu_\theta(u)),
        (1 - s) \operatorname{diag} \sigma_\theta(u)^2\big), \qquad
        r(u_{:d} \mid z) = N\big(\sqrt{s}\, y + \sqrt{1 - s}\, \nu_\phi(y),
        (1 - s) \operatorname{diag} \rho_\phi(y)^2\big)

    with s = 1/10. Each function is a network plus a linear map. The gate exp(g) scales locations,
    for funnels. The reverse networks take y and, for heavy tails, sign(y) log(1 + |y|). The
    location c and the triangular root L are those of a Normal that is fitted when params are
    initialised: from a mean-field fit and, if L has correlations, from modes that Newton's method
    finds. They get no
    gradient (exclude them from weight decay), and the networks start at zero, so the guide starts
    as that Normal with its exact reverse model. Auxiliary normals beyond d have r = N(ν, ρ²). Train
    the guide by :class:`~numpyro_sumo.ReverseKL`, measure its error by
    :func:`~numpyro_sumo.certify`, and correct it by :class:`~numpyro_sumo.IndependenceMetropolis`.

    :param model: a NumPyro model. Only plates without latent sites may be subsampled.
    :param prefix: prefix of the names of the param sites and of the auxiliary site.
    :param init_loc_fn: initial values of the fit; see NumPyro's initialisation strategies.
    :param num_auxiliary: n; None is d + 4.
    :param hidden_sizes: units of the hidden layers of both networks.
    :param full_covariance: whether L has correlations (d ≤ 1,000), or is diagonal; None for up to
        100 coordinates. The fit takes some 1,000 d products with the model's Hessian. Use it for
        time series, where mean field starts far from the posterior, and train at a small learning
        rate.
    :param placement: c and L, from :func:`~numpyro_sumo.place`, which tells what was found from
        many starts; by default they are found when params are initialised.
    :raises ValueError: at construction for options outside these ranges; when called, if n < d, for
        correlations of more than 1,000 coordinates, and for a model without latent sites, with
        discrete ones, with some in a subsampled plate, or with a support that depends on another
        latent site.

    **Reference:** Ranganath et al. 2016, *Hierarchical variational models*, section 3.

    >>> import jax, numpyro, numpyro.distributions as dist, optax
    >>> from numpyro.infer import SVI
    >>> from numpyro_sumo import AutoHierarchicalNormal, ReverseKL
    >>> def model():
    ...     v = numpyro.sample("v", dist.Normal(0.0, 3.0))
    ...     numpyro.sample("x", dist.Normal(0.0, jax.numpy.exp(v / 2)))
    >>> guide = AutoHierarchicalNormal(model, hidden_sizes=(32,))
    >>> svi = SVI(model, guide, optax.adam(1e-3), loss=ReverseKL())
    >>> params = svi.run(jax.random.key(0), 100, progress_bar=False).params
    >>> draws = guide.sample_posterior(jax.random.key(1), params, sample_shape=(1_000,))
    >>> draws["x"].shape
    (1000,)
    """

    def __init__(
        self,
        model: Program,
        *,
        prefix: str = "auto",
        init_loc_fn: Callable[..., Any] = init_to_uniform,
        num_auxiliary: int | None = None,
        hidden_sizes: Sequence[int] = (64, 64),
        full_covariance: bool | None = None,
        placement: Placement | None = None,
    ):
        if num_auxiliary is not None:
            check_positive_integer("num_auxiliary", num_auxiliary)
        check_hidden_sizes(hidden_sizes)
        if placement is not None:
            check_placement(placement)
            if full_covariance is not None:
                raise ValueError(
                    f"Expected full_covariance or placement; got both, {full_covariance} and a "
                    "placement. Pass full_covariance to place."
                )
            full_covariance = placement.whitening.root.ndim == 2
        VectorGuide.__init__(self, model, prefix=prefix, init_loc_fn=init_loc_fn)  # type: ignore[call-arg]
        HierarchicalGuide.__init__(self, self._sampler, self._reverse)
        self._auxiliary_name = f"_{prefix}_auxiliary"
        self.num_auxiliary = num_auxiliary
        self.hidden_sizes = tuple(hidden_sizes)
        self.full_covariance = full_covariance
        self.placement = placement

    def sample_posterior(
        self,
        rng_key: jax.Array,
        params: Params,
        *args: Any,
        sample_shape: tuple[int, ...] = (),
        **kwargs: Any,
    ) -> Sites:
        """Draws of the model's latent and deterministic sites.

        :param args: the model's arguments, as are ``kwargs``; by default those of the first call.
        :return: values by site, of shape ``(*sample_shape, *shape of the site)``.
        :raises ValueError: without arguments, if the first call had some and was inside ``jit``;
            for params of another guide.
        """
        if not (args or kwargs) and self.prototype_trace is not None:
            if self._first_inputs is None:
                raise ValueError(
                    "Expected the model's arguments, since the guide was first called inside jit "
                    "and could not keep them; got none. Pass them last."
                )
            args, kwargs = self._first_inputs
        programs = self._programs(args, kwargs).replace(params=params)

        def draw() -> Any:
            loc, scale = self._conditional(sample_shape)
            y = numpyro.sample(f"_{self.prefix}_latent", dist.Normal(loc, scale).to_event(1))
            return self._whitening(programs).color(y)

        # Checked with an arbitrary Normal: the fit itself would need the data.
        check_params(substitute(draw, self.standard_whitening()), params, (), {})
        with seed(rng_seed=rng_key), substitute(data=params):
            z = draw()

        sites = lambda z: programs.with_deterministic(self.constrained(z))
        values = jax.vmap(sites)(z.reshape(-1, self.latent_dim))
        return {n: leaf.reshape(*sample_shape, *leaf.shape[1:]) for n, leaf in values.items()}

    def constrained(self, vector: jax.Array) -> Sites:
        """The latent sites, from unconstrained coordinates of shape ``(latent_dim,)``."""
        return {n: self._transform(n)(value) for n, value in self.unpack(vector).items()}

    def unconstrained(self, latents: Sites) -> jax.Array:
        """The inverse of :meth:`constrained`."""
        names = self.unpack(self.initial_vector)
        return jnp.concatenate([jnp.ravel(self._transform(n).inv(latents[n])) for n in names])

    def quantiles(self, params: Params, quantiles: Any, *args: Any, **kwargs: Any) -> Sites:
        """Quantiles of latent and deterministic sites, from 10,000 draws.

        :param quantiles: probabilities: a number or an array.
        :param args: the model's arguments, as are ``kwargs``; see :meth:`sample_posterior`.
        :return: values by site, of shape ``(*shape of quantiles, *shape of the site)``.
        :raises ValueError: without arguments, if the guide has not been called yet.
        """
        if self.prototype_trace is None and not (args or kwargs):
            raise ValueError(
                "Expected a guide that has been called, or the model's arguments; got neither. "
                "Pass the arguments last."
            )
        shape = (_NUM_DRAWS,)
        draws = self.sample_posterior(random.key(0), params, *args, sample_shape=shape, **kwargs)
        at = jnp.asarray(quantiles)
        return {name: jnp.quantile(values, at, axis=0) for name, values in draws.items()}

    def median(self, params: Params, *args: Any, **kwargs: Any) -> Sites:
        """Medians of latent and deterministic sites; see :meth:`quantiles`."""
        return self.quantiles(params, 0.5, *args, **kwargs)

    def _sampler(self, *args: Any, **kwargs: Any) -> None:
        """q(u) q(z | u), site by site: each given those before it, as L is triangular."""
        whitening = self._whitening(self._programs(args, kwargs))
        loc, scale = self._conditional()
        before = loc[:0]
        for name, part in self.unpack(whitening.loc).items():
            start, size = before.size, part.size
            to_vector = whitening.block(start, size, before)
            transforms = [to_vector, ReshapeTransform(part.shape, (size,)), self._transform(name)]
            rows = slice(start, start + size)
            normal = dist.Normal(loc[rows], scale[rows]).to_event(1)
            value = numpyro.sample(name, dist.TransformedDistribution(normal, transforms))
            z = jnp.ravel(self._transform(name).inv(value))
            before = jnp.concatenate([before, to_vector.inv(z)])

    def _reverse(self, latents: Sites, *args: Any, **kwargs: Any) -> None:
        """r(u | z)."""
        whitening = self._whitening(self._programs(args, kwargs))
        y = whitening.whiten(self.unconstrained(latents))
        features = jnp.concatenate([y, jnp.sign(y) * jnp.log1p(jnp.abs(y))])
        name, sizes = f"{self.prefix}_reverse", self.hidden_sizes
        shift, log_scale = skip_network(name, features, 2, self._auxiliary_size, sizes)
        # The exact reverse model of the fitted Normal; auxiliary normals beyond d are N(0, 1).
        beyond = (0, self._auxiliary_size - self.latent_dim)
        loc = jnp.pad(_SHARE**0.5 * y, beyond)
        scale = jnp.pad(jnp.full_like(y, (1.0 - _SHARE) ** 0.5), beyond, constant_values=1.0)
        normal = dist.Normal(loc + scale * shift, scale * jnp.exp(log_scale)).to_event(1)
        numpyro.sample(self._auxiliary_name, normal)

    def _conditional(self, sample_shape: tuple[int, ...] = ()) -> tuple[jax.Array, jax.Array]:
        """Location and scale of y, given auxiliary normals that are sampled here."""
        normal = dist.Normal().expand([*sample_shape, self._auxiliary_size]).to_event(1)
        u = numpyro.sample(self._auxiliary_name, normal, infer={"is_auxiliary": True})
        name, sizes = f"{self.prefix}_sampler", self.hidden_sizes
        shift, log_gate, log_scale = skip_network(name, u, 3, self.latent_dim, sizes)
        loc = (_SHARE**0.5 * u[..., : self.latent_dim] + shift) * jnp.exp(log_gate)
        return loc, (1.0 - _SHARE) ** 0.5 * jnp.exp(log_scale)

    def _whitening(self, programs: Programs) -> Whitening:
        """The Normal that the guide starts as, detached; see :func:`~.normal_fit.fit_normal`."""
        options = {"init_loc_fn": self.init_loc_fn, "full_covariance": self.full_covariance}

        def fit(rng_key: jax.Array) -> dict[str, jax.Array]:
            if self.placement is None:
                return fit_normal(rng_key, programs, **options).whitening._asdict()
            return self.placement.whitening._asdict()

        return Whitening(**stop_gradient(numpyro.param(f"{self.prefix}_whitening", fit)))

    def standard_whitening(self) -> dict[str, Any]:
        """The param site of c and L, with the values 0 and I, of the shapes that a fit has."""
        ones = jnp.ones(self.latent_dim)
        is_full = has_covariances(self.full_covariance, self.latent_dim)
        standard = Whitening(0.0 * ones, jnp.diag(ones) if is_full else ones)
        return {f"{self.prefix}_whitening": standard._asdict()}

    def prepare(self, *args: Any, **kwargs: Any) -> None:
        """Finds the model's latent sites, and keeps arguments without tracers; once."""
        if self.prototype_trace is not None:
            return
        with at_compile_time(), block(), seed(rng_seed=0):  # so that the guide keeps no tracer
            check_continuous_latents(self.model, args, kwargs)
            self.set_up(*args, **kwargs)
        leaves = jax.tree.leaves((args, kwargs))
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        self._first_inputs = None if traced else (args, kwargs)

    def _programs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Programs:
        """The model with its arguments, and the guide."""
        self.prepare(*args, **kwargs)
        if self._auxiliary_size < self.latent_dim:
            raise ValueError(
                f"Expected num_auxiliary >= {self.latent_dim}, the number of unconstrained "
                f"coordinates; got {self.num_auxiliary}. Raise it, or leave it out."
            )
        if self.placement is not None and self.placement.dim != self.latent_dim:
            raise ValueError(
                f"Expected a placement of {self.latent_dim} unconstrained coordinates; got one of "
                f"{self.placement.dim}. Pass place(rng_key, model, ...) of the same model and data."
            )
        if self.full_covariance and self.latent_dim > LARGEST_FULL:
            raise ValueError(
                f"Expected full_covariance for at most {LARGEST_FULL:,} unconstrained coordinates; "
                f"the model has {self.latent_dim:,}. Leave it out."
            )
        return Programs(self.model, self, {}, args, kwargs)

    @property
    def _auxiliary_size(self) -> int:
        return self.latent_dim + 4 if self.num_auxiliary is None else self.num_auxiliary

    def _transform(self, name: str) -> dist.transforms.Transform:
        """The map from unconstrained values of a site to its support."""
        return biject_to(self.prototype_trace[name]["fn"].support)
