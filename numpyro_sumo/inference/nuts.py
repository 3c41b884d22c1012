"""Chains of NUTS in the whitened coordinates of a placement."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.handlers import seed
from numpyro.infer import NUTS
from numpyro.infer.util import potential_energy

from numpyro_sumo._compat import collectable_key, jit_once
from numpyro_sumo.guides.auto_hierarchical import AutoHierarchicalNormal
from numpyro_sumo.guides.placement import Placement
from numpyro_sumo.programs.programs import Programs

from .clock import Clock

#: Iterations that are compiled together.
BLOCK = 20

#: The acceptance probability that step sizes are adapted to: higher than NumPyro's default, since
#: trajectories are short in whitened coordinates.
_TARGET = 0.9

#: The name of these chains, if nothing else moves them.
NUTS_ALONE = "NUTS"

#: Iterations of warm-up.
WARMUP = 300

#: Chains start at other modes than the best one if their log-evidence is so close to its.
_NEAR = 20.0


class NutsDraws(NamedTuple):
    """Draws of all chains after warm-up.

    :param latents: constrained values by site, shape ``(chain, draw, ...)``.
    :param diverging: shape ``(chain, draw)``.
    :param spread: the largest sd of a coordinate of y, which is about 1 where the placement is
        right.
    """

    latents: dict[str, np.ndarray]
    diverging: np.ndarray
    spread: float


class NutsChains:
    """NUTS on y of z = c + L y, where the posterior is about a standard Normal.

    One chain starts at each mode that may matter, the others near the best one.
    """

    def __init__(
        self, rng_key: jax.Array, programs: Programs, placement: Placement, num_chains: int
    ):
        guide: AutoHierarchicalNormal = programs.guide  # type: ignore[assignment]
        model_key, self._chain_key = random.split(rng_key)
        whitening = placement.whitening
        model = seed(programs.model, model_key)

        def potential(y: jax.Array) -> jax.Array:
            z = guide.unpack(whitening.color(y))
            return jnp.asarray(potential_energy(model, programs.args, programs.kwargs, z))

        self._potential = potential
        self._starts = _starts(placement, num_chains)
        self._state = jit_once(lambda: self._start()[1])()
        self._run_block = jit_once(self._block).lower(self._state).compile()
        self._to_latents = jit_once(
            lambda y: lax.map(lambda y: guide.constrained(whitening.color(y)), y, batch_size=256)
        )
        self._blocks: list[tuple[np.ndarray, np.ndarray]] = []
        self._warmup_left = WARMUP
        self.kernel = NUTS_ALONE

    def _start(self) -> tuple[NUTS, Any]:
        """A kernel and its first state. Of no use outside of the ``jit`` where it is called."""
        kernel = NUTS(potential_fn=self._potential, target_accept_prob=_TARGET)
        near_key, *chain_keys = random.split(self._chain_key, 1 + len(self._starts))
        near = random.normal(near_key, self._starts.shape, self._starts.dtype)
        starts = jnp.where(jnp.isnan(self._starts), near, self._starts)
        keys = jnp.stack([collectable_key(key) for key in chain_keys])
        return kernel, kernel.init(keys, WARMUP, starts, (), {})

    def _block(self, state: Any) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        kernel, _ = self._start()  # its schedule of warm-up belongs to this trace
        # Someone may have moved the chains.
        energy, gradient = jax.vmap(jax.value_and_grad(self._potential))(state.z)
        state = state._replace(potential_energy=energy, z_grad=gradient)

        def step(state: Any, _: None) -> tuple[Any, tuple[jax.Array, jax.Array]]:
            state = kernel.sample(state, (), {})
            return state, (state.z, state.diverging)

        return lax.scan(step, state, length=BLOCK)

    def run(
        self,
        num_draws: int,
        clock: Clock,
        name: str,
        *,
        deadline: float = 0.0,
        move: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        """Warm up if that was not done, and add draws to each chain.

        :param name: of the phase.
        :param deadline: seconds that must be left on the clock.
        :param move: another kernel with the same invariant distribution, for states y of all chains
            after each block.
        """
        total = self._warmup_left + num_draws
        with clock.phase(name, total, "draw") as bar:
            done = 0
            while done < total and clock.left > deadline:
                self._state, (y, diverging) = self._run_block(self._state)
                done += BLOCK
                bar.update(BLOCK)
                if self._warmup_left > 0:
                    self._warmup_left -= BLOCK
                    continue
                self._blocks.append((np.asarray(y), np.asarray(diverging)))
                if move is not None:
                    moved = move(np.asarray(self._state.z))
                    self._state = self._state._replace(z=jnp.asarray(moved))

    def continue_as(self, kernel: str) -> None:
        """Goes on from where the chains are; draws of another kernel are dropped.

        :param kernel: a name for NUTS with the moves that :meth:`run` is given from now on.
        """
        if kernel != self.kernel:
            self.kernel, self._blocks = kernel, []

    @property
    def draws(self) -> NutsDraws | None:
        """All draws of the present kernel; None before there are any."""
        if not self._blocks:
            return None
        y, diverging = (np.concatenate(parts).swapaxes(0, 1) for parts in zip(*self._blocks))
        latents = self._to_latents(y.reshape(-1, y.shape[-1]))
        in_chains = lambda leaf: np.asarray(leaf).reshape(*y.shape[:2], *leaf.shape[1:])
        spread = float(y.reshape(-1, y.shape[-1]).std(axis=0).max())
        return NutsDraws({n: in_chains(leaf) for n, leaf in latents.items()}, diverging, spread)


def _starts(placement: Placement, num_chains: int) -> np.ndarray:
    """Initial y of chains at other modes, shape ``(num_chains, d)``; NaN for those near the best.

    Other modes come first in the order of their ELBO, but one chain is always near the best.
    """
    dtype = placement.whitening.loc.dtype
    starts = np.full((num_chains, placement.dim), np.nan, dtype)
    best = max(mode.log_evidence for mode in placement.modes)
    others = [mode for mode in placement.modes[1:] if mode.log_evidence > best - _NEAR]
    for i, mode in enumerate(others[: num_chains - 1], 1):
        starts[i] = placement.whitening.whiten(jnp.asarray(mode.normal.loc))
    return starts
