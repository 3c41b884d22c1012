"""A folder of results that is written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import tempfile


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
