"""Images that a model reads once, and all that is asked about each of them.

The image stands before the text, so that what the backbone holds after it is the same for every
question: its state is forked for each of them, and for the right answer whose probability is asked.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ablate.models.generation import Generation, generate
from ablate.models.vlm import VisionLanguageModel, summed_log_probabilities, supervised_tokens


class ImagesRead:
    """A backbone's state after each of some images.

    Args:
        model: in evaluation mode.
        pixels: of I images, as ``VisionLanguageModel.image_tokens`` takes them.
        room: positions that may follow an image, of a prompt and its answer.
    """

    @torch.inference_mode()
    def __init__(self, model: VisionLanguageModel, pixels: Any, room: int) -> None:
        self.model = model
        # As ``VisionLanguageModel.sequence`` does: under autocast the text stays as embedded.
        none = torch.zeros(1, 0, dtype=torch.long, device=next(model.parameters()).device)
        tokens = model.image_tokens(pixels).to(model.backbone.embed(none).dtype)
        self._state = model.backbone.init_state(len(tokens), tokens.shape[1] + room)
        self._last = model.backbone.read(tokens, self._state)[:, -1:]

    def generate(
        self, image_of_row: Tensor, input_ids: Tensor, attention_mask: Tensor, **how: Any
    ) -> Generation:
        """``VisionLanguageModel.generate`` of rows about these images.

        Args:
            image_of_row: (B,) which image each row is about.
            input_ids, attention_mask: (B, L), padded on the left.
            how: ``max_new_tokens``, ``stop_ids`` and the rest, as there.
        """
        backbone = self.model.backbone
        return generate(
            backbone,
            backbone.embed(input_ids),
            None if bool(attention_mask.all()) else attention_mask,
            state=backbone.fork(self._state, image_of_row),
            vocab_size=self.model.vocab_size,
            **how,
        )

    @torch.inference_mode()
    def log_probabilities(self, image_of_row: Tensor, input_ids: Tensor, labels: Tensor) -> Tensor:
        """``VisionLanguageModel.log_probabilities`` of rows about these images.

        Args:
            image_of_row: as in ``generate``.
            input_ids, labels: (B, L), padded on the right.

        Returns:
            (B,) float32.
        """
        backbone = self.model.backbone
        supervised = supervised_tokens(labels, torch.ones_like(image_of_row, dtype=torch.bool))
        hidden = self._last.index_select(0, image_of_row)
        if labels.shape[1] > 1:  # the last position predicts nothing
            # Padding on the right needs no mask: nothing is read after it.
            state = backbone.fork(self._state, image_of_row)
            read = backbone.read(backbone.embed(input_ids[:, :-1]), state)
            hidden = torch.cat([hidden, read], dim=1)
        logits = backbone.head(hidden.flatten(0, 1).index_select(0, supervised)).float()
        targets = labels.flatten().index_select(0, supervised)
        return summed_log_probabilities(
            logits[:, : self.model.vocab_size], targets, supervised, labels
        )
