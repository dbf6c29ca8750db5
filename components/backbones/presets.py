"""The paper's language backbones by name, at their published sizes (ML-Mamba, tables 2 to 4).

Each starts at random, or from its published weights, or from any checkpoint of the same model. A
preset's vocabulary is the published one, and grows where the tokenizer's is larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from ablate.components.backbones.base import BACKBONES
from ablate.components.backbones.hybrid import HybridBackbone
from ablate.components.backbones.mamba import Mamba1Backbone, Mamba2Backbone, MixerBackbone
from ablate.components.backbones.transformer import TransformerBackbone
from ablate.components.checkpoints import causal_lm_settings, load_causal_lm, load_mamba, locate
from ablate.components.checkpoints.locate import hub_names
from ablate.components.mixers import Attention, Mamba1, Mamba2
from ablate.components.needed_files import NeededFile, needed_weights
from ablate.components.scans.kernels import Kernel

_GPT_NEOX, _GPT_NEOX_NAME = 50277, "EleutherAI/gpt-neox-20b"
"""Tokens of the GPT-NeoX-20B tokenizer, which every state-spaces model was trained with."""


def _planning() -> bool:
    """Whether modules are being built on the meta device, where nothing is loaded."""
    return torch.get_default_device().type == "meta"


class StateSpacesPreset:
    """A state-spaces model; the vocabulary is padded to a multiple of 16.

    Stands before the backbone in a preset's bases. The subclass names what it is of and its sizes.

    Args:
        vocab_size: the tokenizer's size.
        weights: ``none``, ``pretrained`` for the published ones, a path (a state-spaces directory,
            one of transformers where it has the model, or a file of weights), or a hub name.
        kernel: what filters and scans a sequence, see ``mamba1`` and ``mamba2``.

    Raises:
        CheckpointError: weights that do not exist, are damaged or are not this model's.
    """

    published: ClassVar[str]
    family: ClassVar[dict[str, Any]] = {}
    """Sizes that all models of the family share."""
    sizes: ClassVar[dict[str, Any]]
    own: ClassVar[tuple[str, ...]]
    """Settings of the family's Mamba alone, in which a checkpoint must agree."""
    vocabulary: ClassVar[int] = _GPT_NEOX

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """See ``Backbone``."""
        return hub_names(args.get("weights", "none"), cls.published)

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """See ``Backbone``."""
        return needed_weights(cls.hub_names(args), args.get("weights", "none"))

    @classmethod
    def tokenizer_source(cls, args: Mapping[str, Any]) -> str | None:
        """See ``Backbone``: their own repositories have none."""
        return _GPT_NEOX_NAME if cls.hub_names(args) else None

    def __init__(self, vocab_size: int, *, weights: str = "none", kernel: Kernel = "auto") -> None:
        path = locate(weights, self.published, fetch=not _planning())
        rows = max(vocab_size, self.vocabulary)
        sizes = {**self.family, **self.sizes}
        super().__init__(rows, pad_vocab_size_multiple=16, kernel=kernel, **sizes)  # type: ignore[call-arg]
        if path is not None and not _planning():
            assert isinstance(self, MixerBackbone)
            load_mamba(self, path, _settings(self, self.own), vocabulary=self.vocabulary)


class Mamba1Preset(StateSpacesPreset, Mamba1Backbone):
    """A state-spaces Mamba-1 model."""

    own = ("dt_rank",)


class Mamba2Preset(StateSpacesPreset, Mamba2Backbone):
    """A state-spaces Mamba-2 model: 128 states, heads of 64 channels, one group."""

    family: ClassVar[dict[str, Any]] = {"d_state": 128, "headdim": 64}
    own = ("headdim", "ngroups")


class HybridPreset(StateSpacesPreset, HybridBackbone):
    """A state-spaces model of Mamba-2 with attention; its sizes as ``Mamba2Preset``'s."""

    family = Mamba2Preset.family
    own = Mamba2Preset.own


def _settings(backbone: MixerBackbone, own: Sequence[str]) -> dict[str, Any]:
    """What a checkpoint's configuration must agree with; ``own``: settings of the Mamba alone."""
    mixers = [block.mixer for block in backbone.backbone.blocks()]
    mixer = next(m for m in mixers if isinstance(m, Mamba1 | Mamba2))
    attention = {i: m for i, m in enumerate(mixers) if isinstance(m, Attention)}
    settings = next(iter(attention.values())).settings() if attention else {}
    return {
        "layer": type(mixer).__name__,
        "d_model": backbone.d_model,
        "n_layer": len(backbone.backbone.layers),
        "expand": mixer.d_inner // backbone.d_model,
        "tie_embeddings": True,
        "residual_in_fp32": backbone.residual_in_fp32,
        **{name: getattr(mixer, name) for name in ("d_state", "d_conv", *own)},
        "attention_layers": list(attention),
        **{f"attn_cfg.{name}": value for name, value in settings.items()},
    }


class TransformerPreset(TransformerBackbone):
    """A published transformer, built by the transformers library.

    Epsilons, activation and rotary embeddings come from the weights' own config.json if there is
    one.

    Args:
        vocab_size: the tokenizer's size.
        weights: ``none``, ``pretrained`` for the published ones, a path (a directory written by
            ``save_pretrained``, or a file of weights), or a hub name.

    Raises:
        CheckpointError: weights that do not exist, are damaged or are not this model's.
    """

    published: ClassVar[str]
    architecture: ClassVar[str] = "llama"
    sizes: ClassVar[dict[str, Any]]
    vocabulary: ClassVar[int] = 32000

    @classmethod
    def hub_names(cls, args: Mapping[str, Any]) -> list[str]:
        """See ``Backbone``."""
        return hub_names(args.get("weights", "none"), cls.published)

    @classmethod
    def needed_files(cls, args: Mapping[str, Any]) -> list[NeededFile]:
        """See ``Backbone``."""
        return needed_weights(cls.hub_names(args), args.get("weights", "none"))

    def __init__(self, vocab_size: int, *, weights: str = "none") -> None:
        path = locate(weights, self.published, fetch=not _planning())
        settings = {**self.sizes, "vocab_size": self.vocabulary}
        if path is not None and path.is_dir():
            settings |= causal_lm_settings(path, self.architecture, self.sizes)
        settings["vocab_size"] = max(vocab_size, settings["vocab_size"])
        super().__init__(vocab_size, architecture=self.architecture, config=settings)
        if path is not None and not _planning():
            load_causal_lm(self.model, path, vocabulary=self.vocabulary)


@BACKBONES.register("mamba-130m")
class Mamba1At130M(Mamba1Preset):
    """Mamba-1 130M: 24 layers of width 768. Source: state-spaces/mamba-130m."""

    published = "state-spaces/mamba-130m"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 768, "n_layer": 24}


@BACKBONES.register("mamba-370m")
class Mamba1At370M(Mamba1Preset):
    """Mamba-1 370M: 48 layers of width 1024. Source: state-spaces/mamba-370m."""

    published = "state-spaces/mamba-370m"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 1024, "n_layer": 48}


@BACKBONES.register("mamba-790m")
class Mamba1At790M(Mamba1Preset):
    """Mamba-1 790M: 48 layers of width 1536. Source: state-spaces/mamba-790m."""

    published = "state-spaces/mamba-790m"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 1536, "n_layer": 48}


@BACKBONES.register("mamba-1.4b")
class Mamba1At1B4(Mamba1Preset):
    """Mamba-1 1.4B: 48 layers of width 2048. Source: state-spaces/mamba-1.4b."""

    published = "state-spaces/mamba-1.4b"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 2048, "n_layer": 48}


@BACKBONES.register("mamba-2.8b")
class Mamba1At2B8(Mamba1Preset):
    """Mamba-1 2.8B: 64 layers of width 2560. Source: state-spaces/mamba-2.8b."""

    published = "state-spaces/mamba-2.8b"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 2560, "n_layer": 64}


@BACKBONES.register("mamba2-130m")
class Mamba2At130M(Mamba2Preset):
    """Mamba-2 130M: 24 layers of width 768. Source: state-spaces/mamba2-130m."""

    published = "state-spaces/mamba2-130m"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 768, "n_layer": 24}


@BACKBONES.register("mamba2-370m")
class Mamba2At370M(Mamba2Preset):
    """Mamba-2 370M: 48 layers of width 1024. Source: state-spaces/mamba2-370m."""

    published = "state-spaces/mamba2-370m"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 1024, "n_layer": 48}


@BACKBONES.register("mamba2-780m")
class Mamba2At780M(Mamba2Preset):
    """Mamba-2 780M: 48 layers of width 1536. Source: state-spaces/mamba2-780m."""

    published = "state-spaces/mamba2-780m"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 1536, "n_layer": 48}


@BACKBONES.register("mamba2-1.3b")
class Mamba2At1B3(Mamba2Preset):
    """Mamba-2 1.3B: 48 layers of width 2048. Source: state-spaces/mamba2-1.3b."""

    published = "state-spaces/mamba2-1.3b"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 2048, "n_layer": 48}


@BACKBONES.register("mamba2-2.7b")
class Mamba2At2B7(Mamba2Preset):
    """Mamba-2 2.7B: 64 layers of width 2560. Source: state-spaces/mamba2-2.7b."""

    published = "state-spaces/mamba2-2.7b"
    sizes: ClassVar[dict[str, Any]] = {"d_model": 2560, "n_layer": 64}


@BACKBONES.register("mamba2attn-2.7b")
class Mamba2Attn2B7(HybridPreset):
    """Mamba-2 2.7B with 6 of its 64 layers attention, of 30 heads of 128 channels.

    Source: the config.json of state-spaces/mamba2attn-2.7b (Mamba-2, section 9.2.3).
    """

    published = "state-spaces/mamba2attn-2.7b"
    sizes: ClassVar[dict[str, Any]] = {
        "d_model": 2560,
        "n_layer": 64,
        "attn_layer_idx": [9, 18, 27, 36, 45, 56],
        "num_heads": 30,
        "head_dim": 128,
        "attn_d_conv": 4,
        "rotary_emb_dim": 64,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
    }


@BACKBONES.register("phi-2")
class Phi2(TransformerPreset):
    """Phi-2 (TinyLLaVA's): 32 layers of width 2560 with attention and MLP in parallel.

    32 heads, rotary embeddings on 40 % of a head, an MLP of 10240, 51200 tokens; 2,779,683,840
    parameters. Source: the config.json of microsoft/phi-2.
    """

    published = "microsoft/phi-2"
    architecture = "phi"
    vocabulary = 51200
    sizes: ClassVar[dict[str, Any]] = {
        "hidden_size": 2560,
        "intermediate_size": 10240,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.4,
        },
    }


@BACKBONES.register("mobilellama-2.7b")
class MobileLlama2B7(TransformerPreset):
    """MobileLLaMA 2.7B (MobileVLM's): a Llama of 32 layers of width 2560.

    32 heads, an MLP of 6912, 32000 tokens. Source: MobileVLM (Chu et al., 2023, arXiv 2312.16886).
    """

    published = "mtgv/MobileLLaMA-2.7B-Base"
    sizes: ClassVar[dict[str, Any]] = {
        "hidden_size": 2560,
        "intermediate_size": 6912,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    }


@BACKBONES.register("vicuna-7b")
class Vicuna7B(TransformerPreset):
    """Vicuna 7B v1.5 (LLaVA-1.5's): a Llama of 32 layers of width 4096.

    32 heads, an MLP of 11008, 32000 tokens; 6,738,415,616 parameters. Source: Llama 2 (Touvron et
    al., 2023, arXiv 2307.09288), whose shape lmsys/vicuna-7b-v1.5 has.
    """

    published = "lmsys/vicuna-7b-v1.5"
    sizes: ClassVar[dict[str, Any]] = {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
    }


@BACKBONES.register("tinyllama")
class TinyLlama(TransformerPreset):
    """TinyLlama 1.1B: a Llama of 22 layers of width 2048 with 4 groups of keys and values.

    32 heads, an MLP of 5632, 32000 tokens; 1,100,048,384 parameters. Source: TinyLlama (Zhang et
    al., 2024, arXiv 2401.02385), table 1.
    """

    published = "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    sizes: ClassVar[dict[str, Any]] = {
        "hidden_size": 2048,
        "intermediate_size": 5632,
        "num_hidden_layers": 22,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "rms_norm_eps": 1e-5,
    }
