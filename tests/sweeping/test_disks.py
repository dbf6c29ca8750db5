"""Disks that are full, or may only be read: a line says so, and the same command goes on."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ablate.analysis.held import steps_of
from ablate.tracking import recorder
from ablate.tracking.store import Tracker
from tests.support import COUNT, SLOW, ablate, runs, slow_sweep, wait_for, write

pytestmark = pytest.mark.slow

Disk = Callable[[str], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Makes small disks of their own."""
    made: list[Path] = []

    def make(size: str) -> Path:
        place = tmp_path / f"disk{len(made)}"
        place.mkdir()
        if not mount("-t", "tmpfs", "-o", f"size={size}", "none", place):
            pytest.skip("needs the right to mount a tmpfs")
        made.append(place)
        return place

    yield make
    for place in made:
        subprocess.run(["umount", "-l", str(place)], check=True)


def mount(*words: object) -> bool:
    quiet = subprocess.DEVNULL
    return subprocess.run(["mount", *map(str, words)], stderr=quiet).returncode == 0


def fill(place: Path) -> Path:
    """Leave no room; the file to remove for some."""
    filler = place / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    return filler


def start(house: Path) -> subprocess.Popen[str]:
    """The sweep in a process of its own; with what it prints."""
    command = [sys.executable, "-m", "ablate", "sweep", "long.yaml", "--jobs", "2"]
    both = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=house, **both)  # type: ignore[call-overload]


def begin_slowly(house: Path) -> subprocess.Popen[str]:
    (house / SLOW).touch()
    process = start(house)
    wait_for(lambda: (house / COUNT).exists() and (house / COUNT).stat().st_size > 6)
    return process


def check_whole(steps: int, done: int) -> None:
    """Both cells are finished, with all that belongs to them."""
    cells = [run for run in runs("cell") if run.info.status == "FINISHED"]
    assert len(cells) == 2
    for run in cells:
        assert set(steps_of(run)) == {"train", "evaluate/easy-vqa"}
        points = Tracker().client.get_metric_history(run.info.run_id, "train/loss")
        assert sorted(point.step for point in points) == list(range(1, steps + 1))
        assert {each.path for each in Tracker().client.list_artifacts(run.info.run_id)} >= {
            "model",
            "predictions",
        }
    assert Path(COUNT).stat().st_size == done


def test_a_cache_without_room(
    house: Path, disk: Disk, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trainings go on without checkpoints, and say so once."""
    place = disk("64m")
    monkeypatch.setenv("ABLATE_CACHE", str(place))
    slow_sweep(house, 20, 2, seeds=[0, 1])
    process = begin_slowly(house)
    fill(place)
    time.sleep(3)
    (house / SLOW).unlink()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert printed.count("no checkpoint could be written: ") == 2
    assert "No space left on device" in printed
    check_whole(20, 2 * 20)
    assert not list(place.rglob("*.part"))


def test_a_cache_without_room_for_what_is_prepared(
    house: Path, disk: Disk, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = disk("64m")
    monkeypatch.setenv("ABLATE_CACHE", str(place))
    slow_sweep(house, 5, 2, seeds=[0, 1])
    filler = fill(place)
    assert ablate("sweep", "long.yaml") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "No space left on device" in line
    filler.unlink()
    assert ablate("sweep", "long.yaml") == 0
    check_whole(5, 2 * 5)


@pytest.fixture
def store(house: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = disk("24m")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{place / 'mlflow.db'}")
    return place


def test_a_store_without_room_for_a_while(store: Path, house: Path) -> None:
    slow_sweep(house, 40, 10, seeds=[0, 1])
    process = begin_slowly(house)
    filler = fill(store)
    (house / SLOW).unlink()
    time.sleep(10)
    assert process.poll() is None
    filler.unlink()
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    line = " ".join(printed.split())
    assert "(sqlite3.OperationalError) database or disk is full; asked again for 10" in line
    check_whole(40, 2 * 40)


def test_a_store_without_room(
    store: Path,
    house: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recorder, "PATIENCE_SECONDS", 3)
    slow_sweep(house, 10, 2, seeds=[0])
    assert ablate("sweep", "long.yaml") == 0
    filler = fill(store)
    slow_sweep(house, 10, 2, seeds=[0, 1])
    capsys.readouterr()
    assert ablate("sweep", "long.yaml") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert str(store) in line
    assert "database or disk is full" in line
    filler.unlink()
    assert ablate("sweep", "long.yaml") == 0
    assert "1 cells run, 1 already finished, 0 failed" in capsys.readouterr().out
    check_whole(10, 2 * 10)
    assert "RUNNING" not in {run.info.status for run in runs("cell") + runs("sweep")}


def test_no_room_for_temporary_files(
    house: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sweep ends, its trainings' states saved, and no cell has failed."""
    place = disk("24m")
    monkeypatch.setenv("TMPDIR", str(place))
    slow_sweep(house, 30, 10, seeds=[0, 1])
    process = begin_slowly(house)
    (house / SLOW).unlink()
    while process.poll() is None:  # also the room of files that it removes
        filler = fill(place)
        time.sleep(0.1)
    printed, _ = process.communicate()
    assert process.returncode == 3
    line = " ".join(printed.split())
    assert "found no room on the disk: " in line
    assert f"0.0 MiB for temporary files in {place}" in line
    assert "; the same command goes on" in line
    assert "0 failed, " in line
    assert "FAILED" not in {run.info.status for run in runs("cell")}
    filler.unlink()
    again = start(house)
    again.communicate(timeout=300)
    assert again.returncode == 0
    check_whole(30, (house / COUNT).stat().st_size)
    assert (house / COUNT).stat().st_size <= 2 * (30 + 12)
    assert not list(place.glob("ablate-*"))


def test_a_cache_that_may_only_be_read(
    house: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it holds is enough; or a line says what is missing there."""
    place = disk("64m")
    monkeypatch.setenv("ABLATE_CACHE", str(place))
    slow_sweep(house, 5, 2, seeds=[0])
    assert ablate("sweep", "long.yaml") == 0
    assert mount("-o", "remount,ro", place)
    slow_sweep(house, 5, 2, seeds=[0, 1])
    assert ablate("sweep", "long.yaml") == 0
    printed = capsys.readouterr().out
    assert "1 cells run, 1 already finished, 0 failed" in printed
    assert printed.count("its training cannot be saved on the way: ") == 1
    check_whole(5, 2 * 5)
    other = {"name": "proxy-vqa", "args": {"train_samples": 23}}
    write(house / "other.yaml", {"base": "base.yaml", "data": other, "measure.what": []})
    assert ablate("sweep", "other.yaml") == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "Read-only file system" in line
    assert str(place) in line
    assert mount("-o", "remount,rw", place)
    assert ablate("sweep", "other.yaml") == 0
