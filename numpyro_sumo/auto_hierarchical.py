"""A hierarchical guide for any model with continuous latents, networks and all."""

from collections.abc import Callable, Sequence
from functools import partial

import optax

import jax
from jax import random
from jax.example_libraries import stax
from jax.lax import stop_gradient
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoContinuous, AutoDiagonalNormal, AutoGuide
from numpyro.infer.initialization import init_to_uniform

from .hierarchical_guide import HierarchicalGuide, Sites
from .inspection import check_params, refuse_discrete, refuse_moving_supports
from .losses.checks import check_positive_integer
from .sites import latent_sites
from .trained_model import with_deterministic, with_params

#: How much of the variance of a standardised latent comes through auxiliary normals at the start.
_SHARE = 0.1

#: The mean-field fit that networks begin from.
_FIT_STEPS, _FIT_PARTICLES, _FIT_RATE = 2_000, 8, 1e-2

#: Draws behind quantiles.
_NUM_DRAWS = 10_000


class _InOrder(AutoGuide):
    """Latents in the order of their names.

    NumPyro's is that of the model if it is run as it stands, and that of names inside ``jit``, such
    that one vector, and params of it, would mean one thing here and another there.
    """

    def _setup_prototype(self, *args, **kwargs):
        super()._setup_prototype(*args, **kwargs)
        self._init_locs = dict(sorted(self._init_locs.items()))


class AutoHierarchicalNormal(HierarchicalGuide, AutoContinuous, _InOrder):
    r"""A hierarchical guide for any model with continuous latents.

    In unconstrained space, with d latents in one vector z, and n ≥ d auxiliary normals u:

    .. math::
        u \sim N(0, I_n), \qquad z = c + s \odot y, \qquad
        y \mid u \sim N\big(e^{g_\theta(u)} \odot \mu_\theta(u),
        \operatorname{diag} \sigma_\theta^2(u)\big), \qquad
        r(u \mid z) = N\big(\nu_\phi(y), \operatorname{diag} \tau_\phi^2(y)\big)

    The functions are networks beside a linear map. The gate exp(g) narrows locations where a neck
    does; those of the reverse model see y and, for heavy tails, sign(y) log(1 + |y|). Centre c and
    spread s come from a short mean-field fit when parameters are made, and get no gradient (keep
    weight decay off them); networks begin at zero, such that the guide begins as just that fit,
    with a reverse model that is exact. Train it by :class:`~numpyro_sumo.ReverseKL`, ask
    :func:`~numpyro_sumo.certify` how far to trust it, and make it exact with
    :class:`~numpyro_sumo.IndependenceMetropolis`.

    :param model: a NumPyro model. Likelihoods may be subsampled, plates with latents not.
    :param prefix: of the names of param sites and of the auxiliary site.
    :param init_loc_fn: where the mean-field fit begins; see NumPyro's initialisation strategies.
    :param num_auxiliary: n; None is d + 4.
    :param hidden_sizes: units of the hidden layers of both networks.
    :raises ValueError: at once for options outside these; when run, for fewer auxiliary normals
        than coordinates, and for a model with discrete latents, with latents in a subsampled plate
        or with a support that depends on another latent, or without latents.

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
        model: Callable,
        *,
        prefix: str = "auto",
        init_loc_fn: Callable = init_to_uniform,
        num_auxiliary: int | None = None,
        hidden_sizes: Sequence[int] = (64, 64),
    ):
        if num_auxiliary is not None:
            check_positive_integer("num_auxiliary", num_auxiliary)
        if not isinstance(hidden_sizes, Sequence):
            raise ValueError(
                f"Expected hidden_sizes to be a sequence of integers; got {hidden_sizes!r}. Pass "
                "(64, 64), for instance."
            )
        for units in hidden_sizes:
            check_positive_integer("hidden_sizes", units)
        AutoContinuous.__init__(self, model, prefix=prefix, init_loc_fn=init_loc_fn)
        HierarchicalGuide.__init__(self, self._sampler, self._reverse)
        self.num_auxiliary = num_auxiliary
        self.hidden_sizes = tuple(hidden_sizes)

    def _setup_prototype(self, *args, **kwargs):
        # Once, and with what is known before any tracing, so that nothing traced stays behind.
        with jax.ensure_compile_time_eval(), block(), seed(rng_seed=0):
            model_trace = trace(self.model).get_trace(*args, **kwargs)
            _check_latents(model_trace)
            refuse_moving_supports(self.model, args, kwargs)
            super()._setup_prototype(*args, **kwargs)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        self._first_inputs = None if traced else (args, kwargs)

    def _get_posterior(self):
        raise NotImplementedError  # an integral over the auxiliary normals

    def _sample_latent(self, *args, sample_shape=(), **kwargs):
        loc, scale = self._conditional(args, kwargs, sample_shape)
        return numpyro.sample(f"_{self.prefix}_latent", dist.Normal(loc, scale).to_event(1))

    def sample_posterior(self, rng_key, params, *args, sample_shape=(), **kwargs):
        """Draws of the model's latent and deterministic sites.

        :param args: of the model, as are ``kwargs``; without any, those of the guide's first run.
        :return: values by site, of shape ``(*sample_shape, *shape of the site)``.
        :raises ValueError: without arguments, if that run was inside ``jit`` and had some; for
            params of another guide.
        """
        if not (args or kwargs) and self.prototype_trace is not None:
            args, kwargs = self._inputs_of_first_run()
        with seed(rng_seed=0):
            self._prepare(args, kwargs)
        # Not fitted to find its shape, for which the data would be needed.
        shape = dict.fromkeys(["loc", "scale"], jnp.zeros(self.latent_dim))
        program = substitute(self._sample_latent, {f"{self.prefix}_standardisation": shape})
        check_params(program, params, args, kwargs)
        with seed(rng_seed=rng_key), substitute(data=params):
            z = self._sample_latent(*args, sample_shape=sample_shape, **kwargs)

        def sites(z):
            latents = {n: self._transform(n)(value) for n, value in self._unpack_latent(z).items()}
            return with_deterministic(self.model, params, latents, args, kwargs)

        values = jax.vmap(sites)(z.reshape(-1, self.latent_dim))
        return jax.tree.map(lambda leaf: leaf.reshape(*sample_shape, *leaf.shape[1:]), values)

    def quantiles(self, params, quantiles, *args, **kwargs):
        """Quantiles of latent and deterministic sites, of 10,000 draws: no formula gives them.

        :param quantiles: probabilities, one or a list of them.
        :param args: as ``kwargs``, those of :meth:`sample_posterior`.
        :return: values by site, of shape ``(*shape of quantiles, *shape of the site)``.
        :raises ValueError: without arguments, if the guide has not been run yet.
        """
        if self.prototype_trace is None and not (args or kwargs):
            raise ValueError(
                "Expected a guide that has been run, or the model's arguments; got neither. Pass "
                "them last."
            )
        shape = (_NUM_DRAWS,)
        draws = self.sample_posterior(random.key(0), params, *args, sample_shape=shape, **kwargs)
        at = jnp.asarray(quantiles)
        return {name: jnp.quantile(values, at, axis=0) for name, values in draws.items()}

    def median(self, params, *args, **kwargs):
        """Medians of latent and deterministic sites; see :meth:`quantiles`."""
        return self.quantiles(params, 0.5, *args, **kwargs)

    def _sampler(self, *args, **kwargs) -> None:
        """q(u) q(z | u), site by site."""
        self._prepare(args, kwargs)
        locs, scales = map(self._unpack_latent, self._conditional(args, kwargs))
        for name, loc in locs.items():
            normal = dist.Normal(loc, scales[name]).to_event(jnp.ndim(loc))
            numpyro.sample(name, dist.TransformedDistribution(normal, self._transform(name)))

    def _reverse(self, latents: Sites, *args, **kwargs) -> None:
        """r(u | z)."""
        self._prepare(args, kwargs)
        centre, spread = self._standardisation(args, kwargs)
        z = [jnp.ravel(self._transform(name).inv(latents[name])) for name in self._init_locs]
        y = (jnp.concatenate(z) - centre) / spread
        features = jnp.concatenate([y, jnp.sign(y) * jnp.log1p(jnp.abs(y))])
        # Exact at the start: what of u is in y comes back, the rest is as it was drawn.
        in_y = jnp.arange(self._auxiliary_size) < self.latent_dim
        begin = jnp.where(in_y, (1.0 - _SHARE) ** 0.5, 1.0)
        loc, log_scale = self._network("reverse", features, 2, self._auxiliary_size, _SHARE**0.5)
        normal = dist.Normal(loc, begin * jnp.exp(log_scale)).to_event(1)
        numpyro.sample(self._auxiliary_name, normal)

    def _conditional(
        self, args: tuple, kwargs: dict, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array]:
        """Location and scale of the unconstrained latents, given auxiliary normals drawn here."""
        normal = dist.Normal().expand([*sample_shape, self._auxiliary_size]).to_event(1)
        u = numpyro.sample(self._auxiliary_name, normal, infer={"is_auxiliary": True})
        loc, log_gate, log_scale = self._network("sampler", u, 3, self.latent_dim, _SHARE**0.5)
        scale = (1.0 - _SHARE) ** 0.5 * jnp.exp(log_scale)
        centre, spread = self._standardisation(args, kwargs)
        return centre + spread * loc * jnp.exp(log_gate), spread * scale

    def _standardisation(self, args: tuple, kwargs: dict) -> tuple[jax.Array, jax.Array]:
        """Centre and spread of the unconstrained latents, each of shape ``(d,)``; not trained."""
        fit = partial(_mean_field, self, args, kwargs)
        fitted = stop_gradient(numpyro.param(f"{self.prefix}_standardisation", fit))
        return fitted["loc"], fitted["scale"]

    def _network(
        self, role: str, inputs: jax.Array, num_parts: int, size: int, slope: float
    ) -> list[jax.Array]:
        """``num_parts`` vectors of that size; zero at first, but the first, which is then ``slope``
        times the first d inputs."""
        zeros = jax.nn.initializers.zeros
        diagonal = jnp.arange(self.latent_dim)

        def straight(_, shape):
            return jnp.zeros(shape).at[diagonal, diagonal].set(slope)

        # Unlike tanh it goes on growing, and so reaches into tails.
        swish = stax.elementwise(jax.nn.swish)
        hidden = [layer for units in self.hidden_sizes for layer in (stax.Dense(units), swish)]
        network = stax.serial(
            stax.FanOut(2),
            stax.parallel(
                stax.Dense(num_parts * size, W_init=straight, b_init=zeros),
                stax.serial(*hidden, stax.Dense(num_parts * size, W_init=zeros, b_init=zeros)),
            ),
            stax.FanInSum,
        )
        apply = numpyro.module(f"{self.prefix}_{role}", network, inputs.shape)
        return jnp.split(apply(inputs), num_parts, axis=-1)

    def _prepare(self, args: tuple, kwargs: dict) -> None:
        if self.prototype_trace is None:
            self._setup_prototype(*args, **kwargs)
        if self._auxiliary_size < self.latent_dim:
            raise ValueError(
                f"Expected num_auxiliary >= {self.latent_dim}, the unconstrained coordinates of "
                f"the latents; got {self.num_auxiliary}. Raise it, or leave it out."
            )

    def _inputs_of_first_run(self) -> tuple[tuple, dict]:
        if self._first_inputs is None:
            raise ValueError(
                "Expected the model's arguments, for the guide was first run inside jit and has "
                "kept none; got none. Pass them last."
            )
        return self._first_inputs

    @property
    def _auxiliary_size(self) -> int:
        return self.latent_dim + 4 if self.num_auxiliary is None else self.num_auxiliary

    @property
    def _auxiliary_name(self) -> str:
        return f"_{self.prefix}_auxiliary"

    def _transform(self, name: str) -> dist.transforms.Transform:
        """From unconstrained values of a site to its own."""
        return biject_to(self.prototype_trace[name]["fn"].support)


class _MeanField(AutoDiagonalNormal, _InOrder):
    """The Normal that the guide begins as, of the same vector."""


def _check_latents(model_trace: dict) -> None:
    """Refuses a model without latents, and latents that are discrete or of a part of a plate."""
    latents = latent_sites(model_trace)
    if not latents:
        raise ValueError(
            "Expected a model with latent sites; it has none. Use no guide for it, or "
            "leave out obs= where something is to be inferred."
        )
    refuse_discrete(latents)
    for name, site in latents.items():
        for frame in site["cond_indep_stack"]:
            size = model_trace[frame.name]["args"][0] if frame.name in model_trace else frame.size
            if frame.size < size:
                raise ValueError(
                    f"Expected latent sites outside of subsampled plates; '{name}' is in "
                    f"'{frame.name}', of which {frame.size} of {size} are seen. Leave "
                    "subsample_size out."
                )


def _mean_field(
    guide: AutoHierarchicalNormal, args: tuple, kwargs: dict, rng_key: jax.Array
) -> dict[str, jax.Array]:
    """A mean-field Normal fitted to the model in unconstrained space; as begun where it is lost."""
    model_key, fit_key = random.split(rng_key)
    with block():  # the model's own parameters stay where they begin
        sites = trace(seed(guide.model, model_key)).get_trace(*args, **kwargs)
    params = {name: site["value"] for name, site in sites.items() if site["type"] == "param"}
    model = with_params(guide.model, params)
    normal = _MeanField(model, init_loc_fn=guide.init_loc_fn)
    svi = SVI(model, normal, optax.adam(_FIT_RATE), Trace_ELBO(_FIT_PARTICLES))

    @jax.jit
    def fit(rng_key):
        params = svi.run(rng_key, _FIT_STEPS, *args, progress_bar=False, **kwargs).params
        return params["auto_loc"], params["auto_scale"], normal._init_latent

    with block():
        loc, scale, begun = fit(fit_key)
    found = jnp.isfinite(loc) & jnp.isfinite(scale)
    return {"loc": jnp.where(found, loc, begun), "scale": jnp.where(found, scale, 1.0)}
