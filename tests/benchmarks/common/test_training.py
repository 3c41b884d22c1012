import gc
import os
import signal

import numpy as np
import optax
import pytest

import jax
from jax import random

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI, autoguide

from benchmarks.common import training
from benchmarks.common.interrupts import recorded_interrupts
from numpyro_sumo import IWELBO


def model():
    numpyro.sample("z", dist.Normal(3.0, 1.0))


@pytest.fixture
def svi():
    return SVI(model, autoguide.AutoNormal(model), optax.adam(0.1), loss=IWELBO(2))


def test_training_takes_the_requested_number_of_steps(svi):
    run = training.train(svi, random.key(0), 130, name="arm", snapshot_steps=[65], num_blocks=10)
    assert run.steps == 130 and run.block_size == 13 and len(run.losses) == 10
    assert list(run.snapshots) == [0, 65, 130]
    assert not run.interrupted


def test_training_moves_the_parameters_as_svi_run_does(svi):
    run = training.train(svi, random.key(0), 50, name="arm", snapshot_steps=[])
    same = svi.run(random.key(0), 50, progress_bar=False)
    for name, value in same.params.items():
        np.testing.assert_allclose(run.params[name], value, rtol=1e-5)


def test_an_interruption_keeps_the_finished_steps(svi, monkeypatch):
    class InterruptedBar(training.tqdm):
        def update(self, steps):
            super().update(steps)
            if self.n >= 30:
                raise KeyboardInterrupt

    monkeypatch.setattr(training, "tqdm", InterruptedBar)
    run = training.train(svi, random.key(0), 100, name="arm", snapshot_steps=[], num_blocks=10)
    assert run.interrupted and run.steps == 30 and len(run.losses) == 3
    assert list(run.snapshots) == [0, 30]
    assert run.params["z_auto_loc"] != run.snapshots[0]["z_auto_loc"]


def test_an_interruption_without_finished_steps_is_raised(svi, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(jax.stages.Compiled, "__call__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(svi, random.key(0), 10, name="arm", snapshot_steps=[])


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interruption_that_is_lost_while_compiling_is_raised(svi, monkeypatch):
    """The garbage collector drops what its callbacks raise, and JAX has such a callback."""
    compile_steps = jax.stages.Lowered.compile
    interrupt = lambda *_: os.kill(os.getpid(), signal.SIGINT)

    def compile_and_collect(lowered, *args):
        gc.callbacks.append(interrupt)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(interrupt)
        return compile_steps(lowered, *args)

    monkeypatch.setattr(jax.stages.Lowered, "compile", compile_and_collect)
    with recorded_interrupts(), pytest.raises(KeyboardInterrupt):
        training.train(svi, random.key(0), 10, name="arm", snapshot_steps=[])


def test_a_schedule_receives_every_step():
    """The model's log-density is the step number; the guide has no parameters."""

    def stepped(offset, step):
        numpyro.factor("step", offset + step)

    svi = SVI(stepped, lambda offset, step: None, optax.adam(0.1), loss=IWELBO(1))
    run = training.train(
        svi,
        random.key(0),
        40,
        0.5,
        name="arm",
        snapshot_steps=[],
        num_blocks=20,
        schedule=lambda step: {"step": 1.0 * step},
    )
    np.testing.assert_allclose(run.losses, -0.5 - np.arange(40).reshape(20, 2).mean(1))
