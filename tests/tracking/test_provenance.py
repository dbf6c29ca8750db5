"""Provenance never stops a sweep: what cannot be read is recorded as such."""

from __future__ import annotations

import json
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

import psutil
import pytest
import torch

from ablate.tracking import provenance
from ablate.tracking.provenance import NOT_READ, environment, git_state, is_dead, this_process

LATIN_1 = b"caf\xe9\n"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, as the working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    Path("notes.tex").write_bytes(LATIN_1)
    git("init", "-q", ".")
    git("add", "notes.tex")
    git("-c", "user.email=a@b", "-c", "user.name=n", "commit", "-qm", "one")
    return tmp_path


def git(*words: str) -> None:
    subprocess.run(["git", *words], check=True)


def test_a_diff_that_is_not_utf_8_is_kept(repository: Path) -> None:
    (repository / "notes.tex").write_bytes(LATIN_1 * 2)
    state = git_state()
    assert len(state["commit"]) == 40
    assert state["status"] == " M notes.tex\n"
    assert state["diff"].endswith("\n caf\\xe9\n+caf\\xe9\n")


def test_a_huge_diff_is_cut(repository: Path) -> None:
    (repository / "notes.tex").write_bytes(b"all is changed\n" * 200_000)
    diff = git_state()["diff"]
    assert diff.startswith("diff --git a/notes.tex")
    assert provenance.GIT_BYTES < len(diff) < provenance.GIT_BYTES + 100
    assert diff.endswith("bytes in all]")


def test_a_diff_is_text_whatever_git_is_told_to_show(repository: Path) -> None:
    git("config", "diff.external", "false")
    git("config", "color.ui", "always")
    (repository / "notes.tex").write_text("changed\n")
    assert git_state()["diff"].endswith("\n+changed\n")


def test_a_repository_without_a_commit(repository: Path) -> None:
    new = repository / "new"
    new.mkdir()
    git("init", "-q", str(new))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(new)
        state = git_state()
    assert state["commit"].startswith(f"{NOT_READ}: fatal: ")
    assert state["status"] == ""


def test_git_that_refuses_or_hangs_is_recorded(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = repository / "bin" / "git"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'fatal: detected dubious ownership' >&2; exit 128\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/bin:/usr/bin")
    assert git_state()["commit"] == f"{NOT_READ}: fatal: detected dubious ownership"
    fake.write_text("#!/bin/sh\nexec sleep 5\n")
    monkeypatch.setattr(provenance, "GIT_SECONDS", 0.1)
    assert "timed out" in git_state()["diff"]


def test_no_git_or_no_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_state() == {}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state() == {}


def test_what_is_half_installed_is_recorded_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "left_over.egg-info").mkdir()
    nameless = tmp_path / "nameless-1.0.dist-info"
    nameless.mkdir()
    (nameless / "METADATA").write_text("Metadata-Version: 2.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    packages = environment()["packages"]
    assert packages["torch"] == version("torch")
    assert packages[str(tmp_path / "left_over.egg-info")].startswith(NOT_READ)
    assert packages[str(nameless)].startswith(NOT_READ)


def test_a_machine_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise RuntimeError("the driver is too old")

    monkeypatch.setattr(torch.cuda, "device_count", refuse)
    monkeypatch.setattr(psutil, "virtual_memory", refuse)
    found = environment()
    why = f"{NOT_READ}: RuntimeError: the driver is too old"
    assert found["gpus"] == found["memory_gib"] == why


def test_a_process_that_ended_is_dead_though_its_parent_has_not_noticed() -> None:
    place, _, _ = json.loads(this_process())
    with subprocess.Popen(["sleep", "60"]) as child:
        started = psutil.Process(child.pid).create_time()
        described = json.dumps([place, child.pid, started])
        assert not is_dead(described)
        child.kill()
        while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.01)
        assert is_dead(described)
    assert is_dead(described)
    assert not is_dead(this_process())
