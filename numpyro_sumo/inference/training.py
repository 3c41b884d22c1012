"""Training of a hierarchical guide in rounds, each from a full learning rate down to zero."""

from typing import Any, NamedTuple

import numpy as np
import optax

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.handlers import block, seed, substitute, trace

from numpyro_sumo._compat import jit_once
from numpyro_sumo.background import CompiledSoon
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.losses import ReverseKL
from numpyro_sumo.programs.programs import Programs
from numpyro_sumo.programs.sites import Params, values_of_type

from .clock import Clock

#: Steps that are compiled together.
BLOCK = 50

#: Gradients are scaled down to this norm, which in whitened coordinates is rarely reached.
_LARGEST_NORM = 100.0

#: A median loss of a block, so many nats above the lowest one, means that training diverges.
_LARGEST_RISE = 100.0

#: Times that a round goes back with half the learning rate before it gives up.
_MOST_RETREATS = 6


class _State(NamedTuple):
    """Trained params by name and the optimiser's state."""

    params: Params
    optimiser: Any


class Round(NamedTuple):
    """A round of training.

    :param params: after the last block.
    :param steps: that were taken.
    :param retreats: how often the loss was NaN or rose, after which training went back to the last
        sound block with half the learning rate.
    """

    params: Params
    steps: int
    retreats: int


class Trainer:
    """Adam on the reverse KL of a guide; the location and scale that it starts at stay fixed.

    The steps are compiled in the background from construction on.

    :param programs: model and guide; params are the initial ones.
    :param fixed: name of the param site that is not trained.
    """

    def __init__(self, programs: Programs, fixed: str):
        self._programs = programs
        self._fixed = fixed
        self._optimiser = optax.chain(
            optax.clip_by_global_norm(_LARGEST_NORM), optax.scale_by_adam(b2=0.99)
        )
        self._loss = ReverseKL()
        state, constant = self._state(programs.params)
        numbers = (jnp.float32(0.0),) * 3
        self._run_block = CompiledSoon(self._block, state, constant, random.key(0), numbers)

    def postpone(self) -> None:
        """Leaves compilation for the first round, unless it has begun."""
        self._run_block.postpone()

    def _state(self, params: Params) -> tuple[_State, Params]:
        """What is trained, before the first step; and what is not."""
        trained = {name: value for name, value in params.items() if name != self._fixed}
        return _State(trained, self._optimiser.init(trained)), {self._fixed: params[self._fixed]}

    def _block(
        self,
        state: _State,
        constant: Params,
        rng_key: jax.Array,
        numbers: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[_State, jax.Array]:
        """Some steps of a round, and their losses.

        :param numbers: the number of the first one, of all in the round, and the learning rate.
        """
        programs = self._programs
        first, total, rate = numbers

        def loss(params: Params, rng_key: jax.Array) -> jax.Array:
            inputs = programs.model, programs.guide, *programs.args
            value = self._loss.loss(rng_key, {**constant, **params}, *inputs, **programs.kwargs)
            return jnp.asarray(value)

        def step(state: _State, inputs: tuple[jax.Array, jax.Array]) -> tuple[_State, jax.Array]:
            number, rng_key = inputs
            value, gradient = jax.value_and_grad(loss)(state.params, rng_key)
            updates, optimiser = self._optimiser.update(gradient, state.optimiser)
            cosine = 0.5 * rate * (1.0 + jnp.cos(jnp.pi * jnp.minimum(number / total, 1.0)))
            params = jax.tree.map(lambda p, u: p - cosine * u, state.params, updates)
            # One step without a finite gradient is not taken.
            sound = jnp.isfinite(value) & jnp.isfinite(optax.tree.norm(gradient))
            new = _State(params, optimiser)
            return jax.tree.map(lambda n, old: jnp.where(sound, n, old), new, state), value

        places = first + jnp.arange(BLOCK, dtype=jnp.float32)
        return lax.scan(step, state, (places, random.split(rng_key, BLOCK)))

    def run(
        self,
        rng_key: jax.Array,
        params: Params,
        plan: tuple[int, float],
        clock: Clock,
        deadline: float,
    ) -> Round:
        """A round of training from these params.

        :param plan: the number of steps, and the first learning rate.
        :param deadline: seconds that must be left on the clock: the round gets fewer steps, so that
            its learning rate comes to zero in time.
        """
        num_steps, rate = plan
        state, constant = self._state(params)
        steps, retreats, lowest, started = 0, 0, np.inf, 0.0
        with clock.phase("training", num_steps, "step") as bar:
            while steps < num_steps and retreats <= _MOST_RETREATS:
                rng_key, block_key = random.split(rng_key)
                numbers = jnp.float32(steps), jnp.float32(num_steps), jnp.float32(rate)
                new, losses = self._run_block(state, constant, block_key, numbers)
                # NaN if any loss is; the median of draws with heavy tails tells more than the mean.
                median = float(np.median(losses))
                if not median < lowest + _LARGEST_RISE:
                    rate, retreats = rate / 2.0, retreats + 1
                    continue
                state, lowest, steps = new, min(lowest, median), steps + BLOCK
                bar.update(BLOCK)
                bar.set_postfix_str(f"loss {median:.3f} nats", refresh=False)
                if steps == BLOCK:  # which may have waited for the compiler
                    started = clock.left
                    continue
                pace = (started - clock.left) / (steps - BLOCK)
                affordable = steps + BLOCK * int(max(clock.left - deadline, 0.0) / pace / BLOCK)
                num_steps = bar.total = min(plan[0], affordable)
        return Round({**params, **state.params}, steps, retreats)


def initial_params(rng_key: jax.Array, guide: AutoHierarchicalNormal, programs: Programs) -> Params:
    """The params of a guide before training, with standard coordinates."""
    placed = substitute(seed(guide, rng_key), data=guide.standard_whitening())

    def initialise() -> Params:
        with block():
            sites = trace(placed).get_trace(*programs.args, **programs.kwargs)
        return values_of_type(sites, "param")

    return jit_once(initialise)()
