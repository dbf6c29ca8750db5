"""How large a model is: parameters, and what training holds in memory besides activations.

Lightning's bf16-mixed keeps every weight in float32 and casts inside each operation, so that there
is no second, low-precision copy to count: 4 bytes a weight, and for a trained one 4 more for its
gradient and 8 for AdamW's two moments. Not counted: the bf16 casts of weights that autocast keeps
during a step. Activations are estimated apart, as they depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.models.shapes import check_shapes
from ablate.models.vlm import VisionLanguageModel, build_model, parameter_counts

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


@dataclass(frozen=True)
class ModelSize:
    """What is known of a model before it runs.

    Attributes:
        parameters: their number by component, in all (``total``) and of those that are trained
            (``trainable``).
        memory: in training, by component and in all (``total``).
        image_tokens: embeddings per image that the backbone gets.
        image_bytes: activations of encoder and connector per image, see ``kept_bytes``.
        position_bytes: those of the backbone per position.
    """

    parameters: dict[str, int]
    memory: dict[str, Memory]
    image_tokens: int
    image_bytes: int
    position_bytes: int


def planned_size(config: RunConfig, vocab_size: int, built: dict[str, Any]) -> ModelSize:
    """The size of a run's model, built without memory on the meta device.

    Args:
        config: the run.
        vocab_size: of its tokenizer; 1 for the vocabulary that a backbone was published with.
        built: components of earlier calls, to be used again; see ``build_model``.

    Raises:
        IncompatibleError: components that do not fit each other, or what they announce.
    """
    with torch.device("meta"):
        model = build_model(config, vocab_size, built)
    check_shapes(model, config, built)
    encoder, connector, backbone = kept_bytes(model)
    return ModelSize(
        parameter_counts(model),
        training_memory(model),
        model.connector.num_output_tokens,
        model.encoder.num_tokens * (encoder + connector),
        backbone,
    )


def kept_bytes(model: VisionLanguageModel) -> list[int]:
    """What a training step keeps for its backward pass, about, by component and position.

    What goes into each matrix and what comes out, in float32, and as much again for what stands
    between them (norms, nonlinearities, sums); nothing before the first weight that is trained.
    """
    found, passes = [], False
    for role in COMPONENT_ROLES:
        parameters = list(getattr(model, role).parameters())
        passes = passes or any(p.requires_grad for p in parameters)
        widths = sum(p.shape[0] + p[0].numel() for p in parameters if p.dim() > 1)
        found.append(2 * 4 * widths if passes else 0)
    return found


def training_memory(model: VisionLanguageModel) -> dict[str, Memory]:
    """Memory by component and in all (``total``), with the policies that the model was built with.

    The model may be on the meta device.
    """
    found = {role: module_memory(getattr(model, role)) for role in COMPONENT_ROLES}
    return {**found, "total": module_memory(model)}


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
