"""Training by epochs that may be stopped at any moment, and goes on bit for bit where it was.

Made to be copied: it needs NumPyro, optax, flax and tqdm, and nothing else of this folder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import time
from typing import Any, NamedTuple

from flax import serialization
import numpy as np
import optax
from tqdm import tqdm

import jax
from jax import lax, random
import jax.numpy as jnp

from numpyro.infer import SVI

#: What a gradient's norm is called in the optimiser's state; see :func:`optimiser`.
_GRADIENT_NORM = "gradient_norm"


class Training(NamedTuple):
    """Where a training stands: all that it takes to go on.

    :param state: of SVI, after the last epoch that is done.
    :param average: the parameters, averaged over steps with a weight that falls exponentially.
    :param losses: of each step, shape ``(epochs, steps)``.
    :param gradient_norms: before clipping, shape ``(epochs, steps, groups)``, the groups of
        parameters in the order of their names' beginnings, the rest first.
    :param validation: numbers of epochs, and what ``validate`` said after them: ``(times, 2)``.
    :param seconds: spent in epochs.
    """

    state: Any
    average: Any
    losses: np.ndarray
    gradient_norms: np.ndarray
    validation: np.ndarray
    seconds: float

    @property
    def num_epochs(self) -> int:
        """How many are done."""
        return len(self.losses)


def optimiser(
    schedule: optax.Schedule, max_gradient_norm: float, factors: dict[str, float] | None = None
) -> optax.GradientTransformation:
    """Adam on clipped gradients, which remembers the norms that they had before.

    :param factors: on the learning rate, by the beginning of a parameter's name. The parameters of
        each are clipped by themselves, so that no gradient of a guide drowns a model's; and so are
        all others, whose factor is 1.
    """
    factors = {"": 1.0, **(factors or {})}
    label = lambda name: max((start for start in factors if name.startswith(start)), key=len)
    groups = {
        start: optax.chain(
            optax.snapshot(_GRADIENT_NORM, optax.tree.norm),
            optax.clip_by_global_norm(max_gradient_norm),
            optax.adam(lambda step, factor=factor: factor * schedule(step)),
        )
        for start, factor in factors.items()
    }
    return optax.multi_transform(groups, lambda params: {name: label(name) for name in params})


def gradient_norms(optim_state: Any) -> jax.Array:
    """What :func:`optimiser` remembers of the last step, shape ``(groups,)``."""
    norms = optax.tree.get_all_with_path(optim_state, _GRADIENT_NORM)
    return jnp.stack([norm for _, norm in norms])


def begun(svi: SVI, state: Any, num_steps: int) -> Training:
    """A training before its first epoch, of ``num_steps`` steps each.

    :param state: from ``svi.init``, which compiles far quicker in one piece, inside ``jax.jit``.
    """
    # Of a type that steps do not change: the second epoch would be compiled anew, and rounded so.
    strong = lambda leaf: leaf if _is_typed(leaf) else leaf.astype(leaf.dtype)
    state, average = jax.tree.map(strong, (state, svi.get_params(state)))
    none = np.zeros((0, num_steps), np.float32)
    norms = np.zeros((0, num_steps, len(gradient_norms(state.optim_state))), np.float32)
    return Training(state, average, none, norms, np.zeros((0, 2)), 0.0)


def epoch_of(svi: SVI, num_steps: int, average_decay: float, **kwargs: Any) -> Any:
    """Some steps in one program: maps a state, the average and the data to new ones.

    The data are an argument, so that every epoch may have its own and nothing compiles anew.
    """

    @jax.jit
    def run_epoch(state, average, *args):
        def step(carry, _):
            state, average = carry
            state, loss = svi.update(state, *args, **kwargs)
            params = svi.get_params(state)
            # At first all steps count alike, and the start not at all.
            rate = jnp.maximum(1.0 - average_decay, 1.0 / state.optim_state[0])
            average = optax.incremental_update(params, average, rate)
            return (state, average), (loss, gradient_norms(state.optim_state))

        return lax.scan(step, (state, average), length=num_steps)

    return run_epoch


def train(
    run_epoch: Callable,
    training: Training,
    num_epochs: int,
    args_of: Callable[[int], tuple],
    *,
    checkpoint: Path,
    configuration: str,
    every: int = 10,
    validate: Callable[[Training], float] | None = None,
    title: str | None = None,
) -> Training:
    """Trains until ``num_epochs`` are done, from the checkpoint if there is one.

    Whatever ends the process, no more is lost than the epochs since the last checkpoint, and none
    but the unfinished one with Ctrl-C, which is passed on. What follows is the same bit for bit,
    for an epoch depends on the state and on its own number alone.

    :param run_epoch: from :func:`epoch_of`, compiled or not.
    :param training: from :func:`begun`.
    :param args_of: the arguments of model and guide in an epoch, by its number.
    :param checkpoint: the file to go on from, and to write after every ``every`` epochs.
    :param configuration: what the training is of: a checkpoint of another one is refused.
    :param validate: a figure to note whenever a checkpoint is written; one is, too, at the start.
    :param title: of the progress bar; None for none.
    :raises ValueError: in one line, for a checkpoint that is not of this training, or not whole.
    """
    if checkpoint.exists():
        training = loaded(checkpoint, training, configuration)
    saved_at = training.num_epochs

    def noted(training):
        """With a figure for the checkpoint that is due."""
        if validate is None or training.num_epochs in training.validation[:, 0]:
            return training
        row = [[training.num_epochs, validate(training)]]
        return training._replace(validation=np.concatenate([training.validation, row]))

    def followed(training):
        """With an epoch more."""
        args = args_of(training.num_epochs)
        started = time.perf_counter()
        (state, average), steps = jax.block_until_ready(
            run_epoch(training.state, training.average, *args)
        )
        seconds = training.seconds + time.perf_counter() - started
        losses, norms = (
            np.concatenate([earlier, np.asarray(now)[None]])
            for earlier, now in zip((training.losses, training.gradient_norms), steps)
        )
        return Training(state, average, losses, norms, training.validation, seconds)

    with tqdm(
        total=num_epochs,
        initial=saved_at,
        desc=title,
        unit="epoch",
        leave=False,
        disable=title is None,
    ) as bar:
        try:
            while True:
                if training.num_epochs % every == 0 or training.num_epochs >= num_epochs:
                    training = noted(training)
                    save(checkpoint, training, configuration)
                    saved_at = training.num_epochs
                if training.num_epochs >= num_epochs:
                    return training
                training = followed(training)
                bar.set_postfix_str(running_mean(training.losses), refresh=False)
                bar.update()
        except KeyboardInterrupt:
            if training.num_epochs > saved_at:
                save(checkpoint, training, configuration)
            raise


def running_mean(losses: np.ndarray, window: int = 10) -> str:
    """Mean and standard error over the last epochs, in words."""
    last = losses[-window:].ravel().astype(np.float64)
    return f"loss {last.mean():.3f} ± {last.std() / len(last) ** 0.5:.3f}"


def save(file: Path, training: Training, configuration: str) -> None:
    """Writes a checkpoint, whole or not at all."""
    tree = training._replace(state=_as_data(training.state))
    content = {"configuration": configuration, "training": serialization.to_state_dict(tree)}
    partial = file.with_name(f"{file.name}.partial")
    file.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("wb") as stream:
        stream.write(serialization.msgpack_serialize(jax.tree.map(_on_host, content)))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(partial, file)


def loaded(file: Path, like: Training, configuration: str) -> Training:
    """The training of a checkpoint.

    :param like: one of the same configuration.
    :raises ValueError: in one line, for a file that is not a whole checkpoint of it.
    """
    like_data = like._replace(state=_as_data(like.state))
    with _told_in_one_line(file):
        tree = serialization.from_state_dict(like_data, _content(file, configuration))
        # On the device, as steps leave them: a program is compiled anew for arrays of the host.
        state, average = jax.tree.map(jnp.asarray, (tree.state, tree.average))
        tree = tree._replace(state=state, average=average)
        shapes = lambda of: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), of)
        if shapes((state, average)) != shapes((like_data.state, like.average)):
            raise TypeError("arrays of other shapes")
    key = like.state.rng_key
    if _is_typed(key):
        key = random.wrap_key_data(tree.state.rng_key, impl=random.key_impl(key))
        tree = tree._replace(state=tree.state._replace(rng_key=key))
    return tree


def loaded_average(file: Path, configuration: str) -> tuple[Any, int]:
    """The averaged parameters of a checkpoint, and how many epochs are done.

    :raises ValueError: as :func:`loaded` does.
    """
    with _told_in_one_line(file):
        content = _content(file, configuration)
        return content["average"], len(content["losses"])


def _content(file: Path, configuration: str) -> dict[str, Any]:
    """What a checkpoint has of a training, as plain arrays."""
    content = serialization.msgpack_restore(file.read_bytes())
    if (found := content["configuration"]) != configuration:
        raise _Another(
            f"Expected a checkpoint of {configuration} in '{file}'; it is of {found}. "
            "Choose another folder, or move it away to begin anew."
        )
    return content["training"]


class _Another(ValueError):
    """A checkpoint of another training."""


@contextmanager
def _told_in_one_line(file: Path) -> Iterator[None]:
    """Says so where a file is no whole checkpoint."""
    try:
        yield
    except _Another:
        raise
    except Exception as error:  # whatever msgpack makes of bytes that it did not write
        raise ValueError(
            f"Expected a checkpoint in '{file}'; it is cut short or something else "
            f"({type(error).__name__}). Move it away to begin anew."
        ) from None


def _as_data(state: Any) -> Any:
    """The state with its key as plain numbers."""
    key = state.rng_key
    return state._replace(rng_key=random.key_data(key)) if _is_typed(key) else state


def _is_typed(key: jax.Array) -> bool:
    """Whether it is a new-style key."""
    return jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)


def _on_host(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
