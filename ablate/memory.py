"""What training holds in memory besides activations, from a model without memory of its own.

Lightning's bf16-mixed keeps every weight in float32 and casts inside each operation, so that there
is no second, low-precision copy to count: 4 bytes a weight, and for a trained one 4 more for its
gradient and 8 for AdamW's two moments. Not counted, as they depend on the batch: activations, and
the bf16 casts of weights that autocast keeps during a step.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ablate.config import COMPONENT_ROLES
from ablate.model import VisionLanguageModel

STEP_BYTES = 4
"""AdamW's count of steps, a float32 for each trained tensor."""


@dataclass(frozen=True)
class Memory:
    """Bytes of a model, or of one component, in training on one device."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """All three, in bytes."""
        return self.weights + self.gradients + self.optimizer


def training_memory(model: VisionLanguageModel) -> dict[str, Memory]:
    """Memory by component and in all (``total``), with the policies that the model was built with.

    The model may be on the meta device.
    """
    found = {role: module_memory(getattr(model, role)) for role in COMPONENT_ROLES}
    return {**found, "total": module_memory(model)}


def memory_figures(model: VisionLanguageModel) -> dict[str, int]:
    """``training_memory`` as bytes ``memory/<component>``, ``memory/<kind>``, ``memory/total``."""
    found = training_memory(model)
    total = found["total"]
    figures = {f"memory/{name}": memory.total for name, memory in found.items()}
    kinds = ("weights", "gradients", "optimizer")
    return figures | {f"memory/{kind}": getattr(total, kind) for kind in kinds}


def module_memory(module: nn.Module) -> Memory:
    """Weights and buffers; gradients and AdamW's state of those weights that are trained."""
    held = [*module.parameters(), *module.buffers()]
    trained = [p for p in module.parameters() if p.requires_grad]
    gradients = sum(p.nbytes for p in trained)
    return Memory(
        weights=sum(t.nbytes for t in held),
        gradients=gradients,
        optimizer=2 * gradients + STEP_BYTES * len(trained),
    )
