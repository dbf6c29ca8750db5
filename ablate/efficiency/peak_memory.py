"""Peak memory of one measurement, on a GPU or in a process."""

from __future__ import annotations

import gc
import resource
from pathlib import Path

import psutil
import torch

from ablate.units import MIB


class MemoryMeter:
    """Peak memory over that of the process when this was made: weights, activations and state.

    On a GPU it is what torch has allocated, on a CPU what is resident.

    Args:
        device: where the model will be.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = 0 if device.type == "cuda" else psutil.Process().memory_info().rss

    def reset(self) -> None:
        """Forget the peak so far; where the system cannot (macOS), it stays the process's."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self._device)
        elif _STATUS.is_file():
            _STATUS.with_name("clear_refs").write_text("5")  # man 5 proc: resets VmHWM

    def peak_mib(self) -> float:
        """MiB since the last ``reset``."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device) / MIB
        return (_resident_peak() - self._before) / MIB


_STATUS = Path("/proc/self/status")


def _resident_peak() -> int:
    """Bytes; on Linux the peak that can be reset, which is not getrusage's."""
    if not _STATUS.is_file():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS
    line = next(x for x in _STATUS.read_text().splitlines() if x.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
