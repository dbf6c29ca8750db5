"""A very small sweep, and the command line as tests use it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import yaml

from ablate.processes.messages import Reporter

SWEEPS = Path(__file__).parents[1] / "sweeps"

BASE = {
    "encoder": {
        "name": "timm",
        "args": {"model": "tiny", "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2}},
    },
    "connector": "linear",
    "backbone": {"name": "mamba2", "args": {"d_model": 32, "n_layer": 1}},
    "data": {"name": "easy-vqa", "max_length": 32},
    "train": {"max_steps": 3, "batch_size": 4, "log_every": 1},
    "evaluate": {"benchmarks": ["easy-vqa"], "limit": 12},
    "measure": {"repeats": 1, "new_tokens": 2, "batch_size": 2},
}


class Quiet(Reporter):
    """A reporter that keeps nothing and goes on; a test says what it wants to know."""

    def recorded(self) -> bool:
        """See ``Reporter``."""
        return True

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        """See ``Reporter``."""
        return True


def write(path: Path, values: object) -> Path:
    """A YAML file of these values."""
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def ablate(*arguments: str) -> int:
    """Run the command line in this process; its exit code."""
    from ablate.cli.main import main

    try:
        main(list(arguments))
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def runs(kind: str) -> list:
    """The runs of a kind in the working folder's store."""
    from ablate.tracking.store import Tracker

    return Tracker().search(kind=kind)


def start(house: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start the command line in a process, and a process group, of its own."""
    command = [sys.executable, "-m", "ablate", *arguments]
    quiet = subprocess.DEVNULL  # not a pipe, which an orphan would keep open
    # A test run in a shell's background ignores Ctrl-C, and so would what it starts.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen(
        command, cwd=house, stdout=quiet, stderr=quiet, preexec_fn=heed, start_new_session=True
    )


def wait_for(condition: object, seconds: float = 120) -> None:
    """Ask until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.3)


SLOW, COUNT = "slow", "count"
"""While a file SLOW is there, a step of ``slow_sweep`` takes long; COUNT grows by a byte each."""


def slow_sweep(house: Path, steps: int, checkpoint_steps: int, **changes: object) -> dict:
    """Write ``long.yaml``, whose cells last as long as a test needs them to; what it holds."""
    (house / "slow_connectors.py").write_text(
        "import time\n"
        "from pathlib import Path\n\n"
        "from torch import nn\n\n"
        "from ablate.components.connectors import Connector\n\n\n"
        "class Slow(Connector):\n"
        "    num_output_tokens = 1\n\n"
        "    def __init__(self, embed_dim, grid, d_model):\n"
        "        super().__init__(embed_dim, grid, d_model)\n"
        "        self.project = nn.Linear(embed_dim, d_model)\n"
        "\n"
        "    def forward(self, features):\n"
        "        if self.training and features.device.type != 'meta':\n"
        f"            with Path('{COUNT}').open('ab') as file:\n"
        "                file.write(b'.')\n"
        f"            if Path('{SLOW}').exists():\n"
        "                time.sleep(0.3)\n"
        "        return self.project(features.mean(1, keepdim=True))\n"
    )
    values = {
        "name": "long",
        "base": "base.yaml",
        "train": {"max_steps": steps, "checkpoint_steps": checkpoint_steps, "log_every": 1},
        "axes": {"connector": [{"slow": {"name": "slow_connectors:Slow"}}]},
        "measure": {"what": []},
        **changes,
    }
    write(house / "long.yaml", values)
    return values
