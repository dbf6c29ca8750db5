"""Settings of Lightning's ``Trainer``."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.plugins.environments import LightningEnvironment

from ablate.processes.companions import Place
from ablate.training.checkpoints import WholeFiles
from ablate.training.ranks import OneHost, Replicas, Shards, Strategy


def alone() -> dict[str, Any]:
    """Settings of every ``Trainer``: one device, and nothing written or printed."""
    return {
        "accelerator": "auto",
        "devices": 1,
        # A cell is its own process: what SLURM, torchrun, LSF or MPI set is not about it.
        "plugins": [LightningEnvironment(), WholeFiles()],
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def together(place: Place, strategy: Strategy) -> dict[str, Any]:
    """Settings of a ``Trainer`` whose training is also that of other processes."""
    if place.size == 1:
        return alone()
    return {
        **alone(),
        "plugins": [OneHost(place), WholeFiles()],
        "num_nodes": place.size,
        "strategy": Replicas() if strategy == "ddp" else Shards(),
    }
