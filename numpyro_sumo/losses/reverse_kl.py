"""Reverse KL from a hierarchical sampler to an unnormalised target."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp

from numpyro.infer import ELBO

from numpyro_sumo.checks import check_one_of, check_positive_integer
from numpyro_sumo.guides.hierarchical import HierarchicalGuide, check_hierarchical
from numpyro_sumo.programs.log_target import log_target
from numpyro_sumo.programs.programs import Programs, with_fixed_subsample
from numpyro_sumo.programs.sites import Params
from numpyro_sumo.programs.traced_guide import TracedGuide
from numpyro_sumo.ragged.particle import GUIDE, MODEL, PATH, Particle

from .base import ImportanceLoss
from .iwelbo import IWELBO
from .iwhvi import IWHVI
from .objectives import OBJECTIVES, Objective, SampleViews, gradient_only
from .particles import model_key
from .program_loss import ProgramLoss

#: The view for the sampler's parameters, on which x depends.
SAMPLER = "sampler"


@dataclass(eq=False)
class ReverseKL(ProgramLoss):
    r"""The reverse Kullback–Leibler divergence of a guide from its target.

    .. math::
        E_{(x, u) \sim q_\theta} \big[ \widehat{\log q_\theta}(x) - \log p(x) \big], \qquad
        q_\theta(x) = \int q_\theta(x \mid u)\, q_\theta(u)\, du

    For a :class:`~numpyro_sumo.HierarchicalGuide`, ``marginal`` estimates log q(x) with the guide's
    reverse model as proposal for u. Do not use a lower bound (:class:`~numpyro_sumo.IWELBO`): the
    optimiser can decrease the loss by loosening the bound, and training diverges. Use an unbiased
    estimate (:class:`~numpyro_sumo.SUMO`) or an upper bound (:class:`~numpyro_sumo.IWHVI`). The
    value of the loss estimates KL(q ‖ p) − log Z (or a bound on it, of the marginal's kind), Z the
    target's normaliser, in nats.

    For any other guide log q is known, ``marginal`` is not used, and the loss is minus the ELBO of
    ``num_particles`` draws.

    :param marginal: any loss with importance weights, IWHVI(16) by default;
        ``marginal.num_particles`` is the number of draws of u for each x.
    :param num_particles: draws of x per step, an integer ≥ 1. Each has its own stopping time.
    :param gradient: ``"path"`` omits the gradient of log q at fixed x, whose mean is zero and which
        is the only term with non-zero variance once q equals the target. If u₀ is among the
        particles (IWHVI, ``from_above``), an estimate of that term from the other draws is
        subtracted. Its mean is zero for SUMO up to the end of its tail; for IWHVI it is the
        gradient of a lower bound's bias. ``"standard"`` omits nothing, nor does ``"path"`` where
        that mean is not zero: for a Delta at a parameter, or a support that depends on one.
    :raises ValueError: in ``loss``, if the guide lacks latent sites of the model, if its density is
        not known, or if a reverse model's sites are not the auxiliary ones.

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

    marginal: ImportanceLoss = field(default_factory=IWHVI)
    num_particles: int = field(default=64, kw_only=True)
    gradient: str = field(default="path", kw_only=True)

    def __post_init__(self) -> None:
        marginal = self.marginal
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
        check_positive_integer("num_particles", self.num_particles)
        check_one_of("gradient", self.gradient, ("path", "standard"))
        if self.gradient == "path" and marginal.num_fresh < 1:
            raise ValueError(
                "Expected a marginal with at least 2 particles for the path gradient from above; "
                f"got {marginal!r}. Raise num_particles, or choose gradient='standard'."
            )
        ELBO.__init__(self, num_particles=self.num_particles)

    def loss_of(self, rng_key: jax.Array, programs: Programs) -> jax.Array:
        """The estimate of KL(q ‖ p) − log Z, in nats."""
        if not isinstance(programs.guide, HierarchicalGuide):
            return self._of_known_density(rng_key, programs)
        check_hierarchical(programs)
        plate_key, outer_key, target_key, draws_key, baseline_key = random.split(rng_key, 5)
        guide = _hierarchical(programs.guide)
        programs = programs.replace(model=with_fixed_subsample(plate_key, programs.model))
        marginal, number = self.marginal, self.num_particles
        x, u = jax.vmap(partial(guide.draw, programs=programs))(random.split(outer_key, number))
        target_keys = random.split(target_key, number)
        of_draw = lambda key, latents: log_target(key, programs, latents)
        log_p = jax.vmap(of_draw)(target_keys, x)

        particles = self._particles(programs, x)
        generating = {}
        if marginal.from_above:
            views = lambda i, key, u: particles.particle(u).views(i, key)
            generating = jax.vmap(views)(jnp.arange(number), target_keys, u)
        objective = particles.objective
        fixed_only = (GUIDE, PATH) if objective.fixed_only else ()
        sample = marginal.sample(draws_key, particles.particle(), number, generating, fixed_only)
        log_q = self._log_q(sample, [MODEL] if particles.one_view else [MODEL, SAMPLER])
        if objective.of_generating:
            log_reverse = lambda key, x, u: guide.propose(key, programs, x, u).log_density
            of_draws = jax.vmap(log_reverse)(target_keys, *stop_gradient((x, u)))
            sample = sample._replace(log_reverse=of_draws)
        of_reverse = marginal.guide_value(objective, sample, baseline_key, particles.particle())
        return jnp.mean(log_q - log_p + gradient_only(of_reverse))

    def _of_known_density(self, rng_key: jax.Array, programs: Programs) -> jax.Array:
        """The mean of log q(x) − log p(x) over draws of a guide whose density is known."""
        plate_key, _, _, draws_key, _ = random.split(rng_key, 5)
        programs = programs.replace(model=with_fixed_subsample(plate_key, programs.model))
        one_draw = IWELBO(1, gradient="standard" if self.gradient == "standard" else None)
        keys = random.split(draws_key, self.num_particles)
        return jnp.mean(jax.vmap(lambda key: one_draw.loss_of(key, programs))(keys))

    def batch_of(self, rng_key: jax.Array, programs: Programs) -> tuple[jax.Array, Programs]:
        plate_key, draw_key, *_ = random.split(rng_key, 5)
        model = with_fixed_subsample(plate_key, programs.model)
        return draw_key, programs.replace(model=model)

    def _log_q(self, sample: SampleViews, views: list[str]) -> jax.Array:
        """The estimate of log q at each x; without ∇ log q at fixed x, for the path gradient."""
        marginal = self.marginal
        log_q = marginal.estimate(sample.merged(*views))
        if marginal.from_above and self.gradient == "path":
            # That term estimated from fresh draws only: x and the generating u are dependent.
            log_q -= gradient_only(marginal.estimate(sample._replace(generating={}).merged(MODEL)))
        return log_q

    def _particles(self, programs: Programs, x: Params) -> "_MarginalParticles":
        marginal, is_path = self.marginal, self.gradient == "path"
        objective_name = marginal.guide_objective or "forward_kl"
        objective = OBJECTIVES[objective_name]
        first = jax.tree.map(lambda leaf: leaf[0], stop_gradient(x))
        reverse = _hierarchical(programs.guide).marginal_programs(programs, first)
        why_not = lambda: TracedGuide(lambda datum, split: reverse, random.key(0)).why_no_dreg
        return _MarginalParticles(
            programs,
            x,
            objective,
            score_free=marginal.is_score_free(objective_name, why_not),
            has_score=marginal.from_above or not is_path,
            one_view=objective.of_generating and not (marginal.from_above and is_path),
        )


@dataclass(frozen=True)
class _MarginalParticles:
    """Log-weights log q(x_i, u) − log r(u | x_i) of draws x of the sampler.

    :param x: draws, with a leading axis.
    :param objective: of the reverse model.
    :param score_free: whether the reverse model gets the doubly reparameterised gradient.
    :param has_score: whether the sampler's parameters get ∇ log q at fixed x.
    :param one_view: whether all gradients are those of one log-weight.
    """

    programs: Programs
    x: Params
    objective: Objective
    score_free: bool
    has_score: bool
    one_view: bool

    def particle(self, u: Params | None = None) -> Particle:
        """A log-weight at the generating u, or at one that the reverse model draws."""
        propose = partial(self._propose, u)
        if not self.one_view:
            return Particle(self._weigh, propose)
        return Particle(
            lambda i, key, _, detached: self._weigh(i, key, propose(i, key)[SAMPLER], detached)
        )

    def _propose(self, u: Params | None, i: Any, key: jax.Array) -> dict[str, Any]:
        propose = _hierarchical(self.programs.guide).propose
        # Detached here, not outside: all views then close over the same arrays, computed once.
        x = jax.tree.map(lambda leaf: leaf[i], self.x)
        fixed_x, fixed_u, fixed_params = stop_gradient((x, u, self.programs.params))
        programs = self.programs.replace(params=fixed_params)
        proposals = {SAMPLER: (x, propose(key, programs, x, u))}
        if not self.objective.of_generating:
            score_free = self.score_free and u is None
            programs = self.programs.detached().replace(params=self.programs.params)
            of_reverse = propose(key, programs, fixed_x, fixed_u, score_free)
            proposals[PATH if score_free else GUIDE] = fixed_x, of_reverse
        return proposals

    def _weigh(self, i: Any, key: jax.Array, proposal: Any, detached: bool) -> jax.Array:
        programs = self.programs
        if detached:
            programs = programs.detached()
        elif not self.has_score:
            programs = programs.replace(params=stop_gradient(programs.params))
        guide = _hierarchical(programs.guide)
        return guide.log_weight(model_key(key), programs, *proposal)


def _hierarchical(guide: Callable[..., Any]) -> HierarchicalGuide:
    """The guide, which has been checked to be hierarchical."""
    hierarchical: HierarchicalGuide = guide  # type: ignore[assignment]
    return hierarchical
