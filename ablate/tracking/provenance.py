"""What a run was made with: the machine, the packages, the source, the process."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from ablate.units import GIB


def this_process() -> str:
    """Place, pid and start time: what tells whether the process of a run still lives."""
    started = psutil.Process().create_time()
    return json.dumps([_place(), os.getpid(), round(started, 2)])


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
        return abs(psutil.Process(pid).create_time() - started) > 1
    except psutil.NoSuchProcess:
        return True


def environment() -> dict[str, Any]:
    """Python, machine, devices and the version of every installed package."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {
        "python": sys.version,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / GIB, 1),
        "gpus": gpus,
        "packages": dict(sorted(packages.items())),
    }


def git_state() -> dict[str, str]:
    """Commit, status and diff of the working folder's repository; empty without one or git."""

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            return ""
        return done.stdout if done.returncode == 0 else ""

    commit = git("rev-parse", "HEAD").strip()
    if not commit:
        return {}
    return {"commit": commit, "status": git("status", "--short"), "diff": git("diff", "HEAD")}
