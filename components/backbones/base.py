"""The role of a language backbone: embeddings in, next-token logits out, with a state to decode."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from ablate.components.backbones.documents import apart
from ablate.components.needed_files import NeededFile, needed_weights
from ablate.components.registry import Registry


@dataclass(frozen=True)
class Likeliest:
    """The choice of the likeliest token: logits (B, V) -> ids (B,).

    Args:
        vocab_size: the tokenizer's size; later rows of the head are padding and never chosen.
            None: there are none.
    """

    vocab_size: int | None = None

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[:, : self.vocab_size].argmax(-1)


def _selected(state: Any, rows: Tensor) -> Any:
    """See ``Backbone.fork``."""
    if isinstance(state, Tensor):
        return state.index_select(0, rows)
    if isinstance(state, list | tuple):
        return type(state)(_selected(each, rows) for each in state)
    if isinstance(state, dict):
        return {key: _selected(each, rows) for key, each in state.items()}
    if is_dataclass(state) and not isinstance(state, type):
        return replace(
            state, **{f.name: _selected(getattr(state, f.name), rows) for f in fields(state)}
        )
    return state


class Backbone(pl.LightningModule, ABC):
    """A causal language model that takes embeddings, so that image tokens can precede the text.

    The constructor takes ``vocab_size`` by position and its own arguments by keyword only.
    Masks are (B, L), 1 for a token and 0 for padding, on the left, on the right, or None for no
    padding at all; padding never changes the logits of a row's tokens.
    """

    activation_budget: float = 0.0
    """Bytes that the device has for what training keeps of a batch, beyond each layer's input. A
    backbone that chooses what its backward makes anew heeds it; 0: keep no more than inputs."""

    @property
    def units(self) -> list[nn.Module]:
        """The layers, each called as a whole: what several devices share is gathered for one at a
        time. Without any, all weights are at once."""
        return []

    @property
    def capturable(self) -> bool:
        """Whether ``hidden_states`` without a mask, ``head`` and their backward ask the device
        nothing, so that a CUDA graph can hold them."""
        return False

    @property
    @abstractmethod
    def d_model(self) -> int:
        """Width of the embeddings."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Rows of the embedding and the logits: the tokenizer's size, padded if the model pads."""

    @abstractmethod
    def embed(self, ids: Tensor) -> Tensor:
        """Token ids (B, L) -> embeddings (B, L, d_model)."""

    @abstractmethod
    def hidden_states(self, embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings (B, L, d_model) -> final, normalised hidden states (B, L, d_model)."""

    def packed_hidden_states(self, embeds: Tensor, documents: Tensor) -> Tensor:
        """``hidden_states`` of rows of several sequences, none of which sees another.

        Each is read as by itself: positions begin anew. Here in a row of its own; a backbone that
        can read them side by side does.

        Args:
            embeds: (B, L, d_model).
            documents: (B, L); equal numbers side by side are one sequence.
        """
        return apart(self.hidden_states, embeds, documents)

    @abstractmethod
    def head(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., d_model) -> logits (..., vocab_size)."""

    def forward(self, embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Embeddings (B, L, d_model) -> logits (B, L, vocab_size)."""
        return self.head(self.hidden_states(embeds, attention_mask))

    @abstractmethod
    def init_state(self, batch_size: int, max_length: int) -> Any:
        """An empty decoding state for ``batch_size`` rows of at most ``max_length`` positions.

        ``read``, ``prefill`` and ``step`` update the state in place.
        """

    @abstractmethod
    def read(self, embeds: Tensor, state: Any, attention_mask: Tensor | None = None) -> Tensor:
        """Read a prompt, whole or a further chunk of it, into the state.

        Args:
            embeds: (B, L, d_model).
            state: from ``init_state``, of the same batch size.
            attention_mask: (B, L) of this chunk; padding is on its left, so that every row's
                last position is a token.

        Returns:
            Final, normalised hidden states (B, L, d_model), as ``hidden_states`` gives them.
        """

    @torch.inference_mode()
    def prefill(self, embeds: Tensor, state: Any, attention_mask: Tensor | None = None) -> Tensor:
        """``read``, and the logits after the last position, (B, vocab_size)."""
        return self.head(self.read(embeds, state, attention_mask)[:, -1])

    @torch.inference_mode()
    def fork(self, state: Any, rows: Tensor) -> Any:
        """A state of its own for each of these rows of a state, which stays as it is.

        Args:
            state: of this backbone. Here: tensors whose first dimension is the batch, in lists,
                tuples, dictionaries and dataclasses; a backbone that keeps it otherwise overrides.
            rows: (B',) indices, each as often as wanted.
        """
        return _selected(state, rows)

    @abstractmethod
    def step(self, embeds: Tensor, state: Any) -> Tensor:
        """Decode one token: embeddings (B, d_model) -> logits (B, vocab_size)."""

    def decoder(self, state: Any, choose: Likeliest | None = None) -> Callable[[Tensor], Tensor]:
        """``step`` for many tokens, made as fast as the state's device allows.

        Args:
            state: from ``init_state``, already prefilled. Only the decoder may use it from here.
            choose: part of each step, if given.

        Returns:
            A function of token ids (B,) that gives logits (B, vocab_size), or the ids (B,) that
            ``choose`` takes. The next call may write over them.
        """

        def decode(ids: Tensor) -> Tensor:
            logits = self.step(self.embed(ids[:, None])[:, 0], state)
            return logits if choose is None else choose(logits)

        return decode

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """The models of a hub that weights come from; ``args``: the constructor's, as given."""
        return []

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """What must be there before it is built; ``args``: the constructor's, as given.

        Here the weights of ``hub_names``; who reads other files names them, too.
        """
        return needed_weights(cls.hub_names(args))

    @classmethod
    def tokenizer_source(cls, args: Mapping[str, Any]) -> str | None:
        """The model of a hub whose tokenizer its published weights know; None for weights of none.

        ``args``: the constructor's, as given.
        """
        return next(iter(cls.hub_names(args)), None)

    def blueprint(self) -> tuple[str, dict[str, Any]] | None:
        """What builds this backbone again, its weights aside, without the files it was read from.

        Returns:
            A registered name and arguments; None where the backbone's own do, with ``weights`` at
            ``none``.
        """
        return None


BACKBONES: Registry[Backbone] = Registry("backbone", Backbone)  # type: ignore[type-abstract]
