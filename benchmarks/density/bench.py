"""Train and judge every model of the density benchmark; an interrupted run can be continued."""

from collections.abc import Callable, Hashable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax
from tqdm import tqdm

import jax
from jax import random

from numpyro.infer import SVI

from benchmarks.common.cli import add_finished
from benchmarks.common.epochs import (
    Checkpoint,
    CheckpointError,
    Training,
    clipped_adam,
    make_epoch,
    new_training,
    optimiser,
    train,
)
from benchmarks.common.results import InputError, start_or_resume
from benchmarks.common.workers import run_parallel
from benchmarks.density.judge import VALIDATION_DRAWS, Judge
from benchmarks.density.plans import Arm, Cell, Plan
from numpyro_sumo import averaged_adam

#: The average of the parameters covers about so many steps.
_AVERAGE_STEPS = 200

#: The learning rate of averaged_adam at the end, as a share of the first: as its default.
_LAST_RATE = 0.1

#: Separates the keys of observations from those that SVI makes from the same seed.
_DATA = 2**32 - 2


class Program(NamedTuple):
    """Compiled training: SVI, its ``init``, and one epoch; see :func:`.epochs.make_epoch`."""

    svi: SVI
    init: Callable
    run_epoch: Callable


class Bench:
    """Trains and judges the cells of some plans; all seeds share what is compiled.

    :param plans: by name.
    :param folder: for results, and for one checkpoint of each training, which is kept.
    """

    def __init__(self, plans: dict[str, Plan], num_seeds: int, folder: Path):
        self.plans, self.num_seeds, self.folder = plans, num_seeds, folder
        compiled: dict[Any, Any] = {}
        self.judges = {
            name: Judge(plan.task, plan.judged_draws, plan.judged_particles, compiled)
            for name, plan in plans.items()
        }
        self._programs: dict[Hashable, Program] = {}

    def cells(self) -> Iterator[Cell]:
        """All training runs, seed by seed, so that an interrupted benchmark compares all losses."""
        for seed in range(self.num_seeds):
            for name, plan in self.plans.items():
                for draws, arms in plan.arms.items():
                    for arm in arms:
                        yield Cell(name, draws, arm, seed)

    def start_or_resume(self, file: Path) -> dict[str, Any]:
        """The results in ``file``, or results without runs.

        :return: configuration, seconds in total, and the figures of each run by name.
        :raises InputError: if the file, or a checkpoint, is incomplete or of something else.
        """
        for cell in self.cells():
            self.average(cell)  # refuses a bad checkpoint before any work
        config = {"plans": {name: plan.config() for name, plan in self.plans.items()}}
        fresh = {"configuration": config, "seconds": 0.0, "runs": {}}
        return start_or_resume(file, fresh, "configuration")

    def run_missing(self, results: dict[str, Any], file: Path, num_workers: int) -> None:
        """Train and judge the cells that are missing in ``results``, and add them there.

        :param results: from :meth:`start_or_resume`.
        :param file: where the results are written, after each cell.
        :param num_workers: how many cells are trained in parallel.
        """
        cells = list(self.cells())
        missing = [cell for cell in cells if str(cell) not in results["runs"]]
        args = self.plans, self.num_seeds, self.folder
        finished = run_parallel(_make_runner, args, missing, self.kind, num_workers)
        bar = tqdm(total=len(cells), initial=len(cells) - len(missing), unit="run")

        def add(cell: Cell, run: dict[str, Any]) -> None:
            results["runs"][str(cell)] = {**run, "workers": num_workers}

        add_finished(file, results, finished, add, bar)

    def run(self, cell: Cell) -> dict[str, Any]:
        """Train and judge one cell."""
        arm, training = self._arm(cell), self.trained(cell)
        params = self._judged_params(cell, training)
        norms_by_part = np.moveaxis(training.gradient_norms, -1, 0)
        return {
            **cell._asdict(),
            **self.judges[cell.plan].figures(params, arm.config()["longest"]),
            "seconds": training.seconds,
            "validation": training.validation.tolist(),
            "gradient_norms": {
                part: {
                    "median": float(np.median(norms)),
                    "99.9 %": float(np.quantile(norms, 0.999)),
                    "clipped": float(np.mean(~(norms <= (arm.max_gradient_norm or np.inf)))),
                }
                for part, norms in zip(("model", "guide"), norms_by_part)
            },
        }

    def trained(self, cell: Cell) -> Training:
        """The finished training of a cell, continued from its checkpoint if there is one."""
        plan, judge, program = self.plans[cell.plan], self.judges[cell.plan], self._program(cell)
        return train(
            program.run_epoch,
            self._start(cell, program),
            plan.epochs,
            lambda epoch: self._args(cell, epoch),
            self._checkpoint(cell),
            validate=lambda training: judge.validation(self._judged_params(cell, training)),
        )

    def kind(self, cell: Cell) -> Hashable:
        """Equal for cells that share compiled programs and differ in data or seed only."""
        plan = self.plans[cell.plan]
        return plan.task.model.__name__, repr(plan.config()), cell.draws, cell.arm

    def average(self, cell: Cell) -> Any:
        """The averaged parameters of a finished training, or None.

        :raises InputError: if the checkpoint is incomplete or of something else.
        """
        checkpoint = self._checkpoint(cell)
        if not checkpoint.file.exists():
            return None
        try:
            params, num_epochs = checkpoint.load_average()
        except CheckpointError as error:
            raise InputError(str(error)) from None
        return params if num_epochs == self.plans[cell.plan].epochs else None

    def _arm(self, cell: Cell) -> Arm:
        return self.plans[cell.plan].arms[cell.draws][cell.arm]

    def _judged_params(self, cell: Cell, training: Training) -> Any:
        svi = self._program(cell).svi
        return training.average if self._arm(cell).averaged else svi.get_params(training.state)

    def _start(self, cell: Cell, program: Program) -> Training:
        """The training before its first epoch: the same for all losses."""
        state = program.init(random.key(cell.seed), *self._args(cell, 0))
        return new_training(program.svi, state, self.plans[cell.plan].batches)

    def _args(self, cell: Cell, epoch: int) -> tuple[np.ndarray]:
        task = self.plans[cell.plan].task
        key = random.fold_in(random.fold_in(random.key(cell.seed), _DATA), epoch)
        return (task.observations(key, task.data.train),)

    def _checkpoint(self, cell: Cell) -> Checkpoint:
        file = self.folder / "checkpoints" / f"{cell}.msgpack"
        return Checkpoint(file, self._description(cell))

    def _description(self, cell: Cell) -> str:
        """Everything that the result of a training depends on, in one line."""
        plan, arm = self.plans[cell.plan], self._arm(cell)
        network, data = (" and ".join(map(str, of)) for of in (plan.task.network, plan.sizes))
        return (
            f"{cell}: {arm.config()['loss']}, network of {network} units, {data} points, "
            f"validated by {VALIDATION_DRAWS} draws, {plan.epochs} epochs of {plan.batches} "
            f"batches of {plan.batch_size}, rate {plan.learning_rate}, guide x {arm.guide_rate}, "
            + (
                "averaged_adam, "
                if arm.max_gradient_norm is None
                else f"gradients up to {arm.max_gradient_norm}, "
            )
            + (f"averaged over {_AVERAGE_STEPS} steps" if arm.averaged else "last parameters")
        )

    def _program(self, cell: Cell) -> Program:
        """The compiled training of a cell, shared by all of its kind."""
        plan, arm, kind = self.plans[cell.plan], self._arm(cell), self.kind(cell)
        if kind not in self._programs:
            optim = optimiser(partial(_steps, plan, arm), {"encoder": arm.guide_rate})
            svi = SVI(plan.task.model, plan.task.guide, optim, arm.loss)
            init = jax.jit(partial(svi.init, batch_size=plan.batch_size))
            decay = 1.0 - 1.0 / _AVERAGE_STEPS
            run_epoch = make_epoch(svi, plan.batches, decay, batch_size=plan.batch_size)
            start = self._start(cell, Program(svi, init, run_epoch))
            # Compiled here, so that the time of the first training does not include it.
            lowered = run_epoch.lower(start.state, start.average, *self._args(cell, 0))
            self._programs[kind] = Program(svi, init, lowered.compile())
        return self._programs[kind]


def _steps(plan: Plan, arm: Arm, factor: float) -> optax.GradientTransformation:
    """The optimiser of a group of parameters, with this factor on its learning rate."""
    num_steps = plan.epochs * plan.batches
    if arm.max_gradient_norm is None:
        rate = optax.exponential_decay(factor * plan.learning_rate, num_steps, _LAST_RATE)
        return averaged_adam(num_steps, rate)
    cosine = optax.cosine_decay_schedule(plan.learning_rate, num_steps)
    return clipped_adam(cosine, arm.max_gradient_norm, factor)


def _make_runner(*args: Any) -> Callable[[Cell], dict[str, Any]]:
    """The function that trains and judges a cell in a worker process."""
    return Bench(*args).run
