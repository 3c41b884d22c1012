"""Markov chains whose proposals come from a trained hierarchical guide: exact in the long run."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple
import warnings

import numpy as np

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.handlers import seed
from numpyro.infer import HMC
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn, unconstrain_fn
from numpyro.util import is_prng_key

from numpyro_sumo.checks import check_positive_integer, check_share
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.extended_draws import ExtendedDraws
from numpyro_sumo.guides.hierarchical import HierarchicalGuide, Sites, hierarchical
from numpyro_sumo.programs.programs import Programs, with_params
from numpyro_sumo.programs.sites import Params

#: Proposals that each chain chooses its start from, and how many are weighed at a time.
_POOL, _POOL_BATCH = 256, 64


class IndependenceMetropolisState(NamedTuple):
    """State of a chain; every field may be named in ``extra_fields`` of ``MCMC.run``.

    :param i: iteration, warm-up included.
    :param z: values of the model's latent sites, constrained.
    :param log_weight: log p(z) − log q̂(z) in nats, by the draws of u that z was accepted with.
    :param accept_prob: probability of acceptance of the last proposal of the guide.
    :param mean_accept_prob: its mean since warm-up, or since the start while that lasts.
    :param accepted: whether the last proposal was accepted.
    :param diverging: whether the last proposal had no weight (NaN or ∞; it is rejected), or the
        alternate kernel's step diverged.
    :param alternate_state: of the alternate kernel; None without one.
    :param rng_key: the key of the next iteration.
    """

    i: jax.Array
    z: Sites
    log_weight: jax.Array
    accept_prob: jax.Array
    mean_accept_prob: jax.Array
    accepted: jax.Array
    diverging: jax.Array
    alternate_state: Any
    rng_key: jax.Array


class IndependenceMetropolis(MCMCKernel):
    r"""Metropolis–Hastings with a hierarchical guide as its proposal, whatever the state.

    .. math::
        x' \sim q, \qquad
        P(\text{accept}) = \min\Big(1, \frac{p(x')\, \hat q(x)}{\hat q(x')\, p(x)}\Big)

    q̂ is an estimate of q from draws of u, most of them the reverse model's, which the state keeps:
    such a chain has p for its invariant law however poor guide and reverse model are
    (:class:`~numpyro_sumo.guides.extended_draws.ExtendedDraws`); they decide how often it moves. Draws are
    judged under ArviZ as those of NUTS. A chain starts at one of 256 draws of the guide, chosen by
    weight, and needs no warm-up where weights are even. A mode that the guide never proposes, it
    never visits.

    With ``alternate`` every iteration also takes a step of that kernel, which reaches where the
    guide does not. Its invariant law is p, so that after it, all n + 1 draws of u are drawn anew
    from r̄(u | x): what is left invariant then is p(x) Π r̄(uⱼ | x), exactly. Warm-up adapts it.

    :param model: the target, a NumPyro model.
    :param guide: the sampler with its reverse model.
    :param params: values of the param sites of both.
    :param num_particles: n, fresh draws of u for each proposal, an integer ≥ 1.
    :param defensive_share: of the sampler's own draws of u among them, in [0, 1): it limits what a
        u that the reverse model gives next to no density can add to q̂.
    :param alternate: an :class:`~numpyro.infer.HMC` or :class:`~numpyro.infer.NUTS` kernel of the
        same model; it may find the model's param sites untrained.
    :raises ValueError: at once for options outside these; when chains start, if model and guide
        do not fit each other, for params of another guide, if the model is subsampled, for
        ``init_params``, and if no proposal has a weight above zero.
    :warns UserWarning: when chains start, if without ``alternate`` they would stand still.

    **Reference:** Andrieu and Roberts 2009, *The pseudo-marginal approach for efficient Monte Carlo
    computations*, section 2, for a state that keeps its estimate.

    >>> import jax, numpyro, numpyro.distributions as dist
    >>> from numpyro.infer import MCMC
    >>> from numpyro_sumo import HierarchicalGuide, IndependenceMetropolis
    >>> def target():
    ...     numpyro.sample("x", dist.StudentT(5.0))
    >>> def sampler():
    ...     u = numpyro.sample("u", dist.Normal(), infer={"is_auxiliary": True})
    ...     numpyro.sample("x", dist.Normal(u, 1.0))
    >>> def reverse(latents):
    ...     numpyro.sample("u", dist.Normal(0.5 * latents["x"], 0.8))
    >>> kernel = IndependenceMetropolis(target, HierarchicalGuide(sampler, reverse), {})
    >>> mcmc = MCMC(kernel, num_warmup=0, num_samples=500, num_chains=4,
    ...             chain_method="vectorized", progress_bar=False)
    >>> mcmc.run(jax.random.key(0))
    >>> mcmc.get_samples(group_by_chain=True)["x"].shape
    (4, 500)
    """

    sample_field = "z"
    default_fields = ("z", "diverging")

    def __init__(
        self,
        model: Callable,
        guide: HierarchicalGuide,
        params: Params,
        *,
        num_particles: int = 16,
        defensive_share: float = DEFENSIVE_SHARE,
        alternate: HMC | None = None,
    ):
        hierarchical(guide)
        check_positive_integer("num_particles", num_particles)
        check_share("defensive_share", defensive_share)
        _check_alternate(alternate, model)
        self.model = model
        self.guide = guide
        self.params = params
        self.num_particles = num_particles
        self.defensive_share = defensive_share
        self.alternate = None if alternate is None else alternate.wrap_model(self._known)
        self._num_warmup = 0
        self._inputs = None
        self._start_fn = None
        self._sample_fn = None  # MCMC starts a chain where this is None

    def init(self, rng_key, num_warmup, init_params=None, model_args=(), model_kwargs=None):
        """States at which chains start: one, or as many as there are keys."""
        if init_params is not None:
            raise ValueError(
                "Expected no init_params, for chains start at proposals of the guide; got "
                f"{init_params!r}. Leave them out."
            )
        if not self._can_start(num_warmup, model_args, model_kwargs):
            extended = self._extended(model_args, model_kwargs)
            extended.check()
            self._num_warmup = num_warmup
            self._start_fn = jax.jit(jax.vmap(partial(self._start, extended)))
            self._inputs = model_args, model_kwargs
        is_one = is_prng_key(rng_key)
        states, log_weights = self._start_fn(rng_key[None] if is_one else rng_key)
        if not isinstance(log_weights, jax.core.Tracer):
            self._check_pool(np.asarray(log_weights, np.float64))
        self._sample_fn = self.sample
        return jax.tree.map(lambda leaf: leaf[0], states) if is_one else states

    def sample(self, state, model_args, model_kwargs):
        """The next state, or the next states of several chains."""
        step = partial(self._step, self._extended(model_args, model_kwargs))
        return step(state) if is_prng_key(state.rng_key) else jax.vmap(step)(state)

    def postprocess_fn(self, model_args, model_kwargs):
        """Adds the model's deterministic sites to the latent ones."""
        return self._extended(model_args, model_kwargs).with_deterministic

    def get_diagnostics_str(self, state):
        """The acceptance rate, for the progress bar."""
        rate = f"acc. prob={state.mean_accept_prob:.2f}"
        if self.alternate is None:
            return rate
        return f"{rate} | {self.alternate.get_diagnostics_str(state.alternate_state)}"

    def __getstate__(self):
        # What was compiled stays behind; chains start anew where the kernel is unpickled.
        return self.__dict__ | {"_inputs": None, "_start_fn": None, "_sample_fn": None}

    def _extended(self, args: tuple, kwargs: dict | None) -> ExtendedDraws:
        programs = Programs(self.model, self.guide, self.params, args, kwargs or {})
        return ExtendedDraws(programs, self.num_particles, self.defensive_share)

    def _known(self, model: Callable) -> Callable:
        """The model with its parameters known: HMC would take param sites for latent ones."""
        return with_params(model, self.params)

    def _can_start(self, num_warmup: int, args: tuple, kwargs: dict | None) -> bool:
        """Whether what starts chains has been made for these very inputs, by a chain before."""
        return (
            self._inputs is not None
            and self._num_warmup == num_warmup
            and all(new is old for new, old in zip((args, kwargs), self._inputs))
        )

    def _start(self, extended: ExtendedDraws, rng_key: jax.Array):
        """A state at one of a pool of proposals, chosen by weight, and the pool's log-weights."""

        def weighed(key):
            draw = extended.draw(key)
            return draw.latents, draw.log_weight

        pool_key, start_key, chain_key, alternate_key = random.split(rng_key, 4)
        pool_keys = random.split(pool_key, _POOL)
        pool = lax.map(weighed, pool_keys, batch_size=_POOL_BATCH)
        possible = jnp.where(jnp.isfinite(pool[1]), pool[1], -jnp.inf)
        at = random.categorical(start_key, possible)
        z, log_weight = jax.tree.map(lambda leaf: leaf[at], (pool[0], possible))
        alternate_state = None
        if self.alternate is not None:
            alternate_state = self.alternate.init(
                alternate_key,
                self._num_warmup,
                self._unconstrained(extended, z),
                extended.programs.args,
                extended.programs.kwargs,
            )
        state = IndependenceMetropolisState(
            i=jnp.array(0),
            z=z,
            log_weight=log_weight,
            accept_prob=jnp.zeros_like(log_weight),
            mean_accept_prob=jnp.zeros_like(log_weight),
            accepted=jnp.array(False),
            diverging=jnp.array(False),
            alternate_state=alternate_state,
            rng_key=chain_key,
        )
        return state, pool[1]

    def _check_pool(self, log_weights: np.ndarray) -> None:
        """Refuses a guide of which no proposal can be accepted, and warns of one of which few."""
        log_weights = np.where(np.isfinite(log_weights), log_weights, -np.inf).ravel()
        if np.all(log_weights == -np.inf):
            raise ValueError(
                f"Expected proposals that can be accepted; of {log_weights.size} none has a weight "
                "(zero acceptance). Train the guide, or give its sites the supports of the model's."
            )
        # Less than one acceptance in as many iterations as a pool has draws.
        rate = _acceptance_rate(log_weights)
        if self.alternate is None and rate < 1.0 / _POOL:
            warnings.warn(
                f"Expected a guide whose proposals are accepted; about {rate:.1g} of them will be "
                "and chains all but stand still. Train it longer or with more particles, or pass "
                "alternate=NUTS(model).",
                stacklevel=3,
            )

    def _step(self, extended: ExtendedDraws, state: IndependenceMetropolisState):
        rng_key, draw_key, accept_key, *other_keys = random.split(state.rng_key, 5)
        draw = extended.draw(draw_key)
        z, log_weight = draw.latents, draw.log_weight
        diverging = jnp.isnan(log_weight) | (log_weight == jnp.inf)
        log_ratio = log_weight - state.log_weight
        possible = ~(diverging | jnp.isnan(log_ratio))
        accept_prob = jnp.where(possible, jnp.exp(jnp.minimum(log_ratio, 0.0)), 0.0)
        accepted = random.uniform(accept_key, dtype=accept_prob.dtype) < accept_prob
        z, log_weight = jax.tree.map(
            partial(jnp.where, accepted), (z, log_weight), (state.z, state.log_weight)
        )
        i = state.i + 1
        num_averaged = jnp.where(state.i < self._num_warmup, i, i - self._num_warmup)
        change = (accept_prob - state.mean_accept_prob) / num_averaged
        state = state._replace(
            i=i,
            z=z,
            log_weight=log_weight,
            accept_prob=accept_prob,
            mean_accept_prob=state.mean_accept_prob + change,
            accepted=accepted,
            diverging=diverging,
            rng_key=rng_key,
        )
        return state if self.alternate is None else self._alternate(extended, state, *other_keys)

    def _alternate(self, extended, state, alternate_key, redraw_key):
        """A step of the alternate kernel at the state's z, and all draws of u anew."""
        _, args, kwargs = extended.programs.inputs
        before = state.alternate_state
        # Where the state has not moved it is not unconstrained again, for that rounds.
        moved = jax.tree.map(
            partial(jnp.where, state.accepted), self._unconstrained(extended, state.z), before.z
        )
        before = before._replace(z=moved, rng_key=alternate_key)
        after = self.alternate.sample(self.alternate.refresh(before, args, kwargs), args, kwargs)
        z = constrain_fn(self._seeded(), args, kwargs, after.z)
        return state._replace(
            z=z,
            log_weight=extended.redraw(redraw_key, z),
            diverging=state.diverging | after.diverging,
            alternate_state=after,
        )

    def _unconstrained(self, extended: ExtendedDraws, z: Sites) -> Sites:
        return unconstrain_fn(self._seeded(), extended.programs.args, extended.programs.kwargs, z)

    def _seeded(self) -> Callable:
        return seed(self._known(self.model), random.key(0))


def _acceptance_rate(log_weights: np.ndarray) -> float:
    r"""Expected rate at stationarity, :math:`\sum_{i \ne j} \min(w_i, w_j) / (n - 1) \sum_i w_i`.

    The state is one of the draws, by weight, and the proposal another.
    """
    weights = np.sort(np.exp(log_weights - log_weights.max()))
    count = weights.size
    smaller_of_pairs = 2.0 * (weights * np.arange(count - 1, -1, -1)).sum()
    return float(smaller_of_pairs / (max(count - 1, 1) * weights.sum()))


def _check_alternate(alternate: object, model: Callable) -> None:
    if alternate is None:
        return
    if not isinstance(alternate, HMC) or alternate.model is None:
        raise ValueError(
            f"Expected alternate to be an HMC or NUTS kernel of the model; got {alternate!r}. "
            "Pass alternate=NUTS(model)."
        )
    if alternate.model != model:
        raise ValueError(
            f"Expected alternate to be a kernel of the model itself; it is one of "
            f"{alternate.model!r}. Pass alternate=NUTS(model)."
        )
