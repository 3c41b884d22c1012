"""A training that is interrupted in any way is continued to the same result."""

from functools import cache, partial
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
import optax
import pytest

import jax
from jax import random
import jax.numpy as jnp

import numpyro
import numpyro.distributions as dist
from numpyro.infer import SVI

from benchmarks.common.epochs import (
    Checkpoint,
    CheckpointError,
    clipped_adam,
    gradient_norms,
    make_epoch,
    new_training,
    optimiser,
    train,
)
from numpyro_sumo import IWELBO

STEPS = 3
POINTS = np.linspace(-1.0, 1.0, 6, dtype=np.float32)


def model(points, batch_size=None):
    shift = numpyro.param("shift", jnp.array(2.0))
    with numpyro.plate("points", len(points), subsample_size=batch_size):
        batch = numpyro.subsample(points, event_dim=0)
        z = numpyro.sample("z", dist.Normal(shift, 1.0))
        numpyro.sample("x", dist.Normal(z, 1.0), obs=batch)


def guide(points, batch_size=None):
    slope = numpyro.param("slope", jnp.array(0.2))
    with numpyro.plate("points", len(points), subsample_size=batch_size):
        batch = numpyro.subsample(points, event_dim=0)
        numpyro.sample("z", dist.Normal(slope * batch, 0.8))


def points_of(epoch):
    """The data of an epoch."""
    return (POINTS + np.float32(0.01 * epoch),)


@pytest.fixture(scope="module")
def program():
    svi = SVI(model, guide, optimiser(partial(clipped_adam, lambda step: 1e-2, 50.0)), IWELBO(2))
    return svi, make_epoch(svi, STEPS, 0.9, batch_size=4)


@cache
def start_of(svi, make_key=random.key):
    return new_training(svi, svi.init(make_key(0), *points_of(0), batch_size=4), STEPS)


def trained(program, file, num_epochs=6, configuration="one", args_of=points_of, **options):
    svi, run_epoch = program
    return train(
        run_epoch,
        start_of(svi),
        num_epochs,
        args_of,
        Checkpoint(file, configuration),
        every=2,
        **options,
    )


def assert_same(one, other):
    def same(a, b):
        a, b = (leaf if isinstance(leaf, jax.Array) else np.asarray(leaf) for leaf in (a, b))
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = random.key_data(a), random.key_data(b)
        np.testing.assert_array_equal(a, b)

    jax.tree.map(same, one._replace(seconds=0.0), other._replace(seconds=0.0))


def test_training_continued_from_a_checkpoint_ends_bit_for_bit_the_same(program, tmp_path):
    whole = trained(program, tmp_path / "whole")
    trained(program, tmp_path / "parts", num_epochs=4)
    assert_same(trained(program, tmp_path / "parts"), whole)
    assert program[1]._cache_size() == 1
    average, num_epochs = Checkpoint(tmp_path / "parts", "one").load_average()
    assert num_epochs == 6
    jax.tree.map(np.testing.assert_array_equal, average, whole.average)
    assert whole.losses.shape == whole.gradient_norms.shape[:-1] == (6, STEPS)
    assert len(set(whole.losses.ravel().tolist())) == 6 * STEPS


def test_ctrl_c_loses_no_finished_epoch(program, tmp_path):
    def stopped_at_3(epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return points_of(epoch)

    with pytest.raises(KeyboardInterrupt):
        trained(program, tmp_path / "parts", args_of=stopped_at_3)
    svi, _ = program
    assert Checkpoint(tmp_path / "parts", "one").load(start_of(svi)).num_epochs == 3
    assert_same(trained(program, tmp_path / "parts"), trained(program, tmp_path / "whole"))


def test_validation_is_recorded_once_for_every_checkpoint(program, tmp_path):
    value = lambda training: float(training.num_epochs)
    trained(program, tmp_path / "a", num_epochs=3, validate=value)
    rows = trained(program, tmp_path / "a", num_epochs=5, validate=value).validation
    assert rows.tolist() == [[0, 0], [2, 2], [3, 3], [4, 4], [5, 5]]


def test_average_follows_the_parameters(program, tmp_path):
    """A plain mean over the first steps; then each step has weight 1/3."""
    svi, _ = program
    state, average = (start := start_of(svi)).state, start.average
    update = jax.jit(partial(svi.update, batch_size=4))
    program = make_epoch(svi, 5, 2 / 3, batch_size=4)
    for rate in (1, 1 / 2, 1 / 3, 1 / 3, 1 / 3):
        state, _ = update(state, *points_of(0))
        now = svi.get_params(state)
        average = {name: (1 - rate) * average[name] + rate * now[name] for name in now}
    (_, got), _ = program(start.state, start.average, *points_of(0))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got, average)


def test_norms_are_those_before_clipping(program, tmp_path):
    svi, _ = program
    tight = SVI(model, guide, optimiser(partial(clipped_adam, lambda step: 1e-2, 1e-3)), IWELBO(2))
    norms = trained((tight, make_epoch(tight, STEPS, 0.9, batch_size=4)), tmp_path / "tight", 1)
    assert norms.gradient_norms.min() > 1e-2


def test_checkpoint_of_another_training_is_refused_and_kept(program, tmp_path):
    file = tmp_path / "kept"
    trained(program, file, num_epochs=2)
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="of another in .*; got one of one. Choose"):
        trained(program, file, configuration="another")
    assert file.read_bytes() == before


@pytest.mark.parametrize("size", [0, 10, -1])
def test_incomplete_checkpoint_is_refused_and_kept(program, tmp_path, size):
    file = tmp_path / "cut"
    trained(program, file, num_epochs=2)
    file.write_bytes(file.read_bytes()[:size])
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="got an incomplete or other file .* Move it away"):
        trained(program, file)
    assert file.read_bytes() == before


def test_old_style_keys_are_restored(program, tmp_path):
    svi, _ = program
    start = start_of(svi, random.PRNGKey)
    checkpoint = Checkpoint(tmp_path / "old", "one")
    checkpoint.save(start)
    assert_same(checkpoint.load(start), start)


KILLED = """
import sys, time
from pathlib import Path
from tests.benchmarks.common import test_epochs
from functools import partial
from benchmarks.common.epochs import clipped_adam, make_epoch, optimiser
from numpyro.infer import SVI
from numpyro_sumo import IWELBO

optim = optimiser(partial(clipped_adam, lambda step: 1e-2, 50.0))
svi = SVI(test_epochs.model, test_epochs.guide, optim, IWELBO(2))
run_epoch = make_epoch(svi, test_epochs.STEPS, 0.9, batch_size=4)

def slowly(epoch):
    time.sleep(0.2)
    return test_epochs.points_of(epoch)

test_epochs.trained((svi, run_epoch), Path(sys.argv[1]), num_epochs=10_000, args_of=slowly)
"""


def test_training_killed_within_an_epoch_ends_bit_for_bit_the_same(program, tmp_path):
    file = tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, file],
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
    )
    svi, _ = program
    checkpoint = Checkpoint(file, "one")
    try:
        while not (file.exists() and checkpoint.load(start_of(svi)).num_epochs >= 4):
            assert process.poll() is None
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = checkpoint.load(start_of(svi)).num_epochs
    got = trained(program, file, num_epochs=done + 3)
    assert_same(got, trained(program, Path(tmp_path / "whole"), num_epochs=done + 3))


def test_checkpoint_of_other_shapes_is_refused(program, tmp_path):
    svi, _ = program
    trained(program, tmp_path / "kept", num_epochs=2)
    start = start_of(svi)
    wider = start._replace(average=jax.tree.map(lambda leaf: jnp.stack([leaf] * 2), start.average))
    with pytest.raises(CheckpointError, match="got an incomplete or other file"):
        Checkpoint(tmp_path / "kept", "one").load(wider)


def test_each_group_of_parameters_has_its_own_rate_and_clipping():
    """Adam's first step is the rate, whatever the gradient; the longest prefix counts."""
    params = {"decoder": jnp.ones(2), "encoder": jnp.ones(2), "encoder_scale": jnp.ones(1)}
    gradients = {"decoder": jnp.array([3.0, 4.0]), "encoder": 2.0 * jnp.ones(2)}
    gradients["encoder_scale"] = jnp.ones(1)
    optim = optimiser(
        partial(clipped_adam, lambda step: 1e-2, 1.0), {"encoder": 0.1, "encoder_scale": 0.5}
    )
    updates, state = optim.update(gradients, optim.init(params), params)
    for name, rate in {"decoder": 1e-2, "encoder": 1e-3, "encoder_scale": 5e-3}.items():
        np.testing.assert_allclose(updates[name], -rate, rtol=1e-3)
    np.testing.assert_allclose(gradient_norms(state), [5.0, 8.0**0.5, 1.0], rtol=1e-6)
    first_moments = [
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(optax.tree.get(inner, "mu"))])
        for inner in state.inner_states.values()
    ]
    for moment in first_moments:  # (1 − 0.9) times a gradient clipped at 1
        np.testing.assert_allclose(np.linalg.norm(moment), 0.1, rtol=1e-5)


def test_batches_that_do_not_divide_the_data_have_the_same_mean_loss(program):
    svi, _ = program
    start = start_of(svi)
    params = svi.get_params(start.state)
    losses = {
        size: jax.jit(
            jax.vmap(
                lambda key, size=size: svi.loss.loss(
                    key, params, model, guide, *points_of(0), batch_size=size
                )
            )
        )(random.split(random.key(1), 4_000))
        for size in (4, 6)
    }
    means, errors = zip(*((v.mean(), v.std() / len(v) ** 0.5) for v in losses.values()))
    assert abs(means[0] - means[1]) < 4 * np.hypot(*errors) < 0.05 * abs(means[1])
