"""Preparing a data set once, whole or not at all, and the data sets that live in shards."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from ablate.data.base import SPLITS, DataSet, Split
from ablate.data.samples import Sample, Samples
from ablate.data.shards import ShardDataset, read_index
from ablate.data.templates import ChatTemplate, get_template
from ablate.data.tokenizer import TOKENIZER, Tokenizer, tokenizer_files


def prepare_once(directory: Path, convert: Callable[[Path], None], *, resume: bool = False) -> None:
    """Fill ``directory`` by ``convert``, unless it is there.

    ``convert`` works in a directory beside it that is renamed into place at the end, so that
    ``directory`` exists only when whole. Processes that come meanwhile wait for the first; a lock
    dies with its process, and what a killed one leaves is removed by the next.

    Args:
        directory: where the result goes.
        convert: writes everything into the directory it is given.
        resume: keep what a killed conversion left, for a ``convert`` that goes on from there.
    """
    if directory.exists():
        mark_used(directory)
        return
    directory.parent.mkdir(parents=True, exist_ok=True)
    partial = directory.with_name(f".{directory.name}.partial")
    with FileLock(directory.with_name(f".{directory.name}.lock")):
        if directory.exists():
            return
        if partial.exists() and not resume:
            shutil.rmtree(partial)
        partial.mkdir(exist_ok=True)
        try:
            convert(partial)
        except Exception:
            if not resume:
                shutil.rmtree(partial, ignore_errors=True)
            raise
        partial.rename(directory)


def mark_used(directory: Path) -> None:
    """Note that prepared data are asked for now, see ``ablate.data.caches``."""
    with contextlib.suppress(OSError):  # a folder of someone else's
        os.utime(directory)


def bytes_in(folder: Path) -> int:
    """What the files below a folder take; those that are removed meanwhile do not count."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(root, name).lstat().st_size
    return total


class ShardedDataSet(DataSet):
    """A data set that is converted into a directory of shards a split, and a tokenizer.

    Subclasses give ``directory`` and ``prepare``, and ``splits`` where they do not have all three.

    Args:
        template: name of the chat template.
    """

    splits: tuple[Split, ...] = SPLITS

    def __init__(self, *, template: str = "plain") -> None:
        self._template = get_template(template)

    @abstractmethod
    def directory(self, cache_dir: Path) -> Path:
        """Where the prepared data lies; its name changes with whatever changes the data."""

    def split(self, cache_dir: Path, split: Split) -> Samples[Sample]:
        if split not in self.splits:
            raise ValueError(
                f"{type(self).__name__} has no {split} split; it has {', '.join(self.splits)}"
            )
        return ShardDataset(self.directory(cache_dir) / split)

    def tokenizer(self, cache_dir: Path) -> Tokenizer:
        return Tokenizer.load(self.directory(cache_dir) / TOKENIZER)

    @property
    def template(self) -> ChatTemplate:
        return self._template

    def fingerprint(self, cache_dir: Path) -> str:
        directory = self.directory(cache_dir)
        digest = hashlib.sha256()
        for split in self.splits:
            digest.update(read_index(directory / split)["checksum"].encode())
        for file in tokenizer_files(directory / TOKENIZER):
            digest.update(file.read_bytes())
        return digest.hexdigest()
