"""A folder of results that is written whole or not at all."""

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


def check_writable(folder: Path) -> None:
    """Refuses, before any work, a folder that could not be written at the end.

    :raises ValueError: one line naming the folder and the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ValueError(
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
    """Writes plain values, with null for numbers that are not finite."""
    file.write_text(json.dumps(_finite(values), indent=1, ensure_ascii=False) + "\n")


def resumed(file: Path, fresh: dict[str, Any], same: str) -> dict[str, Any]:
    """The results of an earlier run, to go on with; or ``fresh`` ones if there are none.

    Those of a run that was made otherwise are not lost: their file gets another name.

    :param same: the entry that says how the run was made: it must be that of ``fresh``.
    :raises ValueError: in one line, for a file that is not whole.
    """
    if file.exists():
        try:
            earlier = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"Expected results in '{file}'; it is cut short or something else ({error}). "
                "Move it away to begin anew."
            ) from None
        # As it would be read again.
        if earlier.get(same) == json.loads(json.dumps(_finite(fresh[same]))):
            return earlier
        names = (file.with_suffix(f".earlier-{number}.json") for number in itertools.count(1))
        aside = next(name for name in names if not name.exists())
        os.replace(file, aside)
        print(f"'{file}' is of another configuration; it is '{aside.name}' now.", file=sys.stderr)
    return fresh


def _finite(values: Any) -> Any:
    """The same, with null for what JSON cannot say."""
    if isinstance(values, dict):
        return {str(key): _finite(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [_finite(value) for value in values]
    return None if isinstance(values, float) and not math.isfinite(values) else values
