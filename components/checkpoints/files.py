"""Tensors out of files of weights, or one clear error; nothing in a file is ever executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""What a directory's weights are called, whole or as the index of their shards; the first wins."""

_AGAIN = "download or write it again"


class CheckpointError(ValueError):
    """Weights that cannot be loaded: one message with the file, the key and the remedy.

    Args:
        path: the file or directory at fault.
        message: what is wrong with it, where, and what to do.
    """

    def __init__(self, path: Path | str, message: str) -> None:
        super().__init__(f"checkpoint {path}: {' '.join(message.split())}")


def read_tensors(path: Path, wrappers: Sequence[str] = ()) -> dict[str, Tensor]:
    """All tensors of a file, or of the weights in a directory, by name, in CPU memory.

    Args:
        path: a ``.safetensors`` file, a file of ``torch.save``, or a directory that has weights
            under one of ``WEIGHT_FILES``, sharded or not.
        wrappers: keys under which a file of ``torch.save`` may hold the tensors beside other
            things; the first that is there counts.

    Raises:
        CheckpointError: nothing there, a damaged file, or one that holds more than tensors.
    """
    if not path.is_dir():
        return _read_file(path, wrappers)
    for name in WEIGHT_FILES:
        if (path / name).is_file():
            chosen = path / name
            return _read_shards(chosen) if name.endswith(".index.json") else _read_file(chosen)
    raise CheckpointError(
        path,
        f"is a directory without weights; expected one of {', '.join(WEIGHT_FILES)} in it",
    )


def check_weights(path: Path) -> None:
    """See that weights are there to their ends, reading no tensor.

    Args:
        path: as of ``read_tensors``; a directory may also have files of other names, as timm's.

    Raises:
        CheckpointError: they are not. A file of ``torch.save`` before its version 1.6 does not tell
            its length.
    """
    for file in _files_of(path) if path.is_dir() else [path]:
        start = _start(file)
        if file.suffix == ".safetensors":
            with _safetensors(file), safe_open(file, "pt"):
                pass
        elif start.startswith(b"PK") and not zipfile.is_zipfile(file):
            raise CheckpointError(file, f"is truncated; {_AGAIN}")


def _files_of(directory: Path) -> list[Path]:
    """The files that hold a directory's weights."""
    for name in WEIGHT_FILES:
        if (directory / name).is_file():
            return _shards(directory / name) if name.endswith(".json") else [directory / name]
    for ending in ("*.safetensors", "*.bin", "*.npz"):
        if found := sorted(directory.glob(ending)):
            return found
    raise CheckpointError(directory, "is a directory without weights")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: no such file, or it holds no JSON object.
    """
    try:
        values = json.loads(path.read_bytes(), object_hook=_number)
    except OSError:
        raise CheckpointError(
            path, "cannot be read; a checkpoint's directory needs it beside the weights"
        ) from None
    except ValueError as error:
        raise CheckpointError(path, f"is not valid JSON ({error}); {_AGAIN}") from error
    if not isinstance(values, dict):
        raise CheckpointError(path, f"must hold a JSON object, not a {type(values).__name__}")
    return values


def _number(values: dict[str, Any]) -> Any:
    """An infinity as transformers writes it, {"__float__": "Infinity"}; other objects as is."""
    return float(values["__float__"]) if list(values) == ["__float__"] else values


def read_object(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors in plain containers.

    Raises:
        CheckpointError: no such file, a damaged one, or one with pickled code.
    """
    start = _start(path)
    zipped = zipfile.is_zipfile(path)
    if start.startswith(b"PK") and not zipped:
        raise CheckpointError(path, f"is truncated; {_AGAIN}")
    if not zipped and not start.startswith(b"\x80"):
        raise CheckpointError(
            path, "is not a checkpoint; expected a file of torch.save or one named *.safetensors"
        )
    try:
        # a zipped file is mapped into memory, so that a large one is not held twice
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            path,
            "holds pickled objects other than tensors, which could run any code and are never "
            f"loaded ({telling_line(error)}); save its state_dict alone, best as safetensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            path, f"is truncated or damaged ({telling_line(error)}); {_AGAIN}"
        ) from error


def telling_line(error: Exception) -> str:
    """The line of torch's message that says what it met, rather than how to load it anyway."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    return (telling or lines or [type(error).__name__])[0]


def _start(path: Path) -> bytes:
    """The first bytes of a file that must exist and hold something."""
    if path.is_dir():
        raise CheckpointError(path, "is a directory where a file of weights was expected")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(path, f"cannot be read: {error.strerror}; check the path") from error
    if not start:
        raise CheckpointError(path, f"is empty; {_AGAIN}")
    return start


def _read_file(path: Path, wrappers: Sequence[str] = ()) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    values = read_object(path)
    if isinstance(values, dict):
        wrapped = [values[key] for key in wrappers if isinstance(values.get(key), dict)]
        values = wrapped[0] if wrapped else values
    if not isinstance(values, dict) or not all(isinstance(v, Tensor) for v in values.values()):
        keys = [str(k) for k, v in values.items()] if isinstance(values, dict) else []
        held = f"a dict of {', '.join(keys[:6])}" if keys else f"a {type(values).__name__}"
        raise CheckpointError(
            path, f"must hold a dict of tensors by name, not {held}; save the model's state_dict"
        )
    return values


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    with _safetensors(path):
        return load_file(path)


@contextmanager
def _safetensors(path: Path) -> Iterator[None]:
    """What the library says of a file while it reads it, as a ``CheckpointError``."""
    # eight bytes of length, then a JSON object
    if _start(path)[8:] != b"{":
        raise CheckpointError(path, f"is not a safetensors file; {_AGAIN}")
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(path, f"is truncated or damaged ({error}); {_AGAIN}") from error


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All shards that an index names."""
    tensors: dict[str, Tensor] = {}
    for shard in _shards(index):
        tensors.update(_read_file(shard))
    return tensors


def _shards(index: Path) -> list[Path]:
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise CheckpointError(index, "has no weight_map of tensor names to shard files")
    names = sorted(set(shards.values()))
    for name in names:
        if Path(name).name != name:
            raise CheckpointError(index, f"names the shard {name!r} outside its own directory")
    return [index.parent / name for name in names]
