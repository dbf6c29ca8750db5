"""What is installed, what runs by which path here, where things are kept, and what to do."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil
import torch

from ablate.analysis.connect import sqlite_file, tracking_uri
from ablate.analysis.results import ResultsError, open_store, parents
from ablate.components.scans.kernels import why_missing
from ablate.config.schema import TrainConfig
from ablate.cores import cores_here
from ablate.data.caches import KINDS, OTHERS, UNUSED_DAYS, Entry, unused
from ablate.errors import StoreError
from ablate.models.devices import device_here, precision
from ablate.sweeping.study_store import storage_url
from ablate.tracking.provenance import MATTER, versions
from ablate.units import GIB, in_words

LEAST_FREE = 5 * GIB
"""Bytes of room below which it is told."""
PORTABLE = "portable, by PyTorch"
NO_BYTECODE = "PYTHONDONTWRITEBYTECODE"


@dataclass
class Checkup:
    """What was found.

    Attributes:
        parts: title -> name -> what is to be said of it.
        advice: what the user may do.
    """

    parts: dict[str, dict[str, str]] = field(default_factory=dict)
    advice: list[str] = field(default_factory=list)


def check_up(cache: Path, held: Sequence[Entry]) -> Checkup:
    """Look at this machine and installation.

    Args:
        cache: the cache folder.
        held: what it holds.
    """
    found = Checkup()
    found.parts["installed"] = _installed()
    found.parts["machine"] = _machine(found.advice)
    found.parts["what runs by which path"] = _paths(found.advice)
    found.parts["stores"] = _stores(found.advice)
    found.parts[f"cache {cache}"] = _caches(cache, held, found.advice)
    return found


def _installed() -> dict[str, str]:
    known = versions()
    absent = {name: "not installed" for name in MATTER if name not in known}
    return {**known, **absent}


def _machine(advice: list[str]) -> dict[str, str]:
    memory = psutil.virtual_memory()
    found = {
        "CPU": f"{cores_here()} cores, {memory.total / GIB:.1f} GiB of memory, "
        f"{memory.available / GIB:.1f} free",
        "GPU": "none",
    }
    if torch.cuda.is_available():
        gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        found["GPU"] = ", ".join(f"{g.name}, {g.total_memory / GIB:.0f} GiB" for g in gpus)
    elif shutil.which("nvidia-smi"):
        advice.append(
            f"there is an NVIDIA driver, and torch {torch.__version__} sees no GPU: install a "
            "build of torch for CUDA (pytorch.org/get-started), or see what `nvidia-smi` says"
        )
    if os.environ.get(NO_BYTECODE):
        advice.append(
            f"{NO_BYTECODE} is set, so that each process takes longer to start: export "
            "UV_COMPILE_BYTECODE=1 before packages are installed compiles them once"
        )
    return found


def _paths(advice: list[str]) -> dict[str, str]:
    """By the same conditions as the components choose; see ``kernel: auto``."""
    cuda, triton = torch.cuda.is_available(), find_spec("triton") is not None
    missing = why_missing() if cuda else "no CUDA device"
    theirs = PORTABLE if missing else "mamba-ssm's CUDA kernels"
    own = "our Triton kernels" if cuda and triton else theirs
    if cuda and missing:
        advice.append(f"Mamba runs by its slower portable path: {missing}")
    return {
        "device, precision auto": f"{device_here().type}, {precision(TrainConfig())}",
        "Mamba-1 scan": theirs,
        "Mamba-2 scan, bfloat16": own,
        "Mamba-2 scan, other types": theirs,
        "Mamba-3 scan, bfloat16": theirs,
        "convolution": PORTABLE if missing else "causal-conv1d's CUDA kernel",
        "decoding of Mamba": "our Triton kernels, captured" if cuda and triton else PORTABLE,
        "attention": "PyTorch's scaled_dot_product_attention",
    }


def _stores(advice: list[str]) -> dict[str, str]:
    uri, studies = tracking_uri(), storage_url()
    return {
        f"runs, {uri}": _runs(uri, advice),
        f"studies, {studies}": _kept(sqlite_file(studies)),
    }


def _runs(uri: str, advice: list[str]) -> str:
    """What is in the store; nothing is made where there is none."""
    if (file := sqlite_file(uri)) is not None and not file.exists():
        return _kept(file)
    try:
        client = open_store(uri)
        counts = {kind: len(parents(client, kind)) for kind in ("sweep", "study", "bench")}
    except (ResultsError, StoreError) as error:
        advice.append(str(error))
        return "cannot be read"
    return ", ".join(f"{count} of kind {kind}" for kind, count in counts.items())


def _kept(file: Path | None) -> str:
    if file is None:
        return "a server's"
    return "there" if file.exists() else "none yet, made when first needed"


def _caches(cache: Path, held: Sequence[Entry], advice: list[str]) -> dict[str, str]:
    found = {}
    for kind in (*KINDS, OTHERS):
        mine = [entry for entry in held if entry.kind == kind]
        if mine:
            size = sum(entry.size for entry in mine)
            count = "" if kind == OTHERS else f" in {len(mine)}"
            found[kind] = f"{in_words(size)}{count}"
    idle = unused(list(held))
    if idle:
        amount = in_words(sum(entry.size for entry in idle))
        advice.append(
            f"{amount} of the cache were not used for {UNUSED_DAYS} days, or were left by killed "
            "processes: `ablate doctor --prune` removes them; runs make them again"
        )
    there = next(path for path in (cache, *cache.parents) if path.exists())
    free = shutil.disk_usage(there).free
    found["room left"] = in_words(free)
    if free < LEAST_FREE:
        advice.append(f"{there} has {in_words(free)} left; ABLATE_CACHE names another place")
    return found
