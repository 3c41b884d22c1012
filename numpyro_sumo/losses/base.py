"""The base of the losses: how draws become an estimate, and where its gradients go."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, ClassVar, NoReturn

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp
from jax.sharding import NamedSharding

from numpyro.infer import ELBO

from numpyro_sumo.checks import check_one_of, check_positive_integer, check_sharding
from numpyro_sumo.estimators.bounds import importance_weighted_bound
from numpyro_sumo.programs.elements import Elements
from numpyro_sumo.programs.per_datum import PerDatumWeights
from numpyro_sumo.programs.programs import Programs, with_fixed_subsample
from numpyro_sumo.ragged.evaluate import evaluate_rows
from numpyro_sumo.ragged.particle import GUIDE, MODEL, PATH, Particle
from numpyro_sumo.ragged.queue import Layout
from numpyro_sumo.ragged.rows import Rows
from numpyro_sumo.stopping_times import StoppingTime, warn_of_shared_stopping_time

from .layout import layout_of
from .objectives import OBJECTIVES, Objective, Sample, SampleViews, gradient_only
from .particles import joint_particle, model_key, plain_particle, split_particle
from .program_loss import ProgramLoss

#: Extra draws before the loop if there is one datum: usually K is at most 2, and no loop is needed.
_FIXED_TAIL_OF_ONE = 2


@dataclass(kw_only=True, eq=False)
class ImportanceLoss(ProgramLoss):
    r"""Base of the losses that estimate log p(x) from importance weights.

    The *value* of the loss is minus the estimate, in nats. The model's parameters get the gradient
    of the estimate, and the guide's that of the guide objective: the table is in
    :mod:`numpyro_sumo.losses.objectives`.

    For a loss of your own override :meth:`estimate`. Model and guide then both maximise it. To give
    the guide another objective, name it first in ``guide_objectives``.

    Losses with a random number of draws, and all with a ``chunk_size`` below their draws, have
    reverse-mode derivatives only; ``forward_mode_differentiation=True`` raises a TypeError.

    If all guide sites share a scale s > 0 (from subsampling or ``handlers.scale``), the loss is −s
    times the estimate from log p / s − log q, where log p includes the scales of its sites and
    log q does not. With one particle this equals :class:`numpyro.infer.Trace_ELBO`.

    :param num_particles: m, draws that are always made, an integer ≥ 1.
    :param guide_objective: what the guide is fitted by: a name among ``guide_objectives``, the
        first by default. ``"estimate"``, the estimate itself; ``"iwelbo"``, the bound over the
        draws that are always made; ``"variance"``, the squared difference between the estimate and
        a baseline from 32 independent draws (the paper's objective with a baseline: little noise
        near the posterior, but training fails from a much narrower guide); ``"forward_kl"``,
        −log r(u | x) at the u that generated x (only in :class:`~numpyro_sumo.ReverseKL`, where it
        is the default).
    :param gradient: the guide's gradient under ``"iwelbo"``: ``"dreg"``, the doubly
        reparameterised gradient, which has the same mean, and variance zero where the guide is the
        posterior; or ``"standard"``. None is "dreg" for guides that depend on their parameters
        through random draws alone, and "standard" for the others (AutoDelta, AutoDAIS).
    :param data_axes: for programs written for one datum: the axis of the data in each positional
        argument, with the meaning of ``in_axes`` in :func:`jax.vmap` (keyword arguments are not
        split). Each datum then has its own draws. Programs with a plate over that axis need no such
        option; with it they are refused if they look across the batch.
    :param chunk_size: log-weights evaluated at a time; memory is that of two chunks. None evaluates
        the first draws and most of the tails together.
    :param sharding: a :class:`jax.sharding.NamedSharding` over one axis of a mesh, of type Auto:
        draws that are evaluated together are split over its devices. The numbers stay the same.
    :raises ValueError: for options outside these, and in ``loss`` for a guide that does not match
        the model.
    """

    #: Accepted names; the first is the default outside ReverseKL.
    guide_objectives: ClassVar[tuple[str, ...]] = ("estimate",)
    #: Size of the first chunk of the tails of many data, relative to their mean number of draws.
    first_chunk_share: ClassVar[float] = 1.0

    num_particles: int = field(default=4, kw_only=False)
    guide_objective: str | None = None
    gradient: str | None = None
    data_axes: Any = None
    chunk_size: int | None = None
    sharding: NamedSharding | None = None

    # Options of subclasses: the distribution of K, one K for all data, x's own draw as a particle.
    stopping_time: StoppingTime | None = field(default=None, init=False, repr=False)
    share_stopping_times: bool = field(default=False, init=False, repr=False)
    from_above: bool = field(default=False, init=False, repr=False)

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        own = cls.__dict__
        if "estimate" in own and "guide_objectives" not in own:
            inherited = cls.guide_objectives
            if inherited != ImportanceLoss.guide_objectives:
                raise TypeError(
                    f"Expected {cls.__name__}, which overrides estimate, to say what its guide "
                    f"maximises; it inherits guide_objectives={inherited}. Set guide_objectives = "
                    "('estimate',) for the estimate itself, or repeat the inherited names."
                )

    def __post_init__(self) -> None:
        check_positive_integer("num_particles", self.num_particles)
        if self.chunk_size is not None:
            check_positive_integer("chunk_size", self.chunk_size)
        if self.guide_objective is not None:
            check_one_of("guide_objective", self.guide_objective, self.guide_objectives)
        if self.gradient is not None:
            check_one_of("gradient", self.gradient, ("dreg", "standard"))
        if self.gradient == "dreg" and self.objective_name != "iwelbo":
            raise ValueError(
                "Expected gradient='dreg' with guide_objective='iwelbo', a bound that the guide "
                f"maximises; got {self.objective_name!r}. Pass gradient='standard', or omit it."
            )
        if self.sharding is not None:
            check_sharding(self.sharding)
        ELBO.__init__(self, num_particles=self.num_particles)

    def __repr__(self) -> str:
        shown = ", ".join(f"{f.name}={getattr(self, f.name)!r}" for f in fields(self) if f.repr)
        is_cut = self.stopping_time is not None and self.stopping_time.is_cut_short
        what = f"  # unbiased for the bound over {self.max_draws} draws" if is_cut else ""
        return f"{type(self).__qualname__}({shown}){what}"

    @property
    def objective_name(self) -> str:
        """The guide objective outside :class:`~numpyro_sumo.ReverseKL`."""
        return self.guide_objective or self.guide_objectives[0]

    @property
    def mean_draws(self) -> float:
        """Expected number of log-weights behind one estimate."""
        return self.num_particles + (0.0 if self.stopping_time is None else self.stopping_time.mean)

    @property
    def max_draws(self) -> int:
        """Draws in the bound that the estimate is unbiased for."""
        return self.num_particles + (0 if self.stopping_time is None else self.stopping_time.cap)

    @property
    def draws_per_step(self) -> float:
        """Expected number of log-weights in a step of training, those of a baseline included."""
        return self.mean_draws + OBJECTIVES[self.objective_name].num_baseline

    @property
    def num_fresh(self) -> int:
        """Draws that are always made from the guide."""
        return self.num_particles - self.from_above

    def estimate(self, sample: Sample) -> jax.Array:
        """The estimate of log p(x), in nats, shape ``(num_data, ...)``: the bound over all draws.

        A loss of your own overrides it, as a differentiable function of ``sample.log_weights``.
        """
        return importance_weighted_bound(sample.log_weights)

    def fixed_bound(self, sample: Sample, *, score_free: bool = False) -> jax.Array:
        """The importance-weighted bound over the fresh draws that are always made, in nats."""
        return importance_weighted_bound(sample.kept[: self.num_fresh], score_free=score_free)

    def is_score_free(self, objective_name: str, why_not: Callable[[], str | None]) -> bool:
        """Whether the guide gets the doubly reparameterised gradient of its bound.

        :param why_not: returns what in the guide forbids it, or None.
        :raises ValueError: if the option asks for that gradient and the guide does not allow it.
        """
        if objective_name != "iwelbo" or self.gradient == "standard":
            return False
        obstacle = why_not()
        if obstacle is not None and self.gradient == "dreg":
            raise ValueError(
                "Expected a guide whose parameters act through reparameterised draws only, for "
                f"gradient='dreg'; its {obstacle}. Pass gradient='standard'."
            )
        return obstacle is None

    def loss_of(self, rng_key: jax.Array, programs: Programs) -> jax.Array:
        """Minus the estimate of log p(x), in nats.

        Differentiable in the parameters and in arrays among the arguments.
        """
        objective = OBJECTIVES[self.objective_name]
        if self.from_above or objective.of_generating:
            self._refuse_alone()
        plate_key, draws_key, baseline_key = random.split(rng_key, 3)
        weights = self._per_datum(plate_key, programs)
        score_free = self.is_score_free(self.objective_name, lambda: weights.why_no_dreg)
        of_estimate = objective.maximizes_estimate or (objective.fixed_only and self._is_bound)
        if weights.elements.why_shared is not None:
            warn_of_shared_stopping_time(weights.elements.why_shared)
        scale = weights.scale()
        if of_estimate and not score_free:
            # Model and guide maximise the same function: one gradient serves both.
            particle = joint_particle(weights, scale)
            views = self.sample(draws_key, particle, weights.num_data)
            return -jnp.sum(scale * self.estimate(views.merged(MODEL)))
        view = PATH if score_free else GUIDE
        particle = split_particle(weights, scale, view, detach_args=not of_estimate)
        fixed_only = (view,) if objective.fixed_only else ()
        views = self.sample(draws_key, particle, weights.num_data, fixed_only=fixed_only)
        estimate = self.estimate(views.merged(MODEL))
        of_guide = self.guide_value(objective, views, baseline_key, particle)
        return jnp.sum(scale * (gradient_only(of_guide) - estimate))

    def batch_of(self, rng_key: jax.Array, programs: Programs) -> tuple[jax.Array, Programs]:
        plate_key, draws_key, _ = random.split(rng_key, 3)
        fixed = partial(with_fixed_subsample, random.fold_in(plate_key, 0))
        return draws_key, programs.replace(model=fixed(programs.model), guide=fixed(programs.guide))

    def sample_estimates(
        self, rng_key: jax.Array, programs: Programs, num_estimates: int
    ) -> tuple[jax.Array, jax.Array]:
        """Independent estimates of log p(x), each with its own stopping times and subsample.

        They share one queue, so that none waits for another's stopping time.

        :return: estimates in nats, shape ``(num_estimates, *data)``, and their scale, of the same
            shape: the factors of the estimates in the sum over the data.
        """
        if self.from_above:
            self._refuse_alone()
        plate_key, draws_key = random.split(rng_key)
        weights = self._per_datum(plate_key, programs, num_estimates)
        views = self.sample(draws_key, plain_particle(weights), weights.num_data)
        estimates = self.estimate(views.merged(MODEL))
        scales = weights.scale_of(estimates)
        return weights.by_estimate(estimates), weights.by_estimate(scales)

    def sample(
        self,
        rng_key: jax.Array,
        particle: Particle,
        num_data: int = 1,
        generating: dict[str, jax.Array] | None = None,
        fixed_only: tuple[str, ...] = (),
    ) -> SampleViews:
        """Samples a stopping time K for each datum and evaluates m + K log-weights.

        :param generating: {view: log-weights of the draws that generated the data}.
        :param fixed_only: views that need the fixed draws only.
        """
        layout, times = layout_of(self, num_data), self.sample_stopping_times(rng_key, num_data)
        cap = 0 if self.stopping_time is None else self.stopping_time.cap
        rows = Rows(self.num_fresh + cap, self.num_fresh, frozenset(fixed_only))
        kept = evaluate_rows(rng_key, particle, self.num_fresh + times, layout, rows)
        return SampleViews(kept, times, generating or {})

    def sample_stopping_times(self, rng_key: jax.Array, num_data: int) -> jax.Array:
        """K of each datum, zeros without a tail: integers of shape ``(num_data,)``."""
        if self.stopping_time is None:
            return jnp.zeros(num_data, jnp.int32)
        return self.stopping_time.sample(model_key(rng_key), (num_data,))

    def fixed_blocks(self, num_data: int) -> tuple[int, int]:
        """Blocks of draws of each datum that are always made, and draws in a block."""
        if num_data > 1 or self.stopping_time is None:
            return self.num_fresh, 1
        return self.num_fresh + min(_FIXED_TAIL_OF_ONE, self.stopping_time.cap), 1

    def guide_value(
        self, objective: Objective, views: SampleViews, rng_key: jax.Array, particle: Particle
    ) -> jax.Array:
        """The guide objective, to be minimised: one for each estimate, and of its shape."""
        num_data = len(views.stopping_times)
        detached = Particle(lambda i, key, *_: stop_gradient(particle.views(i, key)[MODEL]))

        def draw_baseline(number: int) -> jax.Array:
            layout = Layout(number, max_first_chunk=self.chunk_size, sharding=self.sharding)
            rows, counts = Rows(number, number, frozenset()), jnp.full(num_data, number)
            return evaluate_rows(rng_key, detached, counts, layout, rows)[MODEL]

        return objective.value(self, views, draw_baseline)

    def _per_datum(
        self, plate_key: jax.Array, programs: Programs, num_estimates: int = 1
    ) -> PerDatumWeights:
        """How model and guide are run: datum by datum, where that saves draws or was asked for."""
        is_linear = self._is_bound and self.num_particles == 1
        whole = Elements(programs, plate_key, num_estimates, is_linear=is_linear)
        apart = self.stopping_time is not None and not self.share_stopping_times
        return PerDatumWeights(whole, data_axes=self.data_axes, apart=apart)

    @property
    def _is_bound(self) -> bool:
        """Whether the estimate is the importance-weighted bound over the particles."""
        return self.stopping_time is None and type(self).estimate is ImportanceLoss.estimate

    def _refuse_alone(self) -> NoReturn:
        raise ValueError(
            f"Expected {self!r} inside ReverseKL, where the generating draw is known; got it on "
            f"its own. Write ReverseKL(marginal={self!r})."
        )
