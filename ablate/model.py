"""The vision-language model: encoder -> connector -> [image tokens; text] -> backbone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.config import COMPONENT_ROLES, Policy, RunConfig, digest, to_dict
from ablate.errors import CellError
from ablate.generation import GREEDY, Generation, Sampling, generate
from ablate.layers import registry
from ablate.lora import add_adapters
from ablate.recompute import checkpoint_activations
from ablate.seeding import stream
from components.backbones import Backbone
from components.connectors import Connector
from components.encoders import Encoder
from data.text import IGNORE_INDEX


class IncompatibleError(ValueError):
    """Components that cannot be built, alone or together; ``role`` is the one that refused."""

    def __init__(self, role: str, message: str) -> None:
        super().__init__(message)
        self.role = role


class VisionLanguageModel(nn.Module):
    """Image tokens first, then text; only answers are supervised.

    Args:
        vocab_size: the tokenizer's size; the backbone may pad it, and a padding row is never
            generated.
    """

    def __init__(
        self, encoder: Encoder, connector: Connector, backbone: Backbone, vocab_size: int
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.backbone = backbone
        self.vocab_size = vocab_size

    def image_tokens(self, pixels: Tensor | dict[str, Tensor]) -> Tensor:
        """Images -> (B, num_output_tokens, d_model)."""
        return self.connector(self.encoder(pixels))

    def loss(self, pixels: Any, input_ids: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and accuracy over the supervised tokens of a right-padded batch.

        Args:
            pixels: the batch's images.
            input_ids: (B, L) text tokens, padded on the right.
            labels: (B, L), ``IGNORE_INDEX`` where not supervised.

        Returns:
            Two scalars: the loss, and the share of supervised tokens that are the most likely.

        Raises:
            CellError: no token in the batch is supervised (the mean would silently be 0 or NaN).
        """
        supervised = labels != IGNORE_INDEX
        if not bool(supervised.any()):
            raise CellError("a batch holds no supervised token: every label is masked")
        image = self.image_tokens(pixels)
        embeds = torch.cat([image, self.backbone.embed(input_ids).to(image.dtype)], dim=1)
        # The backbone is causal, so padding on the right needs no mask. The last position predicts
        # nothing, and the head runs only where a label is: its logits dominate memory otherwise.
        hidden = self.backbone.hidden_states(embeds[:, :-1])[:, image.shape[1] - 1 :]
        logits = self.backbone.head(hidden[supervised]).float()
        targets = labels[supervised]
        accuracy = (logits.detach().argmax(-1) == targets).float().mean()
        return F.cross_entropy(logits, targets), accuracy

    @torch.inference_mode()
    def generate(
        self,
        pixels: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling = GREEDY,
        on_tokens: Callable[[Tensor], None] | None = None,
    ) -> Generation:
        """Continue a batch of prompts about images: see ``ablate.generation.generate``.

        Args:
            pixels: the batch's images.
            input_ids: (B, L) prompts, padded on the left.
            attention_mask: (B, L), 0 on padding.
            max_new_tokens, stop_ids, sampling, on_tokens: as there.
        """
        embeds, mask = self.prompt(pixels, input_ids, attention_mask)
        return generate(
            self.backbone,
            embeds,
            mask,
            max_new_tokens=max_new_tokens,
            stop_ids=stop_ids,
            sampling=sampling,
            vocab_size=self.vocab_size,
            on_tokens=on_tokens,
        )

    def prompt(
        self, pixels: Any, input_ids: Tensor, attention_mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Left-padded text -> left-padded [image; text]: the padding moves in front of the image.

        Returns:
            Embeddings (B, N + L, d_model) and their mask (B, N + L), or None without padding.
        """
        image = self.image_tokens(pixels)
        both = torch.cat([image, self.backbone.embed(input_ids).to(image.dtype)], dim=1)
        padding = (attention_mask == 0).sum(1, keepdim=True)
        if not bool(padding.any()):
            return both, None
        n = image.shape[1]
        position = torch.arange(both.shape[1], device=both.device)[None]
        source = torch.where(position < padding + n, position - padding, position)
        source = torch.where(position < padding, position + n, source)
        moved = both.gather(1, source[..., None].expand(-1, -1, both.shape[-1]))
        return moved, (position >= padding).long()


def build_model(
    config: RunConfig, vocab_size: int, built: dict[str, Any] | None = None
) -> VisionLanguageModel:
    """A run's model as it is trained: ``assemble``, then ``apply_policies``.

    Raises:
        IncompatibleError: a component refused its arguments, its neighbour or its policy.
    """
    model = assemble(config, vocab_size, built)
    apply_policies(model, config)
    return model


def assemble(
    config: RunConfig, vocab_size: int, built: dict[str, Any] | None = None
) -> VisionLanguageModel:
    """The components alone; each is initialised from its own stream of the run's seed.

    Weights from files are loaded between this and ``apply_policies``: adapters rename layers.

    Args:
        config: the run.
        vocab_size: the tokenizer's size.
        built: components built before, to be taken again where all that shapes them is equal; for
            plans, which build many models on the meta device and train none.

    Raises:
        IncompatibleError: a component refused its arguments or its neighbour.
    """
    built = {} if built is None else built

    def build(role: str, *given: Any) -> Any:
        component = getattr(config, role)
        key = digest([role, to_dict(component), to_dict(given)])
        if key in built:
            return built[key]
        try:
            with stream(config.seed, f"init/{role}"):
                built[key] = registry(role).get(component.name)(*given, **component.args)
        except ValueError as error:
            raise IncompatibleError(role, f"{role} {component.name!r}: {error}") from error
        return built[key]

    encoder = build("encoder")
    backbone = build("backbone", vocab_size)
    connector = build("connector", encoder.embed_dim, encoder.grid, backbone.d_model)
    return VisionLanguageModel(encoder, connector, backbone, vocab_size)


def apply_policies(model: VisionLanguageModel, config: RunConfig) -> None:
    """Freeze components or give them adapters, and checkpoint activations, as the run asks.

    Raises:
        IncompatibleError: a component without a layer that could have an adapter.
    """
    for role in COMPONENT_ROLES:
        component, chosen = getattr(model, role), getattr(config, role)
        if chosen.policy is Policy.freeze:
            component.requires_grad_(False)
        elif chosen.policy is Policy.lora:
            try:
                with stream(config.seed, f"lora/{role}"):
                    add_adapters(component, chosen.lora)
            except ValueError as error:
                raise IncompatibleError(role, f"{role} {chosen.name!r}: {error}") from error
        if config.train.activation_checkpointing:
            checkpoint_activations(component)


def parameter_counts(model: VisionLanguageModel) -> dict[str, int]:
    """Parameters by component, in all, and those that are trained."""
    counts = {
        role: sum(p.numel() for p in getattr(model, role).parameters()) for role in COMPONENT_ROLES
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {**counts, "total": sum(counts.values()), "trainable": trained}
