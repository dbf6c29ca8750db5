"""Decoding: from a prompt's embeddings to new tokens, by any backbone, greedily or sampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ablate.components.backbones import Backbone, Likeliest
from ablate.models.seeding import derive


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: divides the logits before the softmax; 0 takes the likeliest token.
        top_k: sample among so many likeliest tokens; None: among all.
        top_p: sample among the likeliest tokens that together reach this probability, of those
            that ``top_k`` left (nucleus sampling, Holtzman et al., 2020).
        seed: row i of a batch draws from its own stream, made of this seed and i alone. The same
            seed gives the same tokens, whatever the other rows are and however many.

    Raises:
        ValueError: a value out of its range, or ``top_k`` or ``top_p`` without a temperature.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ValueError(f"temperature must be 0 (greedy) or above, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k is a number of tokens, 1 or more, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is a probability, 0 < top_p <= 1, not {self.top_p}")
        if self.temperature == 0 and (self.top_k is not None or self.top_p < 1):
            raise ValueError(
                "top_k and top_p have no effect on greedy decoding; set a temperature above 0"
            )


GREEDY = Sampling()


@dataclass(frozen=True)
class Generation:
    """Continuations of a batch.

    Attributes:
        tokens: (B, T) ids; a row that has ended repeats the stop token that ended it.
        lengths: (B,) tokens of each row before its stop token.
        first_logits: (B, vocab_size) float32, for the first new token; choices are scored by them.
    """

    tokens: Tensor
    lengths: Tensor
    first_logits: Tensor


@torch.inference_mode()
def generate(
    backbone: Backbone,
    embeds: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    stop_ids: Sequence[int] = (),
    sampling: Sampling = GREEDY,
    vocab_size: int | None = None,
    on_tokens: Callable[[Tensor], None] | None = None,
    state: Any = None,
) -> Generation:
    """Continue a batch of prompts until each row has ended.

    Args:
        backbone: the language model, in evaluation mode.
        embeds: (B, L, d_model) prompts, padded on the left.
        attention_mask: (B, L), 0 on padding; None without padding.
        max_new_tokens: the longest continuation.
        stop_ids: a row ends with the first of these.
        sampling: how a token is chosen.
        vocab_size: the tokenizer's size; later rows of the head are padding and never generated.
        on_tokens: called with each step's ids (B,) as soon as they are chosen. On a GPU the ids may
            still be under way, and steps follow after all rows have ended that ``tokens`` lacks.
        state: what the backbone has read before; it has room for the prompts and what follows, and
            is the caller's no more. None: nothing.

    Raises:
        ValueError: ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be 1 or more, not {max_new_tokens}")
    batch, length = embeds.shape[:2]
    if state is None:
        state = backbone.init_state(batch, length + max_new_tokens)
    first = backbone.prefill(embeds, state, attention_mask)[:, :vocab_size].float()
    stops = torch.tensor(list(stop_ids), dtype=torch.long, device=embeds.device)
    noise = _noise(sampling, batch, max_new_tokens).to(embeds.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=embeds.device)
    look_every = _look_every(embeds.device)
    greedy = Likeliest(vocab_size) if sampling.temperature == 0 else None
    tokens: list[Tensor] = []
    decode = None
    ids = _choose(first, noise[:, 0], sampling)
    while True:
        if len(stops):
            ids = torch.where(ended, tokens[-1] if tokens else ids, ids)
            ended = _is_stop(ids, stops)
        tokens.append(ids.clone())  # the decoder may write over those that it gave
        if on_tokens is not None:
            on_tokens(tokens[-1])
        look = len(stops) > 0 and len(tokens) % look_every == 0
        if len(tokens) == max_new_tokens or (look and bool(ended.all())):
            return _trimmed(torch.stack(tokens, dim=1), stops, first)
        # Made only now: a decoder may cost much to prepare, and one token needs none.
        decode = decode or backbone.decoder(state, greedy)
        output = decode(ids)
        ids = output
        if greedy is None:
            ids = _choose(output[:, :vocab_size].float(), noise[:, len(tokens)], sampling)


def _look_every(device: torch.device) -> int:
    """Tokens between two looks at whether all rows have ended; on a GPU each look waits for it."""
    return 8 if device.type == "cuda" else 1


def _trimmed(tokens: Tensor, stops: Tensor, first_logits: Tensor) -> Generation:
    """The result, without the steps that came after all rows had ended."""
    lengths = (~_is_stop(tokens, stops)).sum(1)
    return Generation(tokens[:, : int(lengths.max()) + 1], lengths, first_logits)


def _is_stop(ids: Tensor, stops: Tensor) -> Tensor:
    return (ids[..., None] == stops).any(-1)


def _noise(sampling: Sampling, rows: int, steps: int) -> Tensor:
    """Uniform numbers (rows, steps), one per token: the same on every device, drawn once."""
    if sampling.temperature == 0:
        return torch.zeros(rows, steps, device="cpu")
    streams = [torch.Generator("cpu") for _ in range(rows)]
    for row, generator in enumerate(streams):
        generator.manual_seed(derive(sampling.seed, f"generation/{row}"))
    return torch.stack([torch.rand(steps, generator=g, device="cpu") for g in streams])


def _choose(logits: Tensor, noise: Tensor, sampling: Sampling) -> Tensor:
    """The next token of each row: the likeliest, or that where the distribution reaches ``noise``.

    Args:
        logits: (B, V), float32.
        noise: (B,), in [0, 1).
        sampling: how to choose.

    Returns:
        (B,) ids.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    likeliest, ids = logits.sort(dim=-1, descending=True, stable=True)
    below = likeliest[:, : sampling.top_k] - likeliest[:, :1]  # however low the temperature, no inf
    chances = (below / sampling.temperature).softmax(-1)
    # In double: the sums stay increasing over a large vocabulary, and below their scaled end.
    reached = chances.double().cumsum(-1)
    # The nucleus is a prefix: tokens are in it while those before have not reached top_p.
    size = (reached - chances < sampling.top_p).sum(-1, keepdim=True)
    target = noise[:, None] * reached.gather(-1, size - 1)
    chosen = torch.searchsorted(reached, target, right=True)
    return ids.gather(-1, chosen)[:, 0]
