"""Results folders: checked before a run, written completely or not at all, continued later."""

from collections.abc import Iterator
from contextlib import contextmanager
import itertools
import json
import math
import os
from pathlib import Path
import sys
import tempfile
from typing import Any

from benchmarks.common.files import write_whole

RESULTS = Path(__file__).parents[1] / "results"


class InputError(ValueError):
    """A file or folder that the user named cannot be used; the message is one line."""


def check_writable(folder: Path) -> None:
    """Create the folder, and check before a run that files can be written to it.

    :raises InputError: if they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"Expected a folder that can be written; got '{folder}' ({error.strerror}). "
            "Choose another with --out."
        ) from None


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into ``folder`` when the block ends without an error."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".partial-") as partial:
        yield Path(partial)
        for file in sorted(Path(partial).iterdir()):
            os.replace(file, folder / file.name)


def write_json(file: Path, values: Any) -> None:
    """Write plain values as JSON, completely or not at all; null is a number that is not finite.

    :raises OSError: if the file cannot be written.
    """
    text = json.dumps(_finite(values), indent=1, ensure_ascii=False) + "\n"
    write_whole(file, text.encode())


def start_or_resume(file: Path, fresh: dict[str, Any], same: str) -> dict[str, Any]:
    """Results of an earlier run in ``file``, or ``fresh`` if there are none to continue.

    Results of another configuration are kept: their file is renamed.

    :param same: the key whose value must equal that of ``fresh`` for the run to be continued.
    :raises InputError: if the file is not complete JSON.
    """
    if file.exists():
        try:
            earlier = json.loads(file.read_text())
        except ValueError as error:
            raise InputError(
                f"Expected JSON results in '{file}'; got a file that cannot be read ({error}). "
                "Move it away to start again."
            ) from None
        # Compared as JSON would return it: tuples are lists, infinities null.
        if earlier.get(same) == json.loads(json.dumps(_finite(fresh[same]))):
            return earlier
        names = (file.with_suffix(f".earlier-{number}.json") for number in itertools.count(1))
        renamed = next(name for name in names if not name.exists())
        os.replace(file, renamed)
        print(f"'{file}' has another configuration; renamed to '{renamed.name}'.", file=sys.stderr)
    return fresh


def _finite(values: Any) -> Any:
    """The same values, with None for numbers that JSON cannot hold."""
    if isinstance(values, dict):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
