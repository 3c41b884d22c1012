"""An exact Markov chain that proposes from a trained guide of any kind."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

import jax
from jax import random
import jax.numpy as jnp

from numpyro.handlers import seed
from numpyro.infer import HMC
from numpyro.infer.mcmc import MCMCKernel
from numpyro.infer.util import constrain_fn, unconstrain_fn

from numpyro_sumo._compat import collectable_key, new_style_key
from numpyro_sumo.checks import check_positive_integer, check_share
from numpyro_sumo.guides.defensive_reverse import DEFENSIVE_SHARE
from numpyro_sumo.guides.hierarchical import Sites
from numpyro_sumo.guides.proposal import Proposal
from numpyro_sumo.guides.proposals import check_guide, proposal_of
from numpyro_sumo.programs.programs import Programs, with_params
from numpyro_sumo.programs.sites import Params, Program
from numpyro_sumo.programs.validation import refuse_subsamples

from .proposals import POOL, check_alternate, check_proposals

#: Proposals for an initial state that are evaluated at a time.
_BATCH = 64

Args = tuple[Any, ...]
Kwargs = dict[str, Any] | None


class IndependenceMetropolisState(NamedTuple):
    """State of a chain; every field can be collected by ``extra_fields`` of ``MCMC.run``.

    :param i: iteration number, warm-up included.
    :param z: constrained values of the model's latent sites.
    :param log_weight: log p(z) − log q̂(z) in nats, with the draws of u that z was proposed with.
    :param accept_prob: acceptance probability of the guide's last proposal.
    :param mean_accept_prob: mean of ``accept_prob``, from the start during warm-up, then anew.
    :param accepted: whether the last proposal was accepted.
    :param diverging: whether the last proposal was rejected because its log-weight is NaN or +∞, or
        the alternate kernel's step diverged.
    :param alternate_state: state of the alternate kernel; None without one.
    :param rng_key: the key of the next iteration, in the old style (``random.PRNGKey``).
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
    r"""Metropolis–Hastings with independent proposals from any guide.

    .. math::
        x' \sim q, \qquad
        P(\text{accept}) = \min\Big(1, \frac{p(x')\, \hat q(x)}{\hat q(x')\, p(x)}\Big)

    q̂ is the guide's density where that is known. For a hierarchical guide it estimates q from draws
    of u, which are part of the state, so the invariant distribution is p for any guide and reverse
    model (:class:`~numpyro_sumo.guides.extended_draws.ExtendedDraws`). A poor guide lowers the
    acceptance rate. A chain starts at one of 256 draws of the guide, chosen
    by weight, and needs no warm-up if weights vary little. It never visits a mode that the guide
    never proposes. Check the draws by ArviZ, as those of NUTS.

    With ``alternate``, every iteration also takes a step of that kernel, which can reach such modes
    and is adapted in warm-up. The guide's density is then needed where the kernel goes; the n + 1
    draws of u of a hierarchical guide are redrawn from r̄(u | x), which leaves p(x) Π r̄(uⱼ | x)
    exactly invariant.

    :param model: the target, a NumPyro model.
    :param guide: the guide, trained.
    :param params: values of the param sites of both.
    :param num_particles: n, fresh draws of u for each proposal of a hierarchical guide, an integer
        ≥ 1.
    :param defensive_share: as in :func:`~numpyro_sumo.certify`.
    :param alternate: an :class:`~numpyro.infer.HMC` or :class:`~numpyro.infer.NUTS` kernel of the
        same model, whose param sites get the values in ``params``.
    :raises ValueError: at construction for options outside these ranges; when chains start, if
        model and guide do not match, for a guide without a density (AutoDelta, AutoDAIS; with
        ``alternate`` also AutoBNAFNormal), for params of another guide, if the model is
        subsampled, for ``init_params``, and if no proposal has a weight above zero.
    :warns UserWarning: when chains start, if without ``alternate`` almost no proposal would be
        accepted.

    **Reference:** Andrieu and Roberts 2009, *The pseudo-marginal approach for efficient Monte Carlo
    computations*, section 2, for estimates kept in the state.

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
        model: Program,
        guide: Program,
        params: Params,
        *,
        num_particles: int = 16,
        defensive_share: float = DEFENSIVE_SHARE,
        alternate: HMC | None = None,
    ):
        check_positive_integer("num_particles", num_particles)
        check_share("defensive_share", defensive_share)
        check_guide(guide)
        check_alternate(alternate, model)
        self.model = model
        self.guide = guide
        self.params = params
        self.num_particles = num_particles
        self.defensive_share = defensive_share
        # HMC would take param sites for latent sites.
        fixed = partial(with_params, params=params)
        self.alternate = None if alternate is None else alternate.wrap_model(fixed)
        self._num_warmup = 0
        self._inputs: Args = ()
        self._first_proposal: Proposal | None = None
        self._start_fn: Callable[..., Any] | None = None
        self._sample_fn: Callable[..., Any] | None = None  # MCMC calls ``init`` if this is None

    def init(
        self,
        rng_key: jax.Array,
        num_warmup: int,
        init_params: Any = None,
        model_args: Args = (),
        model_kwargs: Kwargs = None,
    ) -> IndependenceMetropolisState:
        """The initial state of a chain, or a batch of them for a batch of keys."""
        if init_params is not None:
            raise ValueError(
                "Expected no init_params, since chains start at proposals of the guide; got "
                f"{init_params!r}. Leave them out."
            )
        inputs = num_warmup, model_args, model_kwargs
        # Compiled once for all chains that start with the very same arguments.
        if self._start_fn is None or any(new is not old for new, old in zip(inputs, self._inputs)):
            proposal = self._proposal(model_args, model_kwargs)
            refuse_subsamples(proposal.check().model.trace)
            if self.alternate is not None:
                proposal.check_points()
            self._num_warmup, self._inputs = num_warmup, inputs
            self._start_fn = jax.jit(jax.vmap(partial(self._start, proposal)))
        is_one = random.key_data(rng_key).ndim == 1
        rng_key = collectable_key(rng_key)
        states, log_weights = self._start_fn(rng_key[None] if is_one else rng_key)
        if not isinstance(log_weights, jax.core.Tracer):
            check_proposals(np.asarray(log_weights, np.float64), self.alternate)
        self._sample_fn = self.sample
        return jax.tree.map(lambda leaf: leaf[0], states) if is_one else states

    def sample(
        self, state: IndependenceMetropolisState, model_args: Args, model_kwargs: Kwargs
    ) -> IndependenceMetropolisState:
        """The next state of a chain, or of a batch of chains."""
        step = partial(self._step, self._proposal(model_args, model_kwargs))
        return step(state) if jnp.ndim(state.i) == 0 else jax.vmap(step)(state)

    def postprocess_fn(self, model_args: Args, model_kwargs: Kwargs) -> Callable[[Sites], Sites]:
        """A function that adds the model's deterministic sites to the latent sites."""
        return self._proposal(model_args, model_kwargs).programs.with_deterministic

    def get_diagnostics_str(self, state: IndependenceMetropolisState) -> str:
        """The acceptance rate, for the progress bar."""
        rate = f"acc. prob={state.mean_accept_prob:.2f}"
        if self.alternate is None:
            return rate
        return f"{rate} | {self.alternate.get_diagnostics_str(state.alternate_state)}"

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions cannot be pickled; they are made again when chains start.
        made_again = {"_start_fn": None, "_sample_fn": None, "_first_proposal": None}
        return self.__dict__ | {"_inputs": ()} | made_again

    def _proposal(self, args: Args, kwargs: Kwargs) -> Proposal:
        # Made once, outside ``jit``: a Laplace approximation computes its Hessian there.
        if self._first_proposal is None:
            programs = Programs(self.model, self.guide, self.params, args, kwargs or {})
            options = self.num_particles, self.defensive_share
            self._first_proposal = proposal_of(programs, *options)
        programs = self._first_proposal.programs.replace(args=args, kwargs=kwargs or {})
        return replace(self._first_proposal, programs=programs)

    def _start(
        self, proposal: Proposal, rng_key: jax.Array
    ) -> tuple[IndependenceMetropolisState, jax.Array]:
        """A state at one of 256 proposals, chosen by weight, and the log-weights of all."""
        pool_key, start_key, chain_key, alternate_key = random.split(rng_key, 4)
        pool = proposal.draws(new_style_key(pool_key), POOL, _BATCH)
        possible = jnp.where(jnp.isfinite(pool.log_weight), pool.log_weight, -jnp.inf)
        at = random.categorical(start_key, possible)
        z, log_weight = jax.tree.map(lambda leaf: leaf[at], (pool.latents, possible))
        alternate_state = None
        if self.alternate is not None:
            _, args, kwargs = proposal.programs.inputs
            position = _map_latents(unconstrain_fn, self.alternate, proposal, z)
            alternate_state = self.alternate.init(
                alternate_key, self._num_warmup, position, args, kwargs
            )
        zero, false = jnp.zeros_like(log_weight), jnp.array(False)
        state = IndependenceMetropolisState(
            jnp.array(0), z, log_weight, zero, zero, false, false, alternate_state, chain_key
        )
        return state, pool.log_weight

    def _step(
        self, proposal: Proposal, state: IndependenceMetropolisState
    ) -> IndependenceMetropolisState:
        """One proposal of the guide, and one step of the alternate kernel, if any."""
        rng_key, draw_key, accept_key, *other_keys = random.split(state.rng_key, 5)
        draw = proposal.draw(new_style_key(draw_key))
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
        if self.alternate is None:
            return state
        return self._alternate_step(self.alternate, proposal, state, *other_keys)

    def _alternate_step(
        self,
        alternate: HMC,
        proposal: Proposal,
        state: IndependenceMetropolisState,
        alternate_key: jax.Array,
        redraw_key: jax.Array,
    ) -> IndependenceMetropolisState:
        """A step of the alternate kernel from the state's z, with all draws of u redrawn."""
        _, args, kwargs = proposal.programs.inputs
        before = state.alternate_state
        position = _map_latents(unconstrain_fn, alternate, proposal, state.z)
        # A rejected proposal leaves z as it was: unconstraining it again would round it.
        moved = jax.tree.map(partial(jnp.where, state.accepted), position, before.z)
        before = before._replace(z=moved, rng_key=alternate_key)
        after = alternate.sample(alternate.refresh(before, args, kwargs), args, kwargs)
        z = _map_latents(constrain_fn, alternate, proposal, after.z)
        return state._replace(
            z=z,
            log_weight=proposal.redraw(new_style_key(redraw_key), z),
            diverging=state.diverging | after.diverging,
            alternate_state=after,
        )


def _map_latents(
    between_spaces: Callable[..., Sites], kernel: HMC, proposal: Proposal, z: Sites
) -> Sites:
    """NumPyro's ``constrain_fn`` or ``unconstrain_fn``, of latents of the kernel's model."""
    _, args, kwargs = proposal.programs.inputs
    return between_spaces(seed(kernel.model, random.key(0)), args, kwargs, z)
