"""Files appear completely or not at all, whoever writes them."""

import errno
from functools import partial
from io import BytesIO
import os
from pathlib import Path

import numpy as np
import optax
import pytest

from jax import random

from numpyro.infer import SVI

from benchmarks.common.epochs import Checkpoint, clipped_adam, new_training, optimiser
from benchmarks.common.files import write_whole
from benchmarks.common.results import write_json
from benchmarks.posterior import reference
from benchmarks.posterior.models import PROBLEMS
from numpyro_sumo import IWELBO


def save_checkpoint(file):
    optim = optimiser(partial(clipped_adam, optax.constant_schedule(0.1), 1.0))
    svi = SVI(lambda: None, lambda: None, optim, IWELBO(1))
    Checkpoint(file, "one").save(new_training(svi, svi.init(random.key(0)), 3))


def save_reference(file):
    reference.reference_of(PROBLEMS["eight_schools"](), 10, 100.0, file.parent)


WRITERS = {
    "bytes": (write_whole, b"new"),
    "json": (write_json, {"new": 1}),
    "checkpoint": (save_checkpoint,),
    "reference": (save_reference,),
}


class FullDisk(BytesIO):
    """A stream that takes no bytes."""

    def write(self, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def fail_to_replace(monkeypatch):
    def replace(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(Path, "replace", replace)


def fail_to_write(monkeypatch):
    opened = Path.open

    def open_full(path, mode="r", *args, **kwargs):
        stream = opened(path, mode, *args, **kwargs)
        if "w" not in mode:
            return stream
        stream.close()
        return FullDisk()

    monkeypatch.setattr(Path, "open", open_full)
    monkeypatch.setattr(Path, "write_text", lambda path, text: open_full(path, "w").write(text))


@pytest.fixture
def short_reference(monkeypatch):
    draws = {"log τ": np.arange(8.0).reshape(4, 2)}
    found = reference.Reference(draws, {}, {"title": "NUTS"})
    monkeypatch.setattr(reference, "chains_reference", lambda problem, min_ess: found)


@pytest.mark.parametrize("fail", [fail_to_write, fail_to_replace])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS.keys())
def test_a_full_disk_leaves_no_part_of_a_file(writer, fail, tmp_path, monkeypatch, short_reference):
    write, *content = writer
    file = tmp_path / "a.file"
    file.write_bytes(b"old")
    with monkeypatch.context() as patch:
        fail(patch)
        with pytest.raises(OSError, match="No space left on device") as caught:
            write(file, *content)
    assert Path(caught.value.filename).is_relative_to(tmp_path)
    assert file.read_bytes() == b"old"
    files = [each.name for each in tmp_path.rglob("*") if each.is_file()]
    assert files == ["a.file"]


def test_an_interrupted_write_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def interrupt(descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"new")
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced(tmp_path):
    for content in (b"old", b"new"):
        write_whole(tmp_path / "a", content)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"new"]
