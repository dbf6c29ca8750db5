"""Preparing once: killed in the middle, two at a time, and what it gives."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ablate.data.prepared import prepare_once
from ablate.data.shards import read_index, write_shards
from tests.data.support import ROOT, record

SLOW_CONVERSION = """
import sys, time
from pathlib import Path
from ablate.data.prepared import prepare_once
from ablate.data.shards import write_shards
from tests.data.support import record

def records(pause):
    for i in range(8):
        yield record(i)
        time.sleep(pause)

def convert(directory):
    with open(sys.argv[2], "a") as log:
        log.write("convert\\n")
    write_shards(directory, records(float(sys.argv[3])), per_shard=2)

prepare_once(Path(sys.argv[1]), convert)
"""


def start(target: Path, log: Path, pause: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", SLOW_CONVERSION, str(target), str(log), str(pause)]
    return subprocess.Popen(command, cwd=ROOT)


def convert(directory: Path) -> None:
    write_shards(directory, map(record, range(8)), per_shard=2)


def test_killed_in_the_middle_is_done_again(tmp_path: Path) -> None:
    target, log = tmp_path / "cache" / "set", tmp_path / "log"
    process = start(target, log, 1.0)
    partial = tmp_path / "cache" / ".set.partial"
    deadline = time.monotonic() + 60
    while not (partial / "shard-000000.tar").exists():
        assert process.poll() is None, "the conversion ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.exists()
    assert not target.exists()

    prepare_once(target, convert)
    convert(tmp_path / "reference")
    assert read_index(target) == read_index(tmp_path / "reference")
    assert not partial.exists()


def test_two_at_the_same_time_convert_once(tmp_path: Path) -> None:
    target, log = tmp_path / "cache" / "set", tmp_path / "log"
    processes = [start(target, log, 0.05) for _ in range(2)]
    assert [p.wait(timeout=120) for p in processes] == [0, 0]
    assert log.read_text() == "convert\n"
    assert read_index(target)["samples"] == 8


def test_failed_conversion_leaves_nothing_whole(tmp_path: Path) -> None:
    def fail(directory: Path) -> None:
        write_shards(directory, [])
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        prepare_once(tmp_path / "set", fail)
    assert not list(tmp_path.glob("*set")) + list(tmp_path.glob("*set.partial"))
    prepare_once(tmp_path / "set", convert)
    assert read_index(tmp_path / "set")["samples"] == 8


def test_prepared_is_not_converted_again(tmp_path: Path) -> None:
    prepare_once(tmp_path / "set", convert)
    prepare_once(tmp_path / "set", lambda directory: pytest.fail("converted twice"))


def test_resume_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / ".set.partial").mkdir()
    (tmp_path / ".set.partial" / "kept").write_text("")
    seen: list[str] = []
    prepare_once(tmp_path / "set", lambda d: seen.extend(p.name for p in d.iterdir()), resume=True)
    assert seen == ["kept"]
