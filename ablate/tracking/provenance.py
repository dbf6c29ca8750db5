"""What a run was made with: the machine, the packages, the source, the process."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

import psutil

from ablate.cores import cores_here
from ablate.tracking.names import legal_name
from ablate.units import GIB

NOT_READ = "not read"
"""What a record begins with that says why there is none."""
GIT_BYTES = 2**20
"""As much as is kept of what git prints."""
GIT_SECONDS = 60
BEAT_SECONDS, SILENT_SECONDS = 30, 600
"""How often a process says that it lives, and after how long without it is taken as dead."""


def this_process() -> str:
    """Place, pid and start time: what tells whether the process of a run still lives."""
    started = psutil.Process().create_time()
    return json.dumps([_place(), os.getpid(), round(started, 2)])


def machine_name() -> str:
    """``ABLATE_MACHINE``, or this host's name: whose speeds are kept apart from other machines'.

    It is part of metrics' names; what they cannot hold is replaced (``legal_name``).
    """
    name = os.environ.get("ABLATE_MACHINE") or socket.gethostname() or "unknown"
    return legal_name(name.replace("/", "-"))


def _place() -> str:
    """Where a pid means this process: the host, its start, and the container's own pids."""
    marks = [socket.gethostname()]
    with contextlib.suppress(OSError):  # not Linux
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        marks.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(marks)


def is_dead(process: str | None) -> bool:
    """Whether the process that ``this_process`` described is surely gone (of this place alone)."""
    if not process:
        return False
    place, pid, started = json.loads(process)
    if place != _place():
        return False
    try:
        found = psutil.Process(pid)
        ended = found.status() == psutil.STATUS_ZOMBIE  # its parent has not noticed yet
        return ended or abs(found.create_time() - started) > 1
    except psutil.NoSuchProcess:
        return True


def environment() -> dict[str, Any]:
    """Python, machine, devices and the version of every installed package.

    What cannot be read is recorded as such (``NOT_READ``): this never stops a sweep.
    """
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": cores_here(),
        "memory_gib": _known(lambda: round(psutil.virtual_memory().total / GIB, 1)),
        "gpus": _known(_gpus),
        "packages": _known(_packages),
    }


def _known(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except Exception as error:  # whatever another's driver or package raises
        return f"{NOT_READ}: {type(error).__name__}: {error}"


def _gpus() -> list[str]:
    import torch

    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def _packages() -> dict[str, str]:
    """Version by name; one without a name goes by its place."""
    found: dict[str, str] = {}
    for package in distributions():
        place = str(getattr(package, "_path", package))
        try:
            told = package.version or f"{NOT_READ}: it tells no version"
            found[package.metadata["Name"] or place] = told
        except Exception as error:  # an unfinished or removed installation
            found[place] = f"{NOT_READ}: {type(error).__name__}: {error}"
    return dict(sorted(found.items()))


MATTER = (
    "torch",
    "numpy",
    "pytorch-lightning",
    "timm",
    "transformers",
    "tokenizers",
    "pillow",
    "triton",
    "mamba-ssm",
    "causal-conv1d",
)
"""Packages whose versions may move results."""


@functools.cache
def versions() -> dict[str, str]:
    """ablate's own version and commit, Python's, and those of the packages that matter."""
    found = {"ablate": "not installed", "python": platform.python_version()}
    for name in ("ablate-vlm", *MATTER):
        with contextlib.suppress(PackageNotFoundError):
            found[name.removesuffix("-vlm")] = version(name)
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        with contextlib.suppress(FileNotFoundError):  # no git
            edited = _git("status", "--short", "--untracked-files=no", folder=root)
            commit = _git("rev-parse", "--verify", "HEAD", folder=root).strip()
            found["ablate commit"] = f"{commit}, edited" if edited else commit
    return found


def git_state() -> dict[str, str]:
    """Commit, status and diff of the working folder's repository; empty without one or git.

    Bytes that are no UTF-8 appear as ``\\xe9``; a long text is cut; what git refuses is recorded as
    such (``NOT_READ``).
    """
    try:
        place = _git("rev-parse", "--git-dir")
    except FileNotFoundError:
        return {}
    if place.startswith(NOT_READ) and "not a git repository" in place:
        return {}
    return {
        "commit": _git("rev-parse", "--verify", "HEAD").strip(),
        "status": _git("status", "--short"),
        "diff": _git("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color"),
    }


def _git(*words: str, folder: Path | None = None) -> str:
    """What git prints, or why it does not.

    Raises:
        FileNotFoundError: there is no git.
    """
    plain = os.environ | {"LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}
    try:
        done = subprocess.run(
            ["git", *words],
            capture_output=True,
            check=False,
            env=plain,
            timeout=GIT_SECONDS,
            cwd=folder,
        )
    except FileNotFoundError:
        raise
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{NOT_READ}: {error}"
    if done.returncode:
        return f"{NOT_READ}: {_text(done.stderr).strip()}"
    cut = f"\n[cut: {len(done.stdout)} bytes in all]" if len(done.stdout) > GIT_BYTES else ""
    return _text(done.stdout[:GIT_BYTES]) + cut


def _text(said: bytes) -> str:
    return said.decode("utf-8", "backslashreplace")
