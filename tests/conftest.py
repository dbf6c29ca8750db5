"""Settings of the whole test run."""

from __future__ import annotations

import os

# Two workers (-n 2) on two cores: more threads in each would only wait for each other. Set before
# torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
