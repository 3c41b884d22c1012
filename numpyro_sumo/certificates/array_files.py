"""Trees of arrays and plain values in one file: arrays as safetensors, the rest as JSON."""

import json
import os
from pathlib import Path
import tempfile
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

import jax

#: Of the layout; files of another one are refused.
FORMAT = "3"

JSON = bool | int | float | str | None

PathLike = str | os.PathLike[str]


def write_tree(path: PathLike, kind: str, tree: dict[str, Any]) -> None:
    """Writes a tree of arrays, numbers, strings, dicts, lists and tuples to one file.

    :param path: of the file; an existing one is replaced when the new one is complete.
    :param kind: what the file holds, in a word.
    :raises ValueError: if its folder does not exist, or the tree holds something else.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise ValueError(f"Expected a folder to write to; there is no {path.parent}. Create it.")
    arrays: dict[str, np.ndarray] = {}
    packed = {name: _pack(value, name, arrays) for name, value in tree.items()}
    metadata = {"format": FORMAT, "kind": kind, "values": json.dumps(packed)}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        partial = Path(folder) / path.name
        save_file(arrays, partial, metadata)
        os.replace(partial, path)


def read_tree(path: PathLike, kind: str) -> dict[str, Any]:
    """Reads what :func:`write_tree` has written.

    :raises ValueError: for a file that does not exist, is incomplete, of another format or kind.
    """
    try:
        with safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"Expected a complete file of a {kind}; {path} is none: {error}. Save it again."
        ) from error
    if metadata.get("format") != FORMAT:
        raise ValueError(
            f"Expected a {kind} in format {FORMAT}; {path} has "
            f"{metadata.get('format', 'no format')}. Save it again with this version."
        )
    if metadata["kind"] != kind:
        raise ValueError(
            f"Expected a file of a {kind}; {path} holds a {metadata['kind']}. Read it by "
            "numpyro_sumo.load for a certificate, by Posterior.load for a posterior."
        )
    packed = json.loads(metadata["values"])
    return {name: _unpack(value, arrays) for name, value in packed.items()}


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """A value as JSON, with the names of arrays in their places."""
    if isinstance(value, JSON):
        return {"value": value}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        place = str(len(arrays))
        arrays[place] = np.array(value, order="C")
        return {"array": place}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {k: _pack(each, f"{name}/{k}", arrays) for k, each in value.items()}}
    if isinstance(value, list | tuple):
        kind = "tuple" if isinstance(value, tuple) else "list"
        return {kind: [_pack(each, f"{name}/{k}", arrays) for k, each in enumerate(value)]}
    raise ValueError(
        f"Expected arrays in dicts by name, lists and tuples; '{name}' is {type(value).__name__}. "
        "Save its arrays by themselves."
    )


def _unpack(packed: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    ((kind, content),) = packed.items()
    if kind == "value":
        return content
    if kind == "array":
        return arrays[content]
    if kind == "dict":
        return {name: _unpack(each, arrays) for name, each in content.items()}
    parts = [_unpack(each, arrays) for each in content]
    return tuple(parts) if kind == "tuple" else parts
