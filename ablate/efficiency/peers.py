"""Other implementations of a backbone, on the same weights, to time in turns with ours."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from ablate.components.backbones import Backbone
from ablate.components.backbones.mamba import Mamba1Backbone, Mamba2Backbone
from ablate.components.backbones.transformer import TransformerBackbone


class NoPeerError(ValueError):
    """A peer that cannot run this backbone here; the message says why."""


class Peer(ABC):
    """Another implementation, ready to generate.

    Args:
        backbone: ours, whose weights it shares or copies.

    Raises:
        NoPeerError: it has no such model, or does not run here.
    """

    @abstractmethod
    def __init__(self, backbone: Backbone) -> None: ...

    @abstractmethod
    def generate(self, ids: Tensor, new_tokens: int) -> Tensor:
        """Continue prompts (B, L) greedily by exactly ``new_tokens`` -> (B, new_tokens) ids."""


class TransformersPeer(Peer):
    """transformers' own model and ``generate``, eager: no graph is captured or compiled.

    Its Mamba models use the kernels of mamba-ssm and causal-conv1d where those are installed.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._model = transformers_model(backbone)

    def generate(self, ids: Tensor, new_tokens: int) -> Tensor:
        from transformers import GenerationConfig

        # Without the end token that the model's own settings may name: every token is decoded.
        self._model.generation_config = GenerationConfig(do_sample=False, pad_token_id=0)
        mask = torch.ones_like(ids)
        output = self._model.generate(ids, attention_mask=mask, max_new_tokens=new_tokens)
        return output[:, ids.shape[1] :]


def transformers_model(backbone: Backbone) -> Any:
    """transformers' model with a backbone's weights; a transformer's is the one it already has.

    Raises:
        NoPeerError: transformers has no such model.
    """
    import transformers as hf

    hf.logging.set_verbosity_error()  # it tells of each kernel that is not installed
    if isinstance(backbone, TransformerBackbone):
        return backbone.model.eval()
    if not isinstance(backbone, Mamba1Backbone | Mamba2Backbone):
        raise NoPeerError("transformers has no such model")
    shared = _shared_settings(backbone)
    mixer: Any = next(backbone.backbone.blocks()).mixer
    if isinstance(backbone, Mamba1Backbone):
        config: Any = hf.MambaConfig(**shared, time_step_rank=mixer.dt_rank)
        kind: Any = hf.MambaForCausalLM
    else:
        config = hf.Mamba2Config(
            **shared,
            num_heads=mixer.nheads,
            head_dim=mixer.headdim,
            n_groups=mixer.ngroups,
            chunk_size=mixer.chunk_size,
        )
        kind = hf.Mamba2ForCausalLM
    weight = backbone.lm_head.weight
    with torch.device(weight.device):
        model = kind(config)
    model.load_state_dict(
        {
            name.replace("backbone.embedding.", "backbone.embeddings."): value
            for name, value in backbone.state_dict().items()
        }
    )
    return model.to(weight.dtype).eval()


def _shared_settings(backbone: Mamba1Backbone | Mamba2Backbone) -> dict[str, Any]:
    mixer: Any = next(backbone.backbone.blocks()).mixer
    return {
        "vocab_size": backbone.vocab_size,
        "hidden_size": backbone.d_model,
        "num_hidden_layers": len(backbone.backbone.layers),
        "state_size": mixer.d_state,
        "conv_kernel": mixer.d_conv,
        "expand": mixer.d_inner // backbone.d_model,
        "residual_in_fp32": backbone.residual_in_fp32,
        "tie_word_embeddings": _tied(backbone),
    }


def _tied(backbone: Mamba1Backbone | Mamba2Backbone) -> bool:
    return backbone.lm_head.weight is backbone.backbone.embedding.weight


class MambaSsmPeer(Peer):
    """mamba-ssm's ``MambaLMHeadModel`` and its ``generate`` with a CUDA graph (``cg=True``)."""

    def __init__(self, backbone: Backbone) -> None:
        if not isinstance(backbone, Mamba1Backbone | Mamba2Backbone):
            raise NoPeerError("mamba-ssm has no such model")
        weight = backbone.lm_head.weight
        if weight.device.type != "cuda":
            raise NoPeerError(f"mamba-ssm needs a CUDA device, and this is a {weight.device.type}")
        if importlib.util.find_spec("mamba_ssm") is None:
            raise NoPeerError("mamba-ssm is not installed; pip install 'ablate-vlm[cuda]'")
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

        mixer: Any = next(backbone.backbone.blocks()).mixer
        cell: dict[str, Any] = {"d_state": mixer.d_state, "d_conv": mixer.d_conv}
        cell["expand"] = mixer.d_inner // backbone.d_model
        if isinstance(backbone, Mamba1Backbone):
            cell |= {"layer": "Mamba1", "dt_rank": mixer.dt_rank}
        else:
            cell |= {"layer": "Mamba2", "headdim": mixer.headdim, "ngroups": mixer.ngroups}
        config = MambaConfig(
            d_model=backbone.d_model,
            n_layer=len(backbone.backbone.layers),
            vocab_size=backbone.vocab_size,
            ssm_cfg=cell,
            residual_in_fp32=backbone.residual_in_fp32,
            tie_embeddings=_tied(backbone),
            pad_vocab_size_multiple=1,  # ours is padded already
        )
        self._model = MambaLMHeadModel(config, device=weight.device, dtype=weight.dtype).eval()
        self._model.load_state_dict(backbone.state_dict())

    def generate(self, ids: Tensor, new_tokens: int) -> Tensor:
        length = ids.shape[1] + new_tokens
        output = self._model.generate(input_ids=ids, max_length=length, cg=True, top_k=1)
        return output[:, ids.shape[1] :]


PEERS: dict[str, type[Peer]] = {"hf": TransformersPeer, "mamba-ssm": MambaSsmPeer}
"""Peers by the name that a bench file and ``--peer`` give them."""
