"""The trainings of the density benchmark, and what becomes of them."""

from collections.abc import Callable, Hashable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import optax
from tqdm import tqdm

import jax
from jax import random

from numpyro.infer import ELBO, SVI, Trace_ELBO

from benchmarks.common.epochs import Training, begun, epoch_of, loaded_average, optimiser, train
from benchmarks.common.results import resumed, write_json, written_whole
from benchmarks.common.workers import side_by_side
from benchmarks.density.judge import VALIDATION_DRAWS, Judge
from benchmarks.density.models import Task
from numpyro_sumo import MultilevelSUMO

#: The average of the parameters forgets in so many steps.
_AVERAGE_STEPS = 200

#: Sets the keys of observations apart from those that SVI makes of the same seed.
_DATA = 2**32 - 2


class Arm(NamedTuple):
    """A way to train.

    :param title: in words.
    :param max_gradient_norm: gradients are clipped to it.
    :param guide_rate: the guide's learning rate beside the model's.
    :param averaged: whether the parameters that are judged are an average over the last steps.
    """

    title: str
    loss: ELBO
    max_gradient_norm: float = 30.0
    guide_rate: float = 1.0
    averaged: bool = True

    def told(self) -> dict[str, Any]:
        """In plain values, among them expected draws, and those of a baseline.

        The estimate is unbiased for the bound over ``longest`` draws.
        """
        told, loss = self._asdict(), self.loss
        if isinstance(loss, Trace_ELBO):
            count = loss.num_particles
            here = {"loss": f"Trace_ELBO({count})", "draws": float(count), "longest": 1}
            return told | here | {"baseline_draws": 0}
        tail = 0 if loss.stopping_time is None else loss.stopping_time.cap
        multilevel = isinstance(loss, MultilevelSUMO)
        return told | {
            "loss": repr(loss),
            "draws": loss.mean_draws,
            "longest": loss.num_particles * 2**tail if multilevel else loss.num_particles + tail,
            "baseline_draws": round(loss.draws_per_step - loss.mean_draws),
        }


class Plan(NamedTuple):
    """How one task is trained and judged.

    :param arms: by expected draws of each datum, those of a baseline apart, and by name.
    :param epochs: of ``batches`` steps each.
    :param judged_draws: of each test point, for the bound that they are judged by.
    :param judged_particles: of MultilevelSUMO, for the unbiased estimate of each test point.
    """

    task: Task
    arms: dict[int, dict[str, Arm]]
    epochs: int
    batch_size: int
    learning_rate: float
    judged_draws: int
    judged_particles: int

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.task.data.train) // self.batch_size)

    @property
    def sizes(self) -> list[int]:
        """Points to train on, to validate with, and to test with."""
        return [len(part) for part in self.task.data]

    def told(self) -> dict[str, Any]:
        """In plain values."""
        values = {
            key: value for key, value in self._asdict().items() if key not in ("task", "arms")
        }
        values["network"] = self.task.network
        values["sizes"] = self.sizes
        arms = {
            str(draws): {name: arm.told() for name, arm in by_name.items()}
            for draws, by_name in self.arms.items()
        }
        return values | {"arms": arms}


class Cell(NamedTuple):
    """One training among all: which plan, how many draws, which arm, which seed."""

    plan: str
    draws: int
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.plan}-{self.draws}-{self.arm}-{self.seed}"


class Program(NamedTuple):
    """What trains cells of a kind: SVI, its ``init``, and an epoch of it; see :func:`epoch_of`."""

    svi: SVI
    init: Callable
    run_epoch: Callable


class Bench:
    """Trains and judges the cells of some plans; what is compiled once serves all seeds.

    :param plans: by name.
    :param folder: where results are, and checkpoints, one for each training: they stay.
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
        """All trainings, seed by seed, so that what is there after a while can be compared."""
        for seed in range(self.num_seeds):
            for name, plan in self.plans.items():
                for draws, arms in plan.arms.items():
                    for arm in arms:
                        yield Cell(name, draws, arm, seed)

    def run_all(self, file: Path, num_workers: int) -> dict[str, Any]:
        """Trains and judges all cells that ``file`` does not have yet, and keeps it up to date.

        Ctrl-C ends it early.

        :param num_workers: how many are trained side by side.
        :return: configuration, seconds in all, and by name what came of each run.
        :raises ValueError: in one line, for a checkpoint that is of something else or not whole.
        """
        told = {name: plan.told() for name, plan in self.plans.items()}
        cells = list(self.cells())
        for cell in cells:
            self.average(cell)  # refuses a bad checkpoint before any work
        fresh = {"configuration": {"plans": told}, "seconds": 0.0, "runs": {}}
        results = resumed(file, fresh, "configuration")
        spent, started = results["seconds"], time.perf_counter()
        missing = [cell for cell in cells if str(cell) not in results["runs"]]
        made_of = self.plans, self.num_seeds, self.folder
        ended = side_by_side(_runner, made_of, missing, self.kind, num_workers)

        def keep():
            with written_whole(self.folder) as folder:
                write_json(folder / file.name, results)

        try:
            with (
                closing(ended),
                tqdm(total=len(cells), initial=len(cells) - len(missing), unit="run") as bar,
            ):
                for cell, run in ended:
                    results["runs"][str(cell)] = {**run, "workers": num_workers}
                    results["seconds"] = spent + time.perf_counter() - started
                    keep()
                    bar.set_postfix_str(f"{cell}: {run['nll']:.3f}")
                    bar.update()
        except KeyboardInterrupt:
            keep()
            print("Interrupted; the report is on what is there.", file=sys.stderr)
        return results

    def run(self, cell: Cell) -> dict[str, Any]:
        """Trains and judges one."""
        arm, training = self._arm(cell), self.trained(cell)
        params = self._judged_params(cell, training)
        return {
            **cell._asdict(),
            **self.judges[cell.plan].verdict(params, arm.told()["longest"]),
            "seconds": training.seconds,
            "validation": training.validation.tolist(),
            "gradient_norms": {
                name: {
                    "median": float(np.median(norms)),
                    "99.9 %": float(np.quantile(norms, 0.999)),
                    "clipped": float(np.mean(~(norms <= arm.max_gradient_norm))),
                }
                for name, norms in zip(
                    ("model", "guide"), np.moveaxis(training.gradient_norms, -1, 0)
                )
            },
        }

    def trained(self, cell: Cell) -> Training:
        """The training of a cell, from its checkpoint as far as that goes."""
        plan, judge, program = self.plans[cell.plan], self.judges[cell.plan], self._program(cell)
        return train(
            program.run_epoch,
            self._start(cell, program),
            plan.epochs,
            lambda epoch: self._args(cell, epoch),
            checkpoint=self._checkpoint(cell),
            configuration=self._told(cell),
            validate=lambda training: judge.validation(self._judged_params(cell, training)),
        )

    def kind(self, cell: Cell) -> Hashable:
        """The same for cells that share their compiled programs: their data alone may differ."""
        plan = self.plans[cell.plan]
        return plan.task.model.__name__, repr(plan.told()), cell.draws, cell.arm

    def average(self, cell: Cell) -> Any:
        """The averaged parameters, or None where no finished training is to be found."""
        if not self._checkpoint(cell).exists():
            return None
        params, num_epochs = loaded_average(self._checkpoint(cell), self._told(cell))
        return params if num_epochs == self.plans[cell.plan].epochs else None

    def _arm(self, cell: Cell) -> Arm:
        return self.plans[cell.plan].arms[cell.draws][cell.arm]

    def _judged_params(self, cell: Cell, training: Training) -> Any:
        svi = self._program(cell).svi
        return training.average if self._arm(cell).averaged else svi.get_params(training.state)

    def _start(self, cell: Cell, program: Program) -> Training:
        """The same for all losses."""
        state = program.init(random.key(cell.seed), *self._args(cell, 0))
        return begun(program.svi, state, self.plans[cell.plan].batches)

    def _args(self, cell: Cell, epoch: int) -> tuple[np.ndarray]:
        task = self.plans[cell.plan].task
        key = random.fold_in(random.fold_in(random.key(cell.seed), _DATA), epoch)
        return (task.observations(key, task.data.train),)

    def _checkpoint(self, cell: Cell) -> Path:
        return self.folder / "checkpoints" / f"{cell}.msgpack"

    def _told(self, cell: Cell) -> str:
        """In a line, all that the outcome of a training depends on."""
        plan, arm = self.plans[cell.plan], self._arm(cell)
        network, data = (" and ".join(map(str, of)) for of in (plan.task.network, plan.sizes))
        return (
            f"{cell}: {arm.told()['loss']}, network of {network} units, {data} points, "
            f"validated by {VALIDATION_DRAWS} draws, {plan.epochs} epochs of {plan.batches} "
            f"batches of {plan.batch_size}, rate {plan.learning_rate}, guide x {arm.guide_rate}, "
            f"gradients up to {arm.max_gradient_norm}, "
            + (f"averaged over {_AVERAGE_STEPS} steps" if arm.averaged else "last parameters")
        )

    def _program(self, cell: Cell) -> Program:
        """What trains a cell, made once for all of its kind."""
        plan, arm, kind = self.plans[cell.plan], self._arm(cell), self.kind(cell)
        if kind not in self._programs:
            rate = optax.cosine_decay_schedule(plan.learning_rate, plan.epochs * plan.batches)
            optim = optimiser(rate, arm.max_gradient_norm, {"encoder": arm.guide_rate})
            svi = SVI(plan.task.model, plan.task.guide, optim, arm.loss)
            init = jax.jit(partial(svi.init, batch_size=plan.batch_size))
            decay = 1.0 - 1.0 / _AVERAGE_STEPS
            run_epoch = epoch_of(svi, plan.batches, decay, batch_size=plan.batch_size)
            start = self._start(cell, Program(svi, init, run_epoch))
            # Compiled here, apart from the clock of the first training.
            lowered = run_epoch.lower(start.state, start.average, *self._args(cell, 0))
            self._programs[kind] = Program(svi, init, lowered.compile())
        return self._programs[kind]


def run_bench(
    name: str,
    bench: Bench,
    file: Path,
    num_workers: int,
    write: Callable[[Path, dict[str, Any]], None],
) -> int:
    """Runs a bench for the command line, and has its report written; returns the exit status.

    :param name: of the benchmark.
    :param file: where results are.
    :param write: writes the report of results into a folder.
    """
    try:
        results = bench.run_all(file, num_workers)
        with written_whole(file.parent) as folder:
            write(folder, results)
    except ValueError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    print(f"Wrote {file.parent / 'report.md'} after {results['seconds']:.0f} s in all.")
    return 0


def _runner(*args: Any) -> Callable[[Cell], dict[str, Any]]:
    """What trains and judges a cell, with a bench of its own."""
    return Bench(*args).run
