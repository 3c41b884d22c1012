"""A training loop with a progress bar and snapshots of the parameters; Ctrl-C ends it early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import time
from typing import Any

import numpy as np
from tqdm import tqdm

import jax
from jax import lax
import jax.numpy as jnp

from numpyro.infer import SVI

from benchmarks.common.interrupts import raise_if_interrupted


@dataclass
class TrainingRun:
    """The result of a training run.

    :param params: constrained parameters at the end.
    :param snapshots: parameters by number of steps, the start and the end included.
    :param losses: mean loss of each block of ``block_size`` steps, in nats.
    :param loss_errors: standard errors of those means.
    :param seconds: training time without compilation, which is ``compile_seconds``.
    :param interrupted: whether Ctrl-C ended the run early.
    """

    params: dict[str, Any]
    snapshots: dict[int, dict[str, Any]]
    block_size: int
    losses: list[float] = field(default_factory=list)
    loss_errors: list[float] = field(default_factory=list)
    steps: int = 0
    seconds: float = 0.0
    compile_seconds: float = 0.0
    interrupted: bool = False

    def add_block(self, losses: np.ndarray, seconds: float) -> None:
        """Record the losses of one more block."""
        losses = np.asarray(losses, np.float64)
        self.steps += self.block_size
        self.seconds += seconds
        self.losses.append(float(losses.mean()))
        self.loss_errors.append(float(losses.std() / np.sqrt(self.block_size)))


def train(
    svi: SVI,
    rng_key: jax.Array,
    num_steps: int,
    *args: Any,
    name: str,
    snapshot_steps: Sequence[int],
    num_blocks: int = 100,
    schedule: Callable[[jax.Array | int], dict[str, Any]] = lambda step: {},
) -> TrainingRun:
    """Train for ``num_steps``; Ctrl-C ends the run early and keeps the finished steps.

    The steps run in blocks, compiled once before the first.

    :raises KeyboardInterrupt: if there are no finished steps.

    :param name: shown by the progress bar.
    :param snapshot_steps: steps after which to keep the parameters; rounded up to whole blocks.
    :param num_blocks: the approximate number of blocks; their size divides ``num_steps``.
    :param schedule: maps the step to keyword arguments of model and guide.
    """
    largest = max(1, num_steps // num_blocks)
    block_size = next(size for size in range(largest, 0, -1) if num_steps % size == 0)

    state = svi.init(rng_key, *args, **schedule(0))
    run = TrainingRun(svi.get_params(state), {0: svi.get_params(state)}, block_size)
    snapshots_due = sorted(step for step in snapshot_steps if step > 0)

    @jax.jit
    def train_block(state, begin):
        steps = begin + jnp.arange(block_size)
        return lax.scan(
            lambda state, step: svi.update(state, *args, **schedule(step)), state, steps
        )

    started = time.perf_counter()
    compiled = train_block.lower(state, 0).compile()
    raise_if_interrupted()
    run.compile_seconds = time.perf_counter() - started
    with tqdm(total=num_steps, desc=name, unit="step", mininterval=1.0) as bar:
        try:
            while run.steps < num_steps:
                started = time.perf_counter()
                state, losses = jax.block_until_ready(compiled(state, run.steps))
                run.add_block(losses, time.perf_counter() - started)
                progress = f"loss {run.losses[-1]:.4f} ± {run.loss_errors[-1]:.4f}"
                bar.set_postfix_str(progress, refresh=False)
                bar.update(block_size)
                raise_if_interrupted()
                if snapshots_due and run.steps >= snapshots_due[0]:
                    snapshots_due = [step for step in snapshots_due if step > run.steps]
                    run.snapshots[run.steps] = svi.get_params(state)
        except KeyboardInterrupt:
            if run.steps == 0:
                raise
            run.interrupted = True
    run.params = svi.get_params(state)
    run.snapshots[run.steps] = run.params
    return run
