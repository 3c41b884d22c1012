"""Files that are written completely or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, content: bytes | memoryview) -> None:
    """Write the file completely, or leave what was there before.

    :raises OSError: with the name of the file, if it cannot be written; a full disk, for instance.
    """
    partial = file.with_name(f".{file.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, file)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from None
    finally:
        partial.unlink(missing_ok=True)
