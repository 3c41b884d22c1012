"""The base of the losses: how draws become an estimate, and where its gradients go."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple, NoReturn

import jax
from jax import random
from jax.lax import stop_gradient
import jax.numpy as jnp
from jax.sharding import NamedSharding

from numpyro.infer import ELBO

from numpyro_sumo.checks import check_one_of, check_positive_integer, check_sharding, options_repr
from numpyro_sumo.estimators import importance_weighted_bound
from numpyro_sumo.estimators.log_sums import as_column
from numpyro_sumo.programs.handlers import with_fixed_subsample
from numpyro_sumo.programs.path_gradient import why_no_dreg
from numpyro_sumo.programs.per_datum import PerDatumWeights
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params
from numpyro_sumo.ragged import MODEL, PATH, Particle, evaluate_log_weights, held_unless
from numpyro_sumo.stopping_times import StoppingTime

#: Draws of an only datum's tail that every step makes whatever was drawn: cheaper than a loop.
_TAIL_DRAWS_OF_ONE = 2

#: The first chunk of the tails of many data is no larger than this many draws of each.
_LARGEST_FIRST_CHUNK = 8

#: Independent draws behind the baseline of the variance objective.
_BASELINE_PARTICLES = 32


class Plan(NamedTuple):
    """How draws are cut up; see :func:`~numpyro_sumo.ragged.evaluate_log_weights`."""

    num_head: int
    first_chunk: int
    chunk_size: int
    at_once: int | None


class Draws(NamedTuple):
    """Log-weights as they were drawn, or what was kept of them.

    :param kept: of the fresh draws, by view (see :class:`~numpyro_sumo.ragged.Particle`):
        log-weights of shape ``(draws, num_data, ...)``, or :class:`~numpyro_sumo.ragged.TailSums` or
        :class:`~numpyro_sumo.ragged.LevelSums`.
    :param stopping_times: K of each datum, shape ``(num_data,)``; zeros where there is no tail.
    :param given: log-weights of the draws that generated x, shape ``(num_data,)``, by view; empty
        where they are not among the particles.
    """

    kept: dict[str, Any]
    stopping_times: jax.Array
    given: dict[str, jax.Array]

    def seen(self, views: Sequence[str]) -> tuple[Any, jax.Array | None]:
        """What was kept, and the given log-weights or None: differentiable in all of the views."""
        kept = _in_all([self.kept[view] for view in views])
        return kept, _in_all([self.given[view] for view in views]) if self.given else None

    def times_for(self, estimates: jax.Array) -> jax.Array:
        """K in a shape that broadcasts to that of estimates, ``(num_data, ...)``."""
        return as_column(self.stopping_times, estimates)


def _in_all(views: list[Any]) -> Any:
    """One and the same number, with the gradients of all its views."""
    first, *others = views
    for view in others:
        first = jax.tree.map(lambda leaf, other: leaf + gradient_only(other), first, view)
    return first


class ImportanceLoss(ELBO):
    r"""Base of the losses that estimate log p(x) from importance weights.

    The *value* of the loss is minus the estimate. Its gradient is that of the estimate in the
    model's parameters, and that of the guide objective in the guide's: an unbiased estimate does
    not depend on the guide in expectation, and so cannot fit it. A parameter that model and guide
    share gets the sum.

    A subclass says how many draws there are (``num_particles`` always, and a random tail if it has
    a ``stopping_time``), how they become an estimate, and which guide objectives it knows:

    - ``"iwelbo"``: the guide climbs the bound over the particles that are always drawn;
    - ``"variance"``: it descends the squared difference between the estimate and a baseline, which
      is an importance-weighted bound over independent draws;
    - ``"iwhvi"``: it descends the upper bound that contains the generating draw;
    - ``"forward_kl"``: it descends −log r(u | x) at the draw u that generated x.

    The last two are for density matching, inside :class:`~numpyro_sumo.ReverseKL`.

    With ``gradient="dreg"`` the guide climbs its bound by the doubly reparameterised gradient:
    draws are differentiated along their path alone, each by the square of its share in the bound,
    and the score, which is noise of mean zero, is left out. Model parameters never see it.

    Losses with a random number of draws, and all with a ``chunk_size`` that is less than their
    draws, are differentiated in reverse mode only: under
    ``forward_mode_differentiation=True`` JAX raises a TypeError.

    A positive scale that all sites of the guide share, from subsampling or ``handlers.scale``,
    multiplies the finished estimate; the model's densities are taken relative to it. With one
    particle that is what :class:`numpyro.infer.Trace_ELBO` does.
    """

    #: Accepted names. The first is the default outside density matching, where it is "forward_kl".
    guide_objectives: tuple[str, ...]
    #: Distribution of the number of draws beyond ``num_particles``; None for a fixed number.
    stopping_time: StoppingTime | None = None
    #: Whether the draw that generated x is the first of the particles.
    from_above: bool = False
    #: How large the first chunk of the tails of many data is, beside what they are expected to
    #: hold: what does not fit takes a loop, which costs some three times as much for a draw.
    first_chunk_share = 1.0

    #: Accepted names.
    gradients = ("dreg", "standard")

    def __init__(
        self,
        num_particles: int,
        guide_objective: str | None,
        chunk_size: int | None,
        gradient: str | None = None,
        data_axes: Any = None,
        sharding: NamedSharding | None = None,
        share_stopping_times: bool = False,
    ):
        check_positive_integer("num_particles", num_particles)
        if chunk_size is not None:
            check_positive_integer("chunk_size", chunk_size)
        if guide_objective is not None:
            check_one_of("guide_objective", guide_objective, self.guide_objectives)
        if gradient is not None:
            check_one_of("gradient", gradient, self.gradients)
        if gradient == "dreg" and guide_objective not in (None, "iwelbo"):
            raise ValueError(
                "Expected gradient='dreg' with guide_objective='iwelbo', a bound that the guide "
                f"climbs; got {guide_objective!r}. Pass gradient='standard', or leave it out."
            )
        if sharding is not None:
            check_sharding(sharding)
        super().__init__(num_particles=num_particles)
        self.guide_objective = guide_objective
        self.gradient = gradient
        self.chunk_size = chunk_size
        self.data_axes = data_axes
        self.sharding = sharding
        self.share_stopping_times = share_stopping_times

    def __repr__(self) -> str:
        return options_repr(self)

    @property
    def mean_draws(self) -> float:
        """Expected number of log-weights behind one estimate."""
        return self.num_particles + (0.0 if self.stopping_time is None else self.stopping_time.mean)

    @property
    def draws_per_step(self) -> float:
        """Expected number of log-weights in a step of training, those of the baseline included."""
        return self.mean_draws + _BASELINE_PARTICLES * (self.guide_objective == "variance")

    @property
    def num_fresh(self) -> int:
        """Draws that are always made from the guide."""
        return self.num_particles - self.from_above

    def is_score_free(self, objective_name: str, programs: Programs) -> bool:
        """Whether the guide climbs its bound by the doubly reparameterised gradient.

        :raises ValueError: if that was asked for, and the guide has a site that does not allow it.
        """
        if objective_name != "iwelbo" or self.gradient == "standard":
            return False
        obstacle = why_no_dreg(programs)
        if obstacle is not None and self.gradient == "dreg":
            raise ValueError(
                "Expected a guide whose parameters act through reparameterised draws alone, for "
                f"gradient='dreg'; its {obstacle}. Pass gradient='standard'."
            )
        return obstacle is None

    def estimate(self, draws: Draws, *views: str) -> jax.Array:
        """The estimate of log p(x), in nats, shape ``(num_data, ...)``: the bound over all draws.

        :param draws: from :meth:`draw`.
        :param views: the names of those that it is differentiable in.
        """
        rows, given = draws.seen(views)
        return importance_weighted_bound(with_given(rows, given))

    def fresh_bound(self, draws: Draws, view: str) -> jax.Array:
        """The bound over the fresh draws that are always made, in nats."""
        rows = draws.kept[view][: self.num_fresh]
        return importance_weighted_bound(rows, score_free=view == PATH)

    def loss(self, rng_key, param_map, model, guide, *args, **kwargs) -> jax.Array:
        """Minus the estimate of log p(x), in nats; see :meth:`numpyro.infer.ELBO.loss`.

        Differentiable in the parameters, and in arrays among ``args`` and ``kwargs`` (x itself,
        say), of which the guide objective sees none unless it is the estimate itself.
        """
        self._check_from_below()
        objective_name = self.guide_objective or self.guide_objectives[0]
        if objective_name in ("iwhvi", "forward_kl"):
            self._refuse_alone()
        plate_key, draws_key, baseline_key = random.split(rng_key, 3)
        live = Programs(model, guide, param_map, args, kwargs)
        held = live.detached()
        weighing = self._weighing(plate_key, live)
        score_free = self.is_score_free(objective_name, weighing.example())
        # Model and guide climb one and the same bound, and the data move it through both.
        same_bound = objective_name == "iwelbo" and self.stopping_time is None
        together = same_bound and not score_free
        scale = weighing.scale(live)
        of_guide = live if same_bound else live.replace(args=held.args, kwargs=held.kwargs)

        def propose(i, key):
            return weighing.propose(i, key, of_guide, score_free)

        def weigh(i, key, proposal, is_held):
            inputs, scales = (held, stop_gradient(scale)) if is_held else (live, scale)
            return weighing.weigh(i, key_apart(key), proposal, inputs, scale=scales[i])

        def weigh_together(i, key, _, is_held):
            proposal = propose(i, key)
            counts = weigh(i, key, stop_gradient(proposal), True) > -jnp.inf
            return weigh(i, key, held_unless(counts, proposal, weighing.spread), is_held)

        if together:
            particle = Particle(weigh_together)
        else:
            view = PATH if score_free else "guide"
            particle = Particle(weigh, lambda i, key: {view: propose(i, key)}, weighing.spread)
        draws = self.draw(
            draws_key, particle, weighing.num_data, fresh_only=fresh_only(objective_name)
        )
        estimate = self.estimate(draws, MODEL)
        if together:
            # Model and guide climb one and the same estimate: one gradient is both.
            return -jnp.sum(scale * estimate)
        objective = self.objective(objective_name, draws, baseline_key, particle)
        return jnp.sum(scale * (gradient_only(objective) - estimate))

    def _weighing(self, plate_key, programs, num_estimates=1):
        """How model and guide are run: datum by datum, where that saves draws or was asked for."""
        return PerDatumWeights(
            plate_key,
            programs,
            num_estimates=num_estimates,
            data_axes=self.data_axes,
            one_by_one=self.stopping_time is not None and not self.share_stopping_times,
        )

    def loss_with_mutable_state(self, rng_key, param_map, model, guide, *args, **kwargs):
        """The loss, and mutable state (batch statistics, say) updated by one draw of the guide.

        The draw is one besides those of the loss; it sees the same subsample of the data.
        """
        plate_key, draws_key, _ = random.split(rng_key, 3)
        first = random.fold_in(plate_key, 0)
        subsampled = (with_fixed_subsample(first, program) for program in (model, guide))
        programs = Programs(*subsampled, param_map, args, kwargs)
        return {
            "loss": self.loss(rng_key, param_map, model, guide, *args, **kwargs),
            "mutable_state": programs.updated_mutable_state(draws_key),
        }

    def estimates(
        self,
        rng_key: jax.Array,
        param_map: Params,
        model: Callable,
        guide: Callable,
        args: tuple,
        kwargs: dict,
        num_estimates: int,
    ) -> tuple[jax.Array, jax.Array]:
        """Independent estimates of log p(x), each with a stopping time and a subsample of its own.

        They go through the queue together, so that none waits for another's stopping time.

        :return: estimates in nats, shape ``(num_estimates, *data)``, and their scale, of the same
            shape: what :meth:`log_evidence` multiplies them by before it sums over the data.
        """
        self._check_from_below()
        plate_key, draws_key = random.split(rng_key)
        inputs = Programs(model, guide, param_map, args, kwargs)
        weighing = self._weighing(plate_key, inputs, num_estimates)

        def weigh(i, key, _, held):
            proposal = weighing.propose(i, key, inputs)
            return weighing.weigh(i, key_apart(key), proposal, inputs)

        draws = self.draw(draws_key, Particle(weigh), weighing.num_data)
        estimates = self.estimate(draws, MODEL)
        scales = weighing.scale(inputs)
        scales = scales.reshape(*scales.shape, *[1] * (estimates.ndim - scales.ndim))
        scales = jnp.broadcast_to(scales, estimates.shape)
        return weighing.by_estimate(estimates), weighing.by_estimate(scales)

    def _check_from_below(self) -> None:
        """Refuses estimates that contain the generating draw."""
        if self.from_above:
            self._refuse_alone()

    def _refuse_alone(self) -> NoReturn:
        raise ValueError(
            f"Expected {self!r} inside ReverseKL, where the generating draw is known; "
            f"got it on its own. Write ReverseKL(marginal={self!r})."
        )

    def log_evidence(
        self,
        rng_key: jax.Array,
        param_map: Params,
        model: Callable,
        guide: Callable,
        *args: Any,
        **kwargs: Any,
    ) -> jax.Array:
        """One estimate of log p(x), in nats: minus the loss.

        Without observed sites it is the log normaliser of the model's factors.

        :param rng_key: a key.
        :param param_map: values of the param sites of model and guide, constrained.
        :param args: arguments of model and guide; likewise ``kwargs``.
        :return: a scalar.
        """
        return -self.loss(rng_key, param_map, model, guide, *args, **kwargs)

    def draw(
        self,
        rng_key: jax.Array,
        particle: Particle,
        num_data: int = 1,
        given: dict[str, jax.Array] | None = None,
        fresh_only: Collection[str] = (),
    ) -> Draws:
        """Samples a stopping time for each datum and evaluates as many log-weights as that asks.

        :param particle: how one comes about.
        :param given: the generating draws' log-weights by view, for losses begun from above.
        :param fresh_only: names of views that are wanted of the draws that are always made, alone.
        """
        plan, stopping_times = self.plan(num_data), self.draw_stopping_times(rng_key, num_data)
        cap = 0 if self.stopping_time is None else self.stopping_time.cap
        log_weights = evaluate_log_weights(
            particle,
            rng_key,
            self.num_fresh + stopping_times,
            max_count=self.num_fresh + cap,
            head_only=fresh_only,
            sharding=self.sharding,
            **plan._asdict(),
        )
        return Draws(log_weights, stopping_times, given or {})

    def draw_stopping_times(self, rng_key: jax.Array, num_data: int) -> jax.Array:
        """K of each datum, zeros without a tail: integers of shape ``(num_data,)``."""
        if self.stopping_time is None:
            return jnp.zeros(num_data, jnp.int32)
        return self.stopping_time.sample(key_apart(rng_key), (num_data,))

    def plan(self, num_data: int) -> Plan:
        """How the draws of so many data are cut up."""
        num_head = self.num_head(num_data)
        mean_tail = self.mean_draws - self.from_above - num_head
        return Plan(num_head, *self.chunks(num_data, num_head, mean_tail), self.chunk_size)

    def num_head(self, num_data: int) -> int:
        """Draws of each datum that are made whatever was drawn."""
        if num_data > 1 or self.stopping_time is None:
            return self.num_fresh
        return self.num_fresh + min(_TAIL_DRAWS_OF_ONE, self.stopping_time.cap)

    def chunks(self, num_data: int, num_head: int, mean_tail: float) -> tuple[int, int]:
        """Sizes of the first chunk, in draws, and of the others.

        :param num_head: draws of each datum that are evaluated together with the first chunk.
        :param mean_tail: expected draws of each datum beyond these, where there are several data.
        """
        chunk_size = self.chunk_size or max(8, num_data)
        if num_data == 1:
            # An only datum seldom has a tail, and what is evaluated before the loop always is.
            return 0, chunk_size
        first_chunk = int(self.first_chunk_share * num_data * mean_tail)
        if self.chunk_size is None:
            return min(first_chunk, _LARGEST_FIRST_CHUNK * num_data), chunk_size
        return max(0, min(first_chunk, chunk_size - num_head * num_data)), chunk_size

    def objective(
        self, name: str, draws: Draws, baseline_key: jax.Array, particle: Particle
    ) -> jax.Array:
        """The guide objective, to be minimised: one for each estimate, and of its shape.

        :param name: one of ``guide_objectives``, save "forward_kl", which needs no draws.
        :param draws: with a "guide" view; or, for the doubly reparameterised gradient, with a
            "path" view of draws that are differentiated along their path alone.
        :param particle: as in :meth:`draw`, for the baseline's own draws.
        """
        if name == "iwhvi":
            return self.estimate(draws, "guide")
        if name == "iwelbo":
            if self.num_fresh < 1:
                raise ValueError(
                    "Expected num_particles >= 2, for the generating draw is one of them and "
                    f"guide_objective='iwelbo' needs another; got {self!r}. Raise num_particles."
                )
            return -self.fresh_bound(draws, PATH if PATH in draws.kept else "guide")
        num_data = draws.stopping_times.shape[0]
        counts = jnp.full(num_data, _BASELINE_PARTICLES)
        independent = evaluate_log_weights(
            Particle(lambda i, key, *_: stop_gradient(particle.views(i, key)[MODEL])),
            baseline_key,
            counts,
            max_count=_BASELINE_PARTICLES,
            num_head=_BASELINE_PARTICLES,
            at_once=self.chunk_size,
            chunk_size=1,
            sharding=self.sharding,
        )
        baseline = importance_weighted_bound(independent[MODEL])
        difference = self.estimate(draws, "guide") - baseline
        # Where all weights of either are zero there is nothing to learn, and no 0·∞.
        return jnp.where(jnp.isfinite(difference), difference, 0.0) ** 2


def with_given(rows: jax.Array, given: jax.Array | None) -> jax.Array:
    """Log-weights of the fresh draws, after that of the generating draw if it is a particle."""
    return rows if given is None else jnp.concatenate([given[None], rows])


def fresh_only(objective_name: str) -> tuple[str, ...]:
    """The views that a guide objective wants of the draws that are always made, alone."""
    return ("guide", PATH) if objective_name == "iwelbo" else ()


def key_apart(key: jax.Array) -> jax.Array:
    """Another key, from one that is itself split or folded with small numbers.

    What is made of it costs nothing where it is not used: models seldom draw.
    """
    return random.fold_in(key, 2**32 - 1)


def gradient_only(x: jax.Array) -> jax.Array:
    """Zero, with the gradient of x."""
    x = jnp.where(jnp.isfinite(x), x, 0.0)
    return x - stop_gradient(x)
