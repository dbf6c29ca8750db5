"""How many CPU cores there are for this process."""

from __future__ import annotations

import joblib


def cores_here() -> int:
    """The cores that this process may use, 1 or more.

    As few as its CPU affinity (``taskset``, SLURM), the quota of its container's cgroup and
    ``LOKY_MAX_CPU_COUNT`` allow, where ``os.cpu_count()`` counts the whole machine's.
    """
    return joblib.cpu_count()
