"""The vision-language model: encoder -> connector -> image tokens and text -> backbone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.backbones import Backbone
from ablate.components.connectors import Connector
from ablate.components.encoders import Encoder
from ablate.components.padding import padding_first
from ablate.config.identity import digest, to_dict
from ablate.config.registries import registry
from ablate.config.schema import COMPONENT_ROLES, Policy, RunConfig
from ablate.data.features import FEATURES
from ablate.data.text import IGNORE_INDEX
from ablate.errors import CellError, reason
from ablate.models.activation_checkpointing import checkpoint_activations
from ablate.models.devices import building_device
from ablate.models.generation import GREEDY, Generation, Sampling, generate
from ablate.models.lora import add_adapters
from ablate.models.seeding import stream

READ = ("pixels", "input_ids", "labels", "has_image", "placed", "image_of", "documents")
"""What the loss reads of a batch of ``TrainCollator``; the last two are there if it is packed."""

UNSUPERVISED = "a batch holds no supervised token: every label is masked"


class IncompatibleError(ValueError):
    """Components that cannot be built, alone or together; ``role`` is the one that refused."""

    def __init__(self, role: str, message: str) -> None:
        super().__init__(message)
        self.role = role


class VisionLanguageModel(nn.Module):
    """Image tokens first or where the text has places for them; only answers are supervised.

    Args:
        vocab_size: the tokenizer's size; the backbone may pad it, and a padding row is never
            generated.
        feature_type: what the encoder's features are rounded to; None for no rounding.
    """

    def __init__(
        self,
        encoder: Encoder,
        connector: Connector,
        backbone: Backbone,
        vocab_size: int,
        feature_type: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.connector = connector
        self.backbone = backbone
        self.vocab_size = vocab_size
        self.feature_type = feature_type

    def image_tokens(self, pixels: Tensor | dict[str, Tensor]) -> Tensor:
        """Images -> (B, num_output_tokens, d_model).

        Args:
            pixels: as the encoder takes them, or ``{FEATURES: (B, N, D)}`` as it put them out.
        """
        return self.connector(self.features(pixels))

    def features(self, pixels: Tensor | dict[str, Tensor]) -> Tensor:
        """Images, as in ``image_tokens`` -> (B, N, D), as the connector is given them."""
        if isinstance(pixels, dict) and FEATURES in pixels:
            return pixels[FEATURES]
        # Laid out as stored features are: sums over strided rows would differ in their last bits.
        features = self.encoder(pixels).contiguous()
        if self.feature_type is None:
            return features
        return features.to(self.feature_type).to(features.dtype)

    def sequence(
        self,
        pixels: Any,
        input_ids: Tensor,
        has_image: Tensor | None = None,
        placed: Tensor | None = None,
        image_of: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """[image; text] of every row; a row without an image has masked zeros in its place.

        Args:
            pixels: the images of the rows, in order; None if there is none.
            input_ids: (B, L) text tokens.
            has_image: (B,) bool, which rows have an image; None: all, or none without ``pixels``.
            placed: where rows have ids for the tokens of all images: their places among the B L
                ids, in order. Nothing is put before the text then, and ``has_image`` is not read.
            image_of: with ``placed``, which of the ``pixels`` each image is; None: in order.

        Returns:
            Embeddings (B, N + L, d_model), N = 0 without ``pixels`` and with ``placed``, and their
            mask (B, N + L), or None where all rows are alike.
        """
        text = self.backbone.embed(input_ids)
        if pixels is None:
            return text, None
        # Not the other way: under autocast the tokens that are decoded are as embedded, too.
        image = self.image_tokens(pixels).to(text.dtype)
        if placed is not None:
            if image_of is not None:
                image = image.index_select(0, image_of)
            both = text.flatten(0, 1).index_copy(0, placed, image.flatten(0, 1))
            return both.view_as(text), None
        if len(image) == len(text):
            return torch.cat([image, text], dim=1), None
        assert has_image is not None
        n = image.shape[1]
        # Not by assignment to the rows that have one, whose number the device would be asked for.
        image_of_row = (has_image.cumsum(0) - 1).clamp(min=0)
        own = image.index_select(0, image_of_row)
        own = torch.where(has_image[:, None, None], own, 0.0)
        mask = input_ids.new_ones(len(text), n + input_ids.shape[1])
        mask[~has_image, :n] = 0
        return torch.cat([own, text], dim=1), mask

    def loss(
        self,
        pixels: Any,
        input_ids: Tensor,
        labels: Tensor,
        has_image: Tensor | None = None,
        supervised: Tensor | None = None,
        placed: Tensor | None = None,
        image_of: Tensor | None = None,
        documents: Tensor | None = None,
        of: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy and accuracy over the supervised tokens of a right-padded batch.

        Args:
            pixels, has_image, placed, image_of: as in ``sequence``.
            input_ids: (B, L) text tokens, padded on the right.
            labels: (B, L), ``IGNORE_INDEX`` where not supervised.
            supervised: ``supervised_tokens`` of the batch; without it a GPU is asked for them,
                which it answers when all its work is done.
            documents: (B, L), with ``placed`` or without images: the numbers of the conversations
                in a row, see ``Backbone.packed_hidden_states``; None: a row is one.
            of: how many tokens the mean is over, if this is a share of the batch, which may hold
                none of them; the shares' losses add up to the batch's.

        Returns:
            Two scalars: the loss, and the share of supervised tokens that are the most likely.

        Raises:
            CellError: no token in the batch is supervised (the mean would silently be 0 or NaN).
        """
        if supervised is None:
            supervised = supervised_tokens(labels, _preceded(pixels, labels, has_image, placed))
        if of is None and not len(supervised):
            raise CellError(UNSUPERVISED)
        sequence = (pixels, input_ids, has_image, placed, image_of)
        logits, targets = self._predictions(sequence, labels, supervised, documents)
        accuracy = (logits.detach().argmax(-1) == targets).float().mean()
        if of is not None:
            return F.cross_entropy(logits, targets, reduction="sum") / of, accuracy
        return F.cross_entropy(logits, targets), accuracy

    @torch.inference_mode()
    def log_probabilities(
        self,
        pixels: Any,
        input_ids: Tensor,
        labels: Tensor,
        has_image: Tensor | None = None,
        placed: Tensor | None = None,
    ) -> Tensor:
        """The log-probability of each row's supervised tokens, given all that comes before each.

        Args:
            pixels, input_ids, labels, has_image, placed: as in ``loss``.

        Returns:
            (B,) float32, sums of natural logarithms over a row's tokens, among the tokens that can
            be generated; 0 for a row without any.
        """
        supervised = supervised_tokens(labels, _preceded(pixels, labels, has_image, placed))
        sequence = (pixels, input_ids, has_image, placed)
        logits, targets = self._predictions(sequence, labels, supervised)
        return summed_log_probabilities(logits[:, : self.vocab_size], targets, supervised, labels)

    def _predictions(
        self,
        sequence: tuple[Any, ...],
        labels: Tensor,
        supervised: Tensor,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Float32 logits (S, vocab_size) of the S supervised tokens, and these tokens (S,)."""
        embeds, mask = self.sequence(*sequence)
        # The last position predicts nothing.
        embeds, mask = embeds[:, :-1], None if mask is None else mask[:, :-1]
        length = labels.shape[1]
        n = embeds.shape[1] + 1 - length
        # The backbone is causal, so padding on the right needs no mask. The head runs only where a
        # label is: its logits dominate memory otherwise.
        if documents is None:
            hidden = self.backbone.hidden_states(embeds, mask).flatten(0, 1)
        else:
            hidden = self.backbone.packed_hidden_states(embeds, documents[:, :-1]).flatten(0, 1)
        before = supervised // length * embeds.shape[1] + n + supervised % length - 1
        logits = self.backbone.head(hidden.index_select(0, before)).float()
        return logits, labels.flatten().index_select(0, supervised)

    @torch.inference_mode()
    def generate(
        self,
        pixels: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        *,
        has_image: Tensor | None = None,
        placed: Tensor | None = None,
        max_new_tokens: int,
        stop_ids: Sequence[int],
        sampling: Sampling = GREEDY,
        on_tokens: Callable[[Tensor], None] | None = None,
    ) -> Generation:
        """Continue a batch of prompts about images: see ``ablate.models.generation.generate``.

        Args:
            pixels, has_image, placed: as in ``sequence``.
            input_ids: (B, L) prompts, padded on the left.
            attention_mask: (B, L), 0 on padding.
            max_new_tokens, stop_ids, sampling, on_tokens: as there.
        """
        embeds, mask = self.prompt(pixels, input_ids, attention_mask, has_image, placed)
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
        self,
        pixels: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        has_image: Tensor | None = None,
        placed: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Left-padded text -> left-padded [image; text]: the padding moves in front of the image.

        Args:
            pixels, has_image, placed: as in ``sequence``.
            input_ids: (B, L) text tokens, padded on the left.
            attention_mask: (B, L), 0 on padding.

        Returns:
            Embeddings (B, N + L, d_model) and their mask (B, N + L), or None without padding.
        """
        both, mask = self.sequence(pixels, input_ids, has_image, placed)
        padding = (attention_mask == 0).sum(1, keepdim=True)
        if mask is None and not bool(padding.any()):
            return both, None
        if placed is not None:
            return both, attention_mask
        moved = padding_first(both, both.shape[1] - input_ids.shape[1], padding[:, 0])
        if mask is not None:  # where there is no image, its place is padding, too
            padding = padding + (mask == 0).sum(1, keepdim=True)
        position = torch.arange(both.shape[1], device=both.device)[None]
        return moved, (position >= padding).long()


def summed_log_probabilities(
    logits: Tensor, targets: Tensor, supervised: Tensor, labels: Tensor
) -> Tensor:
    """The log-probability of each row's supervised tokens, (B,); 0 for a row without any.

    Args:
        logits: (S, V) float32, of the tokens that can be generated.
        targets: (S,) the supervised tokens.
        supervised: (S,) their places, as ``supervised_tokens`` gives them.
        labels: (B, L).
    """
    tokens = torch.zeros(labels.shape, device=logits.device)
    tokens.view(-1)[supervised] = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    return tokens.sum(1)


def supervised_tokens(labels: Tensor, has_image: Tensor) -> Tensor:
    """Places (S,) of the supervised tokens among all B L text tokens of a batch, row by row.

    Args:
        labels: (B, L), ``IGNORE_INDEX`` where not supervised.
        has_image: (B,) bool: a text's first token is predicted from its image, or not at all.
    """
    wanted = labels != IGNORE_INDEX
    wanted[:, 0] &= has_image
    return wanted.flatten().nonzero().squeeze(1)


def _preceded(
    pixels: Any, labels: Tensor, has_image: Tensor | None, placed: Tensor | None
) -> Tensor:
    """(B,) bool: the rows with an image before their text, see ``sequence``."""
    if has_image is None or pixels is None or placed is not None:
        leads = pixels is not None and placed is None
        return labels.new_full(labels.shape[:1], leads, dtype=torch.bool)
    return has_image


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
        key = digest([role, to_dict(getattr(config, role)), to_dict(given)])
        if key not in built:
            built[key] = build_component(config, role, *given)
        return built[key]

    encoder, rounded = build("encoder"), config.encoder.feature_precision == "bfloat16"
    backbone = build("backbone", vocab_size)
    with _refusals("encoder", config.encoder.name):
        patches = encoder.embed_dim, encoder.grid
    connector = build("connector", *patches, backbone.d_model)
    feature_type = torch.bfloat16 if rounded else None
    return VisionLanguageModel(encoder, connector, backbone, vocab_size, feature_type)


def build_component(config: RunConfig, role: str, *given: Any) -> Any:
    """One component, initialised from its stream of the run's seed.

    Args:
        config: the run.
        role: encoder, connector or backbone.
        given: what the engine gives to a component of that role.

    Raises:
        IncompatibleError: it refused its arguments.
    """
    component = getattr(config, role)
    here = building_device()
    with _refusals(role, component.name), stream(config.seed, f"init/{role}"), here:
        return registry(role).get(component.name)(*given, **component.args)


@contextmanager
def _refusals(role: str, name: str) -> Iterator[None]:
    """What a component raises, as an ``IncompatibleError`` that names it."""
    try:
        yield
    except Exception as error:
        raise IncompatibleError(role, f"{role} {name!r}: {reason(error)}") from error


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


def weight_bytes(model: VisionLanguageModel) -> int:
    """Bytes of all parameters and buffers."""
    return sum(tensor.nbytes for tensor in model.state_dict().values())


def parameter_counts(model: VisionLanguageModel) -> dict[str, int]:
    """Parameters by component, in all, and those that are trained."""
    counts = {
        role: sum(p.numel() for p in getattr(model, role).parameters()) for role in COMPONENT_ROLES
    }
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {**counts, "total": sum(counts.values()), "trainable": trained}
