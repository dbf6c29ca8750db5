"""A cell is a process of its own, whatever cluster it runs on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ablate.config.compose import Layer, compose, expand
from ablate.config.registries import data_set
from ablate.models.vlm import build_model
from ablate.training.fit import fit
from tests.support import BASE

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_JOB_NAME": "train",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "3",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "node01",
}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none",
    "RANK": "5",
    "LOCAL_RANK": "1",
    "GROUP_RANK": "1",
    "WORLD_SIZE": "8",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node01",
    "MASTER_PORT": "29500",
}
LSF = {
    "LSB_JOBID": "77",
    "LSB_DJOB_RANKFILE": "/nowhere/ranks",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_RANK": "1",
    "JSM_NAMESPACE_SIZE": "4",
}
MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_RANK": "1",
    "PMI_SIZE": "4",
}


class Silent:
    """A reporter that tells nobody."""

    def metrics(self, values: dict[str, float], step: int | None = None) -> None: ...

    def progress(self, phase: str, fraction: float) -> None: ...

    def facts(self, values: dict[str, str]) -> None: ...

    def keep_going(self, step: int, values: dict[str, float]) -> bool:
        return True


def trained(cache: Path) -> torch.Tensor:
    """The connector's weights after a training of three steps."""
    config = compose([Layer("test", expand(BASE, "test"))])
    dataset = data_set(config)
    dataset.prepare(cache)
    model = build_model(config, dataset.tokenizer(cache).vocab_size)
    assert fit(config, model, dataset, cache, Silent())
    return torch.cat([p.detach().flatten() for p in model.connector.parameters()])


@pytest.mark.parametrize(
    "cluster", [SLURM, TORCHRUN, LSF, MPI], ids=["SLURM", "torchrun", "LSF", "MPI"]
)
def test_a_cluster_s_variables_change_nothing(
    cluster: dict[str, str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = trained(cache)
    for name, value in cluster.items():
        monkeypatch.setenv(name, value)
    assert torch.equal(trained(cache), alone)
