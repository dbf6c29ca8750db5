"""Where a device's time goes, by kind of kernel."""

# ruff: noqa: T201
from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

# The first kind whose pattern a kernel's name holds is its kind.
KINDS = {
    "state space": r"scan_kernel|carry_kernel|chunk|steps_|state_passing",
    "convolution": r"conv",
    "norm": r"norm_kernel|norm_backward|layer_norm|_norm_fwd|_norm_bwd",
    "optimiser": r"adam|multi_tensor|lpnorm",
    "attention": r"flash|fmha|sdpa|attention",
    "matrix product": r"gemm|nvjet|cutlass|cublas|xmma",
    "sum": r"reduce",
    "copy and cast": r"copy|Memcpy|Memset|fill",
    "elementwise": r"elementwise|vectorized",
}


def kernel_times(work: Callable[[], Any]) -> dict[str, list[float]]:
    """Milliseconds of each launch of each kernel of one call."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        work()
        torch.cuda.synchronize()
    times: dict[str, list[float]] = defaultdict(list)
    for event in profiled.events() or []:
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[event.name].append(event.device_time / 1e3)
    return times


def kind_of(name: str) -> str:
    """The kind of a kernel."""
    return next((kind for kind, pattern in KINDS.items() if re.search(pattern, name)), "other")


def print_kinds(times: dict[str, list[float]], longest: int = 16) -> None:
    """Print the time by kind, and the kernels that take the longest."""
    kinds: dict[str, list[float]] = defaultdict(list)
    for name, launches in times.items():
        kinds[kind_of(name)] += launches
    total = sum(sum(launches) for launches in times.values())
    print(f"  its kernels, {total:.1f} ms:")
    for kind, launches in sorted(kinds.items(), key=lambda item: -sum(item[1])):
        print(
            f"    {kind:16} {sum(launches):8.2f} ms {sum(launches) / total:6.1%} {len(launches)} x"
        )
    for name, launches in sorted(times.items(), key=lambda item: -sum(item[1]))[:longest]:
        print(f"      {sum(launches):8.2f} ms {len(launches):5} x {name[:90]}")
