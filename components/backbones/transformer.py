"""Any causal transformer of the transformers library, as a backbone."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ablate.components.backbones.base import BACKBONES, Backbone, Likeliest
from ablate.components.backbones.documents import positions
from ablate.components.checkpoints import read_causal_lm
from ablate.components.registry import nearest

if TYPE_CHECKING:
    from ablate.components.backbones.transformer_decode import FixedState, FixedStep
    from ablate.components.backbones.transformer_fused import FusedTransformerStep

_TINY_LLAMA = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}

# What a configuration says of itself, beside settings.
_NO_SETTINGS = ("model_type", "transformers_version", "architectures", "dtype")

# Settings by which an architecture changes its logits after the head, outside what ``head`` calls.
_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling")

# Backbones for what this one does not run, by transformers' model type.
_INSTEAD = {
    "mamba": "mamba1 (mamba-130m to mamba-2.8b take such a directory as weights)",
    "mamba2": "mamba2 (mamba2-130m to mamba2-2.7b take such a directory as weights)",
}


_UNMASKED = "ablate_sdpa_unmasked"
"""The library's ``sdpa`` under a name that it makes no masks for: causal attention alone."""

_ALL_CAUSAL = ("llama", "phi")
"""Architectures in which every layer sees all positions before."""


@dataclass
class TransformerState:
    """Keys and values so far, and which positions were padding.

    Attributes:
        cache: transformers' cache, one layer of keys and values a block.
        mask: (B, seen), 1 for a token; None while no position was padding.
        positions: the next position of each row, (B, 1).
    """

    cache: Any
    mask: Tensor | None
    positions: Tensor


@BACKBONES.register("transformer")
class TransformerBackbone(Backbone):
    """A causal language model built by transformers, from a configuration or a local directory.

    Positions count a row's tokens, so that padding on the left shifts nothing. The defaults make a
    tiny Llama.

    Args:
        vocab_size: the tokenizer's size.
        architecture: transformers' name of the model type ("llama", "phi", "qwen2", ...).
        config: settings that differ from the architecture's defaults; None stands for a tiny model
            where the architecture is "llama", and for its defaults otherwise.
        path: a directory with a pretrained model, instead of ``architecture`` and ``config``.

    Raises:
        ValueError: the architecture or a setting is unknown, both ``path`` and ``config`` are
            given, the model's vocabulary is smaller than the tokenizer's, or the architecture is no
            causal language model, has a recurrent state or no cache, or changes its logits after
            the head.
        FileNotFoundError: ``path`` has no model.
        CheckpointError: the weights in ``path`` are damaged or not this model's as a whole.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        architecture: str = "llama",
        config: dict | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__()
        # transformers takes seconds to import, and only this backbone needs it.
        from transformers import AutoModelForCausalLM

        if path is None:
            resolved = _configuration(vocab_size, architecture, config)
        elif config is None:
            resolved = _pretrained_configuration(Path(path).expanduser())
        else:
            raise ValueError("transformer: give path or config, not both")
        attention = _attention(resolved)
        _check(resolved, vocab_size)
        self.model: Any
        if path is None or torch.get_default_device().type == "meta":
            self.model = AutoModelForCausalLM.from_config(
                resolved, attn_implementation=attention, dtype=torch.get_default_dtype()
            )
        else:
            self.model = read_causal_lm(Path(path).expanduser(), resolved, attention)
        accepted = inspect.signature(self.model.base_model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._cache_argument = _cache_argument(resolved.model_type, accepted)
        self._is_llama = resolved.model_type == "llama"
        self._most_positions = _learnt_positions(self.model)
        self._unmasked = attention == "sdpa" and resolved.model_type in _ALL_CAUSAL
        if self._unmasked:
            _register_unmasked()
        self._tried: bool | None = None

    @property
    def units(self) -> list[nn.Module]:
        depth = self.model.config.get_text_config().num_hidden_layers
        lists = [m for m in self.model.base_model.modules() if isinstance(m, nn.ModuleList)]
        return next((list(each) for each in lists if len(each) == depth), [])

    @property
    def d_model(self) -> int:
        return self.model.get_input_embeddings().embedding_dim

    @property
    def vocab_size(self) -> int:
        return self.model.get_input_embeddings().num_embeddings

    @property
    def capturable(self) -> bool:
        return self._unmasked

    def embed(self, ids: Tensor) -> Tensor:
        return self.model.get_input_embeddings()(ids)

    def hidden_states(self, embeds: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        counted = None
        if attention_mask is not None:
            counted = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        self._check_room(embeds, counted)
        return self._run(embeds, attention_mask, counted, None)

    def packed_hidden_states(self, embeds: Tensor, documents: Tensor) -> Tensor:
        """Side by side where the architecture can tell them apart by positions that begin anew."""
        if not self._separates():
            return super().packed_hidden_states(embeds, documents)
        counted = positions(documents)
        self._check_room(embeds, counted)
        return self._run(embeds, None, counted, None)

    @torch.no_grad()
    def _separates(self) -> bool:
        """Whether a sequence sees nothing of one before it in its row, tried once.

        transformers' ``create_causal_mask`` knows them by their positions, but not every
        architecture gives it these.
        """
        if not self._takes_positions:
            return False
        if self._tried is None:
            ids = torch.tensor([[0, 0, 2, 2], [1, 1, 2, 2]], device=self.device) % self.vocab_size
            trained = self.training
            self.eval()
            counted = positions(torch.tensor([[1, 1, 2, 2]] * 2, device=self.device))
            hidden = self._run(self.embed(ids), None, counted, None)
            self.train(trained)
            self._tried = torch.equal(hidden[0, 2:], hidden[1, 2:])
        return self._tried

    def head(self, hidden: Tensor) -> Tensor:
        return self.model.get_output_embeddings()(hidden)

    def init_state(self, batch_size: int, max_length: int) -> TransformerState:
        """An empty cache with room for ``max_length`` positions."""
        from ablate.components.backbones.kv_cache import preallocated_cache

        layers = self.model.config.get_text_config().num_hidden_layers
        device = self.model.get_input_embeddings().weight.device
        return TransformerState(
            cache=preallocated_cache(layers, max_length),
            mask=None,
            positions=torch.zeros(batch_size, 1, dtype=torch.long, device=device),
        )

    @torch.inference_mode()
    def read(
        self, embeds: Tensor, state: TransformerState, attention_mask: Tensor | None = None
    ) -> Tensor:
        batch, length = embeds.shape[:2]
        seen = state.cache.get_seq_length()
        chunk = attention_mask
        if chunk is None:
            chunk = torch.ones(batch, length, dtype=torch.long, device=embeds.device)
        if attention_mask is not None and state.mask is None:
            state.mask = chunk.new_ones(batch, seen)
        if state.mask is not None:
            state.mask = torch.cat([state.mask, chunk.to(state.mask.dtype)], dim=1)
        counted = chunk.long().cumsum(1)
        positions = (state.positions + counted - 1).clamp(min=0)
        self._check_room(embeds, positions)
        if embeds.is_cuda and state.mask is None and self._is_known():
            hidden = self._read_known(embeds, positions, state.cache)
        else:
            hidden = self._run(embeds, state.mask, positions, state.cache)
        state.positions += counted[:, -1:]
        return hidden

    def _read_known(self, embeds: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """``_run`` without padding, by layers that are known; a prompt's first chunk by a graph."""
        from ablate.components.backbones.captured import read_first
        from ablate.components.backbones.transformer_layers import read_layers

        seen, length = cache.get_seq_length(), embeds.shape[1]
        # Nothing sees the padding, which stands on the right.
        read = None if seen else read_first(self, (), self._first_read, embeds, on_left=False)
        if read is None:
            return read_layers(self.model, embeds, positions, cache.layers)
        hidden, kept = read
        for layer, keys, values in zip(cache.layers, kept[::2], kept[1::2], strict=True):
            layer.update(keys[:, :, :length], values[:, :, :length])
        return hidden

    def _first_read(self, embeds: Tensor, _: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """Hidden states (B, L, d_model), and each layer's keys and values (B, G, L, P)."""
        from ablate.components.backbones.kv_cache import preallocated_cache
        from ablate.components.backbones.transformer_layers import read_layers

        batch, length = embeds.shape[:2]
        positions = torch.arange(length, device=embeds.device).expand(batch, -1)
        layers: Any = preallocated_cache(len(self.model.base_model.layers), length).layers
        hidden = read_layers(self.model, embeds, positions, layers)
        return hidden, [kept for layer in layers for kept in (layer.keys, layer.values)]

    @torch.inference_mode()
    def fork(self, state: TransformerState, rows: Tensor) -> TransformerState:
        """A state of its own for each of these rows, with as much room."""
        from ablate.components.backbones.kv_cache import forked_cache

        mask = None if state.mask is None else state.mask.index_select(0, rows)
        positions = state.positions.index_select(0, rows)
        return TransformerState(forked_cache(state.cache, rows), mask, positions)

    @torch.inference_mode()
    def step(self, embeds: Tensor, state: TransformerState) -> Tensor:
        if state.mask is not None:
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(embeds), 1)], dim=1)
        run = self._run_layers if self._is_llama else self._run
        hidden = run(embeds.unsqueeze(1), state.mask, state.positions, state.cache)
        state.positions += 1
        return self.head(hidden[:, 0])

    @torch.inference_mode()
    def decoder(
        self, state: TransformerState, choose: Likeliest | None = None
    ) -> Callable[[Tensor], Tensor]:
        """On a CUDA device, one captured graph where the architecture allows it, of fused kernels
        where they know it."""
        if not state.positions.is_cuda:
            return super().decoder(state, choose)
        from ablate.components.backbones import transformer_decode as fast
        from ablate.components.backbones.captured import kept_step

        if not (self._takes_positions and fast.capturable(self.model.config.get_text_config())):
            return super().decoder(state, choose)
        cache, batch = state.cache, len(state.positions)
        fused = find_spec("triton") is not None and self._is_known()

        def make() -> fast.CapturedTransformerStep:
            fixed = fast.FixedState(cache, batch)
            step = self._fused(fixed) if fused else self._fixed(fixed)
            return fast.CapturedTransformerStep(step, fixed, choose)

        key = (fused, batch, fast.room(cache), cache.layers[0].keys.dtype, choose)
        return kept_step(self, key, make).start(state)

    def _is_known(self) -> bool:
        """Whether the layers may run without the library."""
        from ablate.components.backbones.transformer_layers import known

        return known(self.model)

    def _fused(self, state: FixedState) -> FusedTransformerStep:
        from ablate.components.backbones.transformer_fused import FusedTransformerStep

        return FusedTransformerStep(self.model, state)

    def _fixed(self, state: FixedState) -> FixedStep:
        """The step of the library's own modules."""
        from ablate.components.backbones.transformer_decode import FixedStep

        return FixedStep(self._run, self.embed, self.head, state)

    def blueprint(self) -> tuple[str, dict[str, Any]]:
        """Its configuration, all settings of which may come from a directory.

        A directory's configuration may also have what the architecture knows nothing of.
        """
        config, architecture = self.model.config, type(self.model.config)()
        settings = {
            key: value
            for key, value in config.to_diff_dict().items()
            if key not in _NO_SETTINGS and hasattr(architecture, key)
        }
        return "transformer", {"architecture": config.model_type, "config": settings}

    def _check_room(self, embeds: Tensor, positions: Tensor | None) -> None:
        """Refuse a sequence that is longer than the positions that the model has learnt.

        Raises:
            ValueError: it is.
        """
        if self._most_positions is None:
            return
        longest = embeds.shape[1] if positions is None else int(positions.max()) + 1
        if longest > self._most_positions:
            raise ValueError(
                f"transformer: {self.model.config.model_type} has learnt {self._most_positions} "
                f"positions, and a sequence of text and images has {longest}; give it fewer or "
                "smaller images or shorter texts, or choose an architecture with rotary positions"
            )

    def _run(
        self, embeds: Tensor, mask: Tensor | None, positions: Tensor | None, cache: Any
    ) -> Tensor:
        placed = {"position_ids": positions} if self._takes_positions else {}
        plain = self._unmasked and mask is None and positions is None and cache is None
        with self._without_masks() if plain else nullcontext():
            output = self.model.base_model(
                inputs_embeds=embeds,
                attention_mask=mask,
                use_cache=cache is not None,
                **{self._cache_argument: cache},
                **placed,
            )
        return output.last_hidden_state

    @contextmanager
    def _without_masks(self) -> Iterator[None]:
        """Keep the library from looking for several sequences in a row.

        It asks the device in every pass, and inside a captured graph, where it cannot, it attends
        by another kernel.
        """
        config = self.model.config
        before, config._attn_implementation = config._attn_implementation, _UNMASKED
        try:
            yield
        finally:
            config._attn_implementation = before

    def _run_layers(
        self, embeds: Tensor, mask: Tensor | None, positions: Tensor, cache: Any
    ) -> Tensor:
        """``_run`` of one position of a Llama, without what the library does around its layers.

        On a CPU that is a fifth of a small model's step.
        """
        base = self.model.base_model
        seen = None if mask is None else mask[:, None, None].bool()
        rotation = base.rotary_emb(embeds, positions)
        hidden = embeds
        for layer in base.layers:
            hidden = layer(
                hidden,
                attention_mask=seen,
                position_embeddings=rotation,
                **{self._cache_argument: cache},
            )
        return base.norm(hidden)


def _register_unmasked() -> None:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.modeling_utils import AttentionInterface

    AttentionInterface.register(_UNMASKED, sdpa_attention_forward)


def _configuration(vocab_size: int, architecture: str, config: dict | None) -> Any:
    """The architecture's configuration with the user's settings."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if architecture not in CONFIG_MAPPING:
        known = nearest(architecture, list(CONFIG_MAPPING)).partition("known: ")[0]
        raise ValueError(
            f"transformer: transformers has no architecture {architecture!r}; {known}"
            "see the model_type of its configurations"
        )
    if config is None:
        config = _TINY_LLAMA if architecture == "llama" else {}
    defaults = AutoConfig.for_model(architecture)
    for name in config:
        if not hasattr(defaults, name):
            raise ValueError(
                f"transformer: {architecture} has no setting {name!r}; "
                f"{nearest(name, list(defaults.to_dict()))}"
            )
    # A padding id would freeze a row of the embedding, and may lie outside the vocabulary.
    settings = {"vocab_size": vocab_size, "pad_token_id": None, **config}
    return AutoConfig.for_model(architecture, **settings)


def _pretrained_configuration(path: Path) -> Any:
    from transformers import AutoConfig

    if not (path / "config.json").is_file():
        raise FileNotFoundError(
            f"transformer: no config.json in {str(path)!r}; path must be a local directory written "
            "by save_pretrained or downloaded beforehand"
        )
    return AutoConfig.from_pretrained(path, local_files_only=True)


def _attention(config: Any) -> str:
    """The implementation of a configuration's attention, as the library names it: the fastest.

    Raises:
        ValueError: the library has no causal language model of it, or one with a recurrent state.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    name = config.model_type
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(f"transformer: {name} is no causal language model; choose another")
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    if model._is_stateful:
        raise ValueError(
            f"transformer: {name} has a recurrent state, and this backbone keeps keys and values "
            f"alone; choose {_INSTEAD.get(name, 'another')}"
        )
    return "sdpa" if model._supports_sdpa else "eager"


def _learnt_positions(model: Any) -> int | None:
    """How many positions a model has embeddings of; None if it computes them."""
    words = model.get_input_embeddings()
    tables = [
        m for m in model.base_model.modules() if isinstance(m, nn.Embedding) and m is not words
    ]
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 0
    # OPT's table has two rows more, which no position is.
    return most if any(len(table.weight) in (most, most + 2) for table in tables) else None


def _cache_argument(name: str, accepted: Collection[str]) -> str:
    """The name of a model's argument for its cache.

    Raises:
        ValueError: the model lacks an argument that it is given here.
    """
    # transformers renames it in the course of its fifth version.
    cache = "cache" if "cache" in accepted else "past_key_values"
    given = ("inputs_embeds", "attention_mask", "use_cache", cache)
    lacking = [argument for argument in given if argument not in accepted]
    if lacking:
        raise ValueError(
            f"transformer: {name} takes no {', no '.join(lacking)}, which this backbone gives to a "
            "model; choose another"
        )
    return cache


def _check(config: Any, vocab_size: int) -> None:
    size = config.get_text_config().vocab_size
    if size < vocab_size:
        raise ValueError(
            f"transformer: the model has {size} embeddings but the tokenizer "
            f"{vocab_size} ids; use the model's own tokenizer or a larger vocab_size"
        )
    changed = [s for s in _LOGIT_SETTINGS if getattr(config, s, None) not in (None, 1.0)]
    if changed:
        raise ValueError(
            f"transformer: {config.model_type} changes its logits after the head "
            f"({', '.join(changed)}), which this backbone would leave out; choose another"
        )
