"""One training on several devices, by a process each; what they share, and what is saved of it.

Every part of an optimiser step is dealt out to the ranks, and its loss is a mean over the tokens of
all of them: the numbers are those of one device but for the order of sums. Weights are float32, and
so is all that is exchanged; products are bfloat16 where autocast makes them so, as on one device.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
import torch.distributed as dist
from pytorch_lightning.plugins.environments import LightningEnvironment
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ablate.config.schema import COMPONENT_ROLES
from ablate.models.devices import device_here
from ablate.models.vlm import VisionLanguageModel
from ablate.processes.companions import Place

Strategy = Literal["ddp", "fsdp"]
SMALL = 2**20
"""Elements: gradients of fewer are summed over the ranks together."""


def chosen_strategy(wish: Literal["auto", "ddp", "fsdp"], model: VisionLanguageModel) -> Strategy:
    """How devices share a model: of ``auto``, with a copy each if that leaves a GPU a quarter.

    What is trained has gradients and two moments beside its weights, all float32, and a copy of
    these in bfloat16.
    """
    if wish != "auto":
        return wish
    if device_here().type == "cpu":
        return "ddp"
    each = [(p.numel(), p.requires_grad) for p in model.parameters()]
    needed = sum(count * (18 if learns else 6) for count, learns in each)
    room = torch.cuda.get_device_properties(device_here()).total_memory
    return "ddp" if needed < 0.75 * room else "fsdp"


class OneHost(LightningEnvironment):
    """Ranks that ``companions`` has started, each a node of one device to Lightning."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self._place = place
        self._main_port = place.port
        if device_here().type == "cpu":  # a host's own name may not be known to itself
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

    @property
    def creates_processes_externally(self) -> bool:
        """Yes."""
        return True

    @property
    def main_address(self) -> str:
        """This host's."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Where the ranks meet."""
        return self._place.port

    def local_rank(self) -> int:
        """Each is alone on its node."""
        return 0

    def node_rank(self) -> int:
        """The rank."""
        return self._place.rank


class Replicas(DDPStrategy):
    """A copy of the model on each rank; gradients are summed once per optimiser step.

    Not by ``DistributedDataParallel``: its hooks on every gradient of every part of a step would
    take the place of ``summing_in_place``, and its buckets as much memory as the gradients.
    """

    def __init__(self) -> None:
        super().__init__()
        self._part_of_step = False

    def configure_ddp(self) -> None:
        """See to it that all ranks begin with the same."""
        assert self.model is not None
        with torch.no_grad():
            for tensor in self.model.state_dict().values():
                first = tensor.contiguous()
                dist.broadcast(first, 0)
                if first is not tensor:
                    tensor.copy_(first)

    @contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Within, a backward is of a part that others of the step follow."""
        self._part_of_step = True
        try:
            yield
        finally:
            self._part_of_step = False

    def post_backward(self, closure_loss: Tensor) -> None:
        """Sum the gradients after the last part."""
        if not self._part_of_step:
            assert self.model is not None
            sum_over_ranks([p.grad for p in self.model.parameters() if p.grad is not None])


def sum_over_ranks(gradients: list[Tensor]) -> None:
    """Make each tensor the sum of all ranks', in place."""
    large = [g for g in gradients if g.numel() >= SMALL and g.is_contiguous()]
    works = [dist.all_reduce(g, async_op=True) for g in large]
    own = set(map(id, large))
    if small := [g for g in gradients if id(g) not in own]:
        flat = torch.cat([g.flatten() for g in small])
        dist.all_reduce(flat)
        for each, found in zip(small, flat.split([g.numel() for g in small]), strict=True):
            each.copy_(found.view_as(each))
    for work in works:
        work.wait()


class Shards(Replicas):
    """Weights, gradients and moments shared between the ranks: FSDP2 (``fully_shard``).

    A unit of a component is gathered when it runs, the rest for as long as a part of a step takes.
    An encoder that is frozen stays whole on each. Checkpoints are as those of one device.
    """

    def configure_ddp(self) -> None:
        """Share what all ranks have."""
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        super().configure_ddp()
        objective: Any = self.lightning_module.objective  # type: ignore[union-attr]
        model: VisionLanguageModel = objective.model
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        whole = set(model.encoder.parameters()) if is_frozen(model.encoder) else set()
        marks = {name: vars(p) for name, p in objective.named_parameters()}
        units = model.backbone.units + ([] if whole else model.encoder.units)
        for unit in units:
            fully_shard(unit, mesh=mesh)
        fully_shard(objective, mesh=mesh, ignored_params=whole)
        for name, parameter in objective.named_parameters():
            vars(parameter).update(marks[name])  # such as that it does not decay

    def post_backward(self, closure_loss: Tensor) -> None:
        """Gradients have been summed unit by unit."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """All weights as a whole, on the first rank alone."""
        found = super().lightning_module_state_dict()
        whole = {name: self._whole(tensor) for name, tensor in found.items()}
        return whole if self.is_global_zero else {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """All moments as a whole, on the first rank alone."""
        found: Any = super().optimizer_state(optimizer)
        states = {
            index: {name: self._whole(value) for name, value in each.items()}
            for index, each in found["state"].items()
        }
        return {**found, "state": states} if self.is_global_zero else {}

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Share what was saved as a whole."""
        (optimizer,), (saved,) = self.optimizers, checkpoint["optimizer_states"]
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        states = {
            index: {name: _shared_as(value, trained[index]) for name, value in each.items()}
            for index, each in saved["state"].items()
        }
        optimizer.load_state_dict({**saved, "state": states})

    def _whole(self, value: Any) -> Any:
        """A tensor as a whole in the first rank's memory; nothing in the others'."""
        if isinstance(value, DTensor):
            value = value.full_tensor()
        if not isinstance(value, Tensor):
            return value
        return value.detach().cpu() if self.is_global_zero else None


def _shared_as(value: Any, parameter: Any) -> Any:
    if not isinstance(value, Tensor) or value.shape != parameter.shape:
        return value  # such as the number of steps
    mesh, placements = parameter.device_mesh, parameter.placements
    return distribute_tensor(value.to(mesh.device_type), mesh, placements)


def is_frozen(module: nn.Module) -> bool:
    """Whether nothing of it is trained."""
    return not any(p.requires_grad for p in module.parameters())


def without_weights(model: VisionLanguageModel) -> VisionLanguageModel:
    """A copy whose weights are empty, to be loaded; but a frozen encoder is itself."""
    given: dict[int, Any] = {}
    if is_frozen(model.encoder):
        given[id(model.encoder)] = model.encoder
    for parameter in model.parameters():
        empty = nn.Parameter(parameter.new_empty(0, device="cpu"), parameter.requires_grad)
        vars(empty).update(vars(parameter))
        given.setdefault(id(parameter), empty)
    copied = copy.deepcopy(model, given)
    # Activation checkpointing sets forwards on instances, which would run the model itself.
    for role in COMPONENT_ROLES:
        component = getattr(copied, role)
        for part in () if component is model.encoder else component.modules():
            vars(part).pop("forward", None)
    return copied


def summed(values: Tensor) -> Tensor:
    """The sum of all ranks' values; on one device these values."""
    if dist.is_initialized():
        values = values.clone()
        dist.all_reduce(values)
    return values


def ranks_device() -> torch.device:
    """Where a tensor has to be that ranks exchange."""
    return device_here() if dist.is_initialized() else torch.device("cpu")


def told_by_first(value: Any) -> Any:
    """What the first rank has as this value."""
    if not dist.is_initialized():
        return value
    told = [value]
    dist.broadcast_object_list(told, 0)
    return told[0]


def part() -> None:
    """End what the ranks share, after which each is by itself."""
    if dist.is_initialized():
        dist.destroy_process_group()
