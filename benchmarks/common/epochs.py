"""Training by epochs that can be interrupted at any time and continued bit for bit.

Made to be copied together with ``files.py``: it needs NumPyro, optax, flax and tqdm, and no other
file of this folder.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

from benchmarks.common.files import write_whole

#: The name of the gradient norms in the optimiser's state; see :func:`optimiser`.
_GRADIENT_NORM = "gradient_norm"


class Training(NamedTuple):
    """The complete state of a training run.

    :param state: the state of SVI after the last finished epoch.
    :param average: exponentially weighted average of the parameters over steps.
    :param losses: the loss of each step, shape ``(epochs, steps)``.
    :param gradient_norms: norms before clipping, shape ``(epochs, steps, groups)``; the groups are
        those of :func:`optimiser` in the order of their prefixes, the default group first.
    :param validation: rows (number of epochs, value of ``validate``), shape ``(rows, 2)``.
    :param seconds: time spent in epochs.
    """

    state: Any
    average: Any
    losses: np.ndarray
    gradient_norms: np.ndarray
    validation: np.ndarray
    seconds: float

    @property
    def num_epochs(self) -> int:
        """The number of finished epochs."""
        return len(self.losses)


def optimiser(
    make: Callable[[float], optax.GradientTransformation],
    factors: dict[str, float] | None = None,
) -> optax.GradientTransformation:
    """An optimiser for each group of parameters, whose state keeps the gradients' norms.

    :param make: from a factor on the learning rate to an optimiser, such as :func:`clipped_adam`.
    :param factors: factors on the learning rate by parameter-name prefix. Each group has its own
        optimiser, so that a large guide gradient does not shrink the model's; parameters without a
        prefix form one more group, with factor 1.
    """
    factors = {"": 1.0, **(factors or {})}
    label = lambda name: max((start for start in factors if name.startswith(start)), key=len)
    groups = {
        start: optax.chain(optax.snapshot(_GRADIENT_NORM, optax.tree.norm), make(factor))
        for start, factor in factors.items()
    }
    return optax.multi_transform(groups, lambda params: {name: label(name) for name in params})


def clipped_adam(
    schedule: optax.Schedule, max_gradient_norm: float, factor: float = 1.0
) -> optax.GradientTransformation:
    """Adam on gradients whose norm is clipped, with ``factor`` times the scheduled rate."""
    adam = optax.adam(lambda step: factor * schedule(step))
    return optax.chain(optax.clip_by_global_norm(max_gradient_norm), adam)


def gradient_norms(optim_state: Any) -> jax.Array:
    """The norms of the last step's gradients, shape ``(groups,)``; see :func:`optimiser`."""
    norms = optax.tree.get_all_with_path(optim_state, _GRADIENT_NORM)
    return jnp.stack([norm for _, norm in norms])


def new_training(svi: SVI, state: Any, num_steps: int) -> Training:
    """A training run before its first epoch.

    :param state: from ``svi.init``, which compiles much faster as a whole, inside ``jax.jit``.
    :param num_steps: steps of an epoch.
    """
    # A step returns strongly typed arrays: with weak ones the second epoch would compile again.
    strong = lambda leaf: leaf if _is_typed_key(leaf) else leaf.astype(leaf.dtype)
    state, average = jax.tree.map(strong, (state, svi.get_params(state)))
    losses = np.zeros((0, num_steps), np.float32)
    norms = np.zeros((0, num_steps, len(gradient_norms(state.optim_state))), np.float32)
    return Training(state, average, losses, norms, np.zeros((0, 2)), 0.0)


def make_epoch(svi: SVI, num_steps: int, average_decay: float, **kwargs: Any) -> Any:
    """Compile ``num_steps`` steps together: maps (state, average, *data) to new ones and steps.

    The data are arguments, so that each epoch may use its own without compiling again.
    """

    @jax.jit
    def run_epoch(state, average, *args):
        def step(carry, _):
            state, average = carry
            state, loss = svi.update(state, *args, **kwargs)
            params = svi.get_params(state)
            # A plain mean over the first steps, so that the start has no weight.
            rate = jnp.maximum(1.0 - average_decay, 1.0 / state.optim_state[0])
            average = optax.incremental_update(params, average, rate)
            return (state, average), (loss, gradient_norms(state.optim_state))

        return lax.scan(step, (state, average), length=num_steps)

    return run_epoch


class CheckpointError(ValueError):
    """A file is no complete checkpoint of this training; the message is one line."""


class Checkpoint(NamedTuple):
    """The file that a training run is saved in.

    :param configuration: describes the training; a checkpoint with another one is refused.
    """

    file: Path
    configuration: str

    def save(self, training: Training) -> None:
        """Write the file completely or not at all.

        :raises OSError: if it cannot be written.
        """
        tree = training._replace(state=_without_typed_key(training.state))
        content = {
            "configuration": self.configuration,
            "training": serialization.to_state_dict(tree),
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.file, serialization.msgpack_serialize(jax.tree.map(_to_numpy, content)))

    def load(self, like: Training) -> Training:
        """Read the training run.

        :param like: a training run of the same configuration.
        :raises CheckpointError: if the file is not a complete checkpoint of this configuration.
        """
        like_data = like._replace(state=_without_typed_key(like.state))
        with self._checked():
            tree = serialization.from_state_dict(like_data, self._content())
            # Arrays on the device, as steps return them: host arrays would compile again.
            state, average = jax.tree.map(jnp.asarray, (tree.state, tree.average))
            tree = tree._replace(state=state, average=average)
            shapes = lambda of: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), of)
            if shapes((state, average)) != shapes((like_data.state, like.average)):
                raise TypeError("arrays of other shapes")
        key = like.state.rng_key
        if _is_typed_key(key):
            key = random.wrap_key_data(tree.state.rng_key, impl=random.key_impl(key))
            tree = tree._replace(state=tree.state._replace(rng_key=key))
        return tree

    def load_average(self) -> tuple[Any, int]:
        """Read the averaged parameters and the number of finished epochs.

        :raises CheckpointError: as :meth:`load` does.
        """
        with self._checked():
            content = self._content()
            return content["average"], len(content["losses"])

    def _content(self) -> dict[str, Any]:
        """The training in the file, as plain arrays."""
        content = serialization.msgpack_restore(self.file.read_bytes())
        if (found := content["configuration"]) != self.configuration:
            raise CheckpointError(
                f"Expected a checkpoint of {self.configuration} in '{self.file}'; got one of "
                f"{found}. Choose another folder, or move it away to start again."
            )
        return content["training"]

    @contextmanager
    def _checked(self) -> Iterator[None]:
        """Turn every error of reading the file into a :class:`CheckpointError`."""
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # msgpack raises errors of many types for other bytes
            raise CheckpointError(
                f"Expected a checkpoint in '{self.file}'; got an incomplete or other file "
                f"({type(error).__name__}). Move it away to start again."
            ) from None


def train(
    run_epoch: Callable,
    training: Training,
    num_epochs: int,
    args_of: Callable[[int], tuple],
    checkpoint: Checkpoint,
    *,
    every: int = 10,
    validate: Callable[[Training], float] | None = None,
    title: str | None = None,
) -> Training:
    """Train until ``num_epochs`` are finished, starting from the checkpoint if there is one.

    If the process dies, the epochs since the last checkpoint are lost; Ctrl-C saves a checkpoint
    first, and is raised again. A continued run has the same result bit for bit, for an epoch
    depends on the state and its own number only.

    :param run_epoch: from :func:`make_epoch`, compiled or not.
    :param training: from :func:`new_training`.
    :param args_of: maps the number of an epoch to the arguments of model and guide.
    :param every: write a checkpoint after so many epochs, and before the first.
    :param validate: computes a number to record at each checkpoint.
    :param title: of the progress bar; None shows none.
    :raises CheckpointError: if the checkpoint is not a complete one of this training.
    """
    if checkpoint.file.exists():
        training = checkpoint.load(training)
    saved_at = training.num_epochs
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
                is_done = training.num_epochs >= num_epochs
                if is_done or training.num_epochs % every == 0:
                    training = _validated(training, validate)
                    checkpoint.save(training)
                    saved_at = training.num_epochs
                if is_done:
                    return training
                training = _next_epoch(run_epoch, training, args_of(training.num_epochs))
                bar.set_postfix_str(running_mean(training.losses), refresh=False)
                bar.update()
        except KeyboardInterrupt:
            if training.num_epochs > saved_at:
                checkpoint.save(training)
            raise


def _validated(training: Training, validate: Callable[[Training], float] | None) -> Training:
    """The training with a row of validation for its current epoch."""
    if validate is None or training.num_epochs in training.validation[:, 0]:
        return training
    row = [[training.num_epochs, validate(training)]]
    return training._replace(validation=np.concatenate([training.validation, row]))


def _next_epoch(run_epoch: Callable, training: Training, args: tuple) -> Training:
    """The training after one more epoch."""
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


def running_mean(losses: np.ndarray, window: int = 10) -> str:
    """Mean and standard error of the loss over the last epochs, as text."""
    last = losses[-window:].ravel().astype(np.float64)
    return f"loss {last.mean():.3f} ± {last.std() / len(last) ** 0.5:.3f}"


def _without_typed_key(state: Any) -> Any:
    """The state with its random key as plain numbers."""
    key = state.rng_key
    return state._replace(rng_key=random.key_data(key)) if _is_typed_key(key) else state


def _is_typed_key(key: jax.Array) -> bool:
    """Whether it is a new-style random key."""
    return jnp.issubdtype(key.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> Any:
    return np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
