"""Content hashes: right after every change, and computed once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from ablate.data.contents import Contents


def test_other_content_has_another_hash_also_of_one_size(tmp_path: Path) -> None:
    contents, path = Contents(tmp_path / "cache"), tmp_path / "weights.bin"
    path.write_bytes(b"one")
    assert contents.of(path) == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))  # even if its time is older
    assert contents.of(path) == hashlib.sha256(b"two").hexdigest()


def test_a_folder_counts_by_names_and_contents(tmp_path: Path) -> None:
    contents, folder = Contents(tmp_path / "cache"), tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_bytes(b"1")
    first = contents.of(folder)
    (folder / "sub" / "a").rename(folder / "sub" / "b")
    second = contents.of(folder)
    (folder / "sub" / "b").write_bytes(b"2")
    assert len({first, second, contents.of(folder)}) == 3


def test_a_second_start_hashes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.bin"
    path.write_bytes(b"one")
    first = Contents(tmp_path / "cache").of(path)

    def forbidden(*_: object) -> None:
        raise AssertionError("hashed again")

    monkeypatch.setattr(hashlib, "file_digest", forbidden)
    assert Contents(tmp_path / "cache").of(path) == first


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Contents(tmp_path).of(tmp_path / "nowhere")
