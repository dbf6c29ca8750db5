"""What is removed from the cache is what no run has used for long, and can be made again."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from filelock import FileLock

from ablate.data.caches import DAY, OTHERS, entries, remove, unused
from ablate.data.convert import CONVERSION
from ablate.data.llava import LLaVA
from ablate.data.prepared import prepare_once
from tests.data.test_llava import record, source


def put(path: Path, size: int, days: float = 0) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_bytes(b"x" * size)
    os.utime(path, (time.time() - days * DAY,) * 2)
    return path


def names(found: list) -> set[str]:
    return {entry.path.name for entry in found}


def test_what_is_there_and_what_is_idle(tmp_path: Path) -> None:
    put(tmp_path / "easy-vqa-1.0", 100, days=31)
    put(tmp_path / "proxy-pope-v4-train-9", 10, days=29)
    put(tmp_path / "encoders" / "a1", 7, days=400)
    put(tmp_path / "features" / "b2" / "c3", 30, days=400)
    put(tmp_path / "benchmarks" / "gqa", 1000, days=400)
    put(tmp_path / "mine", 5, days=400)
    put(tmp_path / ".mixture-1.partial", 3)
    put(tmp_path / "encoders" / ".a2.partial", 2)
    found = entries(tmp_path)
    sizes: dict[str, int] = {}
    for entry in found:
        sizes[entry.kind] = sizes.get(entry.kind, 0) + entry.size
    assert sizes == {"data sets": 113, "stage-0 encoders": 9, "features": 30, OTHERS: 1005}
    assert names(unused(found)) == {"easy-vqa-1.0", "a1", "c3", ".mixture-1.partial", ".a2.partial"}

    with FileLock(tmp_path / ".mixture-1.lock"), FileLock(tmp_path / ".easy-vqa-1.0.lock"):
        in_work = unused(found)
        assert ".mixture-1.partial" not in names(in_work)
        (busy,) = [entry for entry in in_work if entry.path.name == "easy-vqa-1.0"]
        assert not remove(busy)
        assert busy.path.exists()
    for entry in unused(found):
        assert remove(entry)
    assert names(entries(tmp_path)) == {"proxy-pope-v4-train-9", tmp_path.name}
    assert (tmp_path / "benchmarks" / "gqa" / "file").exists()
    assert (tmp_path / "mine" / "file").exists()
    assert not [path for path in tmp_path.rglob("*") if "removed" in path.name]


def test_what_is_asked_for_is_used(tmp_path: Path) -> None:
    folder = put(tmp_path / "easy-vqa-1.0", 1, days=99)
    assert names(unused(entries(tmp_path))) == {"easy-vqa-1.0"}
    prepare_once(folder, lambda path: None)
    assert unused(entries(tmp_path)) == []


def test_conversions_stay_without_their_sources(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    arguments = source(tmp_path / "given", [record(0), record(1)], 2)
    llava = LLaVA(**arguments, vocab_size=300)
    llava.prepare(cache)
    folder, long_ago = llava.directory(cache), (time.time() - 99 * DAY,) * 2
    os.utime(folder, long_ago)
    assert names(unused(entries(cache))) == {folder.name}
    llava.prepare(cache)
    assert unused(entries(cache)) == []
    os.utime(folder, long_ago)
    Path(arguments["json_file"]).rename(tmp_path / "elsewhere.json")
    assert unused(entries(cache)) == []
    Path(tmp_path / "elsewhere.json").rename(arguments["json_file"])
    told = json.loads((folder / CONVERSION).read_text())
    del told["sources"]  # as older versions left them
    (folder / CONVERSION).write_text(json.dumps(told))
    os.utime(folder, long_ago)
    assert unused(entries(cache)) == []
