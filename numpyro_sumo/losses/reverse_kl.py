"""Reverse KL from a hierarchical sampler to an unnormalised target."""

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro.handlers import seed
from numpyro.infer import ELBO
from numpyro.infer.util import log_density

from numpyro_sumo.checks import check_one_of, check_positive_integer, options_repr
from numpyro_sumo.guides.hierarchical import check_hierarchical
from numpyro_sumo.programs.handlers import with_fixed_subsample
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.ragged import MODEL, PATH, Particle

from .base import ImportanceLoss, fresh_only, gradient_only, key_apart
from .iwhvi import IWHVI


class ReverseKL(ELBO):
    r"""The reverse Kullback–Leibler divergence of a hierarchical sampler.

    .. math::
        E_{(x, u) \sim q_\theta} \big[ \widehat{\log q_\theta}(x) - \log p(x) \big], \qquad
        q_\theta(x) = \int q_\theta(x \mid u)\, q_\theta(u)\, du

    ``marginal`` estimates log q(x) with the guide's reverse model as proposal for u. Since log q is
    *minimised*, a lower bound on it (:class:`~numpyro_sumo.IWELBO`) is the wrong way round: the
    optimiser can lower the bound instead of the density, and sooner or later it does. An unbiased
    estimate (:class:`~numpyro_sumo.SUMO`) or an upper bound (:class:`~numpyro_sumo.IWHVI`) has no
    such hole. The value of the loss estimates KL(q ‖ p) − log Z (or a bound on it, of the
    marginal's kind), Z the target's normaliser, in nats.

    :param marginal: any loss with importance weights, IWHVI(16) by default;
        ``marginal.num_particles`` is the number of draws of u for each x.
    :param num_particles: draws of x per step, an integer ≥ 1. Each has its own stopping time.
    :param gradient: ``"path"`` leaves out ∇θ log qθ(x) at fixed x, whose mean is zero and which is
        all the noise there is once q fits: only (∇ₓ log q̂ − ∇ₓ log p)·∂x/∂θ is kept. With the
        generating draw u₀ among the particles this does not hold as it stands, since u₀ and x go
        together; there the same term, as the fresh draws alone estimate it, is subtracted from the
        whole gradient. Its mean is zero as far as that estimate is unbiased: with SUMO, to the end
        of its tail; with IWHVI, up to the bias of the fresh draws' lower bound, which the sampler
        is then made to avoid as well. ``"standard"`` is the whole gradient.
    :raises ValueError: in ``loss``, if the guide is not a HierarchicalGuide, if its sampler lacks
        latent sites of the model, or if the reverse model's sites are not its auxiliary ones.

    **References:** Ranganath et al. 2016, *Hierarchical variational models*; Luo et al. 2020,
    *SUMO*, section 5.2; Roeder et al. 2017, *Sticking the landing*, eq. (5), for the path gradient.

    >>> import jax, optax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import SVI
    >>> from numpyro_sumo import HierarchicalGuide, IWHVI, ReverseKL
    >>> def target():
    ...     numpyro.sample("x", dist.StudentT(5.0))
    >>> def sampler():
    ...     u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    ...     log_scale = numpyro.param("slope", 0.1) * u + numpyro.param("offset", 0.0)
    ...     numpyro.sample("x", dist.Normal(0.0, jax.numpy.exp(log_scale)))
    >>> def reverse(latents):
    ...     loc = numpyro.param("weight", 0.0) * jax.numpy.abs(latents["x"])
    ...     numpyro.sample("u", dist.Normal(loc, numpyro.param("width", 1.0)))
    >>> guide = HierarchicalGuide(sampler, reverse)
    >>> svi = SVI(target, guide, optax.adam(1e-2), loss=ReverseKL(marginal=IWHVI(4)))
    >>> result = svi.run(jax.random.key(0), 100, progress_bar=False)
    """

    def __init__(
        self,
        marginal: ImportanceLoss | None = None,
        *,
        num_particles: int = 64,
        gradient: str = "path",
    ):
        marginal = IWHVI() if marginal is None else marginal
        if not isinstance(marginal, ImportanceLoss):
            raise ValueError(
                f"Expected marginal to be one of the importance-weighted losses; got {marginal!r}. "
                "Pass IWHVI(16) or SUMO(8), for instance."
            )
        if marginal.gradient == "dreg" and marginal.guide_objective is None:
            raise ValueError(
                "Expected guide_objective='iwelbo' with gradient='dreg', for inside ReverseKL the "
                f"default is 'forward_kl'; got {marginal!r}. Name the objective, or drop 'dreg'."
            )
        if marginal.data_axes is not None:
            raise ValueError(
                "Expected no data_axes inside ReverseKL, where every draw of x has its own draws "
                f"as it is; got {marginal!r}. Leave data_axes out."
            )
        check_positive_integer("num_particles", num_particles)
        check_one_of("gradient", gradient, ("path", "standard"))
        if gradient == "path" and marginal.num_fresh < 1:
            raise ValueError(
                "Expected a marginal with at least 2 particles for the path gradient from above; "
                f"got {marginal!r}. Raise num_particles, or choose gradient='standard'."
            )
        super().__init__(num_particles=num_particles)
        self.marginal = marginal
        self.gradient = gradient

    def __repr__(self) -> str:
        return options_repr(self)

    def loss(self, rng_key, param_map, model, guide, *args, **kwargs) -> jax.Array:
        """The estimate of KL(q ‖ p) − log Z, in nats; see :meth:`numpyro.infer.ELBO.loss`."""
        marginal, from_above = self.marginal, self.marginal.from_above
        objective_name = marginal.guide_objective or "forward_kl"
        programs = Programs(model, guide, param_map, args, kwargs)
        check_hierarchical(programs)
        plate_key, outer_key, target_key, draws_key, baseline_key = random.split(rng_key, 5)
        model = with_fixed_subsample(plate_key, model)

        def draw(key):
            return guide.draw(key, programs)

        def log_density_of_target(key, x):
            return log_density(seed(model, key), args, kwargs, {**param_map, **x})[0]

        x, u = jax.vmap(draw)(random.split(outer_key, self.num_particles))
        target_keys = random.split(target_key, self.num_particles)
        log_target = jax.vmap(log_density_of_target)(target_keys, x)
        x_held, u_held = stop_gradient((x, u))
        first = guide.marginal_programs(programs, jax.tree.map(lambda leaf: leaf[0], x_held))
        score_free = marginal.is_score_free(objective_name, first)
        score_apart = self.gradient == "path"

        has_score = from_above or not score_apart
        one_view = objective_name == "forward_kl" and not (from_above and score_apart)

        def particle(u=None):
            """How a log-weight of x_i comes about, at a given u or the reverse model's."""

            def propose(i, key):
                # Held here, not outside: so all views close over the same arrays, and XLA sees one
                # computation where there would be several.
                x_i = jax.tree.map(lambda leaf: leaf[i], x)
                x_i_held, u_held, held = stop_gradient((x_i, u, param_map))

                def propose_at(x, u, programs, score_free=False):
                    return x, guide.propose(key, programs, x, u, score_free)

                proposals = {"sampler": propose_at(x_i, u, programs.replace(params=held))}
                if objective_name != "forward_kl":
                    on_path = score_free and u is None
                    of_reverse = programs.detached().replace(params=param_map)
                    of_guide = propose_at(x_i_held, u_held, of_reverse, on_path)
                    proposals[PATH if on_path else "guide"] = of_guide
                return proposals

            def weigh(i, key, proposal, is_held):
                params = param_map if has_score else stop_gradient(param_map)
                live = programs.detached() if is_held else programs.replace(params=params)
                return guide.log_weight(key_apart(key), live, *proposal)

            def weigh_together(i, key, _, is_held):
                return weigh(i, key, propose(i, key)["sampler"], is_held)

            return Particle(weigh_together) if one_view else Particle(weigh, propose)

        given = {}
        if from_above:
            views_of_given = lambda i, key, u: particle(u).views(i, key)
            given = jax.vmap(views_of_given)(jnp.arange(self.num_particles), target_keys, u)
        draws = marginal.draw(
            draws_key, particle(), self.num_particles, given, fresh_only(objective_name)
        )
        log_q = marginal.estimate(draws, *([MODEL] if one_view else [MODEL, "sampler"]))
        if from_above and score_apart:
            log_q -= gradient_only(marginal.estimate(draws._replace(given={}), MODEL))

        if objective_name == "forward_kl":

            def log_reverse(key, x, u):
                return guide.propose(key, programs, x, u).log_density

            objective = -jax.vmap(log_reverse)(target_keys, x_held, u_held)
        else:
            objective = marginal.objective(objective_name, draws, baseline_key, particle())
        return jnp.mean(log_q - log_target + gradient_only(objective))

    def loss_with_mutable_state(self, rng_key, param_map, model, guide, *args, **kwargs):
        """The loss, and mutable state (batch statistics, say) updated by one draw of the guide."""
        plate_key, draw_key, *_ = random.split(rng_key, 5)
        programs = Programs(with_fixed_subsample(plate_key, model), guide, param_map, args, kwargs)
        return {
            "loss": self.loss(rng_key, param_map, model, guide, *args, **kwargs),
            "mutable_state": programs.updated_mutable_state(draw_key),
        }
