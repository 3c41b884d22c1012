"""A hierarchical guide for any model with continuous latents, networks and all."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
from jax import random
from jax.example_libraries import stax
from jax.lax import stop_gradient
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.distributions import biject_to
from numpyro.handlers import block, seed, substitute, trace
from numpyro.infer.initialization import init_to_uniform

from numpyro_sumo._compat import VectorGuide
from numpyro_sumo.checks import check_positive_integer
from numpyro_sumo.programs.check_params import check_params
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import latent_sites
from numpyro_sumo.programs.validation import refuse_discrete, refuse_moving_supports

from .hierarchical import HierarchicalGuide, Sites
from .normal_fit import blank_fit, fit_normal

#: Draws behind quantiles.
_NUM_DRAWS = 10_000


class AutoHierarchicalNormal(HierarchicalGuide, VectorGuide):
    r"""A hierarchical guide for any model with continuous latents.

    In unconstrained space, with d latents in one vector z, and n ≥ d auxiliary normals u:

    .. math::
        u \sim N(0, I_n), \qquad z = c + s \odot y, \qquad
        y \mid u \sim N\big(e^{g_\theta(u)} \odot (A u + \mu_\theta(u)),
        \operatorname{diag} (b \odot \sigma_\theta(u))^2\big), \qquad
        r(u \mid z) = N\big(B y + \tau \odot \nu_\phi(y),
        \operatorname{diag} (\tau \odot \rho_\phi(y))^2\big)

    The functions are networks beside a linear map. The gate exp(g) narrows locations where a neck
    does; those of the reverse model see y and, for heavy tails, sign(y) log(1 + |y|). The constants
    c, s, A, b, B and τ are of a Normal that is fitted when parameters are made, mean field or with
    covariances. They get no gradient (keep weight decay off them), and networks begin at zero, such
    that the guide begins as just that Normal, with a reverse model that is exact. Beyond d
    auxiliary normals, A is zero and τ one. Train it by :class:`~numpyro_sumo.ReverseKL`, ask
    :func:`~numpyro_sumo.certify` how far to trust it, and make it exact with
    :class:`~numpyro_sumo.IndependenceMetropolis`.

    :param model: a NumPyro model. Likelihoods may be subsampled, plates with latents not.
    :param prefix: of the names of param sites and of the auxiliary site.
    :param init_loc_fn: where the fit begins; see NumPyro's initialisation strategies.
    :param num_auxiliary: n; None is d + 4.
    :param hidden_sizes: units of the hidden layers of both networks.
    :param full_covariance: whether the Normal that it begins as has covariances, up to d = 1,000,
        if these gain more than 0.1 nats. They are fitted by Newton steps in expectation, at the
        price of 800 d products with the model's Hessian; then train at a small rate. For a series
        of latents mean field begins far away; elsewhere training from it came as far or farther.
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
        full_covariance: bool = False,
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
        VectorGuide.__init__(self, model, prefix=prefix, init_loc_fn=init_loc_fn)
        HierarchicalGuide.__init__(self, self._sampler, self._reverse)
        self.num_auxiliary = num_auxiliary
        self.hidden_sizes = tuple(hidden_sizes)
        self.full_covariance = full_covariance

    def _draw_latent(self, *args, sample_shape=(), **kwargs):
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
        shape = blank_fit(self.latent_dim)
        program = substitute(self._draw_latent, {f"{self.prefix}_standardisation": shape})
        check_params(program, params, args, kwargs)
        with seed(rng_seed=rng_key), substitute(data=params):
            z = self._draw_latent(*args, sample_shape=sample_shape, **kwargs)

        programs = Programs(self.model, self, params, args, kwargs)

        def sites(z):
            latents = {n: self._transform(n)(value) for n, value in self.unpack(z).items()}
            return programs.with_deterministic(latents)

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
        locs, scales = map(self.unpack, self._conditional(args, kwargs))
        for name, loc in locs.items():
            normal = dist.Normal(loc, scales[name]).to_event(jnp.ndim(loc))
            numpyro.sample(name, dist.TransformedDistribution(normal, self._transform(name)))

    def _reverse(self, latents: Sites, *args, **kwargs) -> None:
        """r(u | z)."""
        self._prepare(args, kwargs)
        fit = self._standardisation(args, kwargs)
        z = [jnp.ravel(self._transform(name).inv(latents[name])) for name in self.unpack(fit["loc"])]
        y = (jnp.concatenate(z) - fit["loc"]) / fit["scale"]
        features = jnp.concatenate([y, jnp.sign(y) * jnp.log1p(jnp.abs(y))])
        shift, log_scale = self._network("reverse", features, 2, self._auxiliary_size)
        # Of the Normal that was fitted; the auxiliary normals beyond d are as they were drawn.
        weights = fit["loading"] / jnp.square(fit["noise"])[:, None]
        variance = 1.0 / (1.0 + jnp.sum(weights * fit["loading"], axis=0))
        beyond = (0, self._auxiliary_size - self.latent_dim)
        loc = jnp.pad(variance * jnp.matmul(y, weights, precision="highest"), beyond)
        scale = jnp.pad(jnp.sqrt(variance), beyond, constant_values=1.0)
        normal = dist.Normal(loc + scale * shift, scale * jnp.exp(log_scale)).to_event(1)
        numpyro.sample(self._auxiliary_name, normal)

    def _conditional(
        self, args: tuple, kwargs: dict, sample_shape: tuple[int, ...] = ()
    ) -> tuple[jax.Array, jax.Array]:
        """Location and scale of the unconstrained latents, given auxiliary normals drawn here."""
        normal = dist.Normal().expand([*sample_shape, self._auxiliary_size]).to_event(1)
        u = numpyro.sample(self._auxiliary_name, normal, infer={"is_auxiliary": True})
        fit = self._standardisation(args, kwargs)
        shift, log_gate, log_scale = self._network("sampler", u, 3, self.latent_dim)
        loc = jnp.matmul(u[..., : self.latent_dim], fit["loading"].T, precision="highest") + shift
        scale = fit["scale"] * fit["noise"] * jnp.exp(log_scale)
        return fit["loc"] + fit["scale"] * loc * jnp.exp(log_gate), scale

    def _standardisation(self, args: tuple, kwargs: dict) -> dict[str, jax.Array]:
        """The Normal that the guide begins as; see :func:`~.normal_fit.fit_normal`. Not trained."""
        fit = partial(fit_normal, self.model, self.init_loc_fn, self.full_covariance, args, kwargs)
        return stop_gradient(numpyro.param(f"{self.prefix}_standardisation", fit))

    def _network(self, role: str, inputs: jax.Array, num_parts: int, size: int) -> list[jax.Array]:
        """``num_parts`` vectors of that size; zero at first."""
        zeros = jax.nn.initializers.zeros
        # Unlike tanh it goes on growing, and so reaches into tails.
        swish = stax.elementwise(jax.nn.swish)
        hidden = [layer for units in self.hidden_sizes for layer in (stax.Dense(units), swish)]
        network = stax.serial(
            stax.FanOut(2),
            stax.parallel(
                stax.Dense(num_parts * size, W_init=zeros, b_init=zeros),
                stax.serial(*hidden, stax.Dense(num_parts * size, W_init=zeros, b_init=zeros)),
            ),
            stax.FanInSum,
        )
        apply = numpyro.module(f"{self.prefix}_{role}", network, inputs.shape)
        return jnp.split(apply(inputs), num_parts, axis=-1)

    def _prepare(self, args: tuple, kwargs: dict) -> None:
        if self.prototype_trace is None:
            self._inspect_model(args, kwargs)
        if self._auxiliary_size < self.latent_dim:
            raise ValueError(
                f"Expected num_auxiliary >= {self.latent_dim}, the unconstrained coordinates of "
                f"the latents; got {self.num_auxiliary}. Raise it, or leave it out."
            )

    def _inspect_model(self, args: tuple, kwargs: dict) -> None:
        """Finds the model's latent sites, and keeps its arguments if they are not traced."""
        # Evaluated at compile time, so that the guide keeps no tracer.
        with jax.ensure_compile_time_eval(), block(), seed(rng_seed=0):
            _check_latents(trace(self.model).get_trace(*args, **kwargs))
            refuse_moving_supports(self.model, args, kwargs)
            self.set_up(*args, **kwargs)
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((args, kwargs)))
        self._first_inputs = None if traced else (args, kwargs)

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
