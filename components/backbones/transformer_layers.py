"""The layers of Llama-like models and of Phi, without what the library does around them.

A layer's products take microseconds on a GPU, and what stands between them in the library takes the
host longer. Imports transformers, so import it only where one of its models is there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PhiForCausalLM, Qwen2ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm, rotate_half
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm

from ablate.components.backbones.kv_cache import PreallocatedLayer
from ablate.components.backbones.transformer_decode import capturable
from ablate.components.master_weights.linear import is_linear
from ablate.components.mixers.attention import allowed_keys

_GATED = (LlamaForCausalLM, Qwen2ForCausalLM)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)

Keep = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, PreallocatedLayer], tuple[Tensor, Tensor, Tensor]
]
"""See ``turn_and_keep``."""

# Rotations that change with the length of the text, which a table of all positions cannot hold.
_CHANGING = ("dynamic", "longrope")


def read_layers(
    model: Any, embeds: Tensor, positions: Tensor, kept: Sequence[PreallocatedLayer]
) -> Tensor:
    """A chunk of positions without padding through all layers, equal to the library's.

    Args:
        model: one whose layers are ``known``.
        embeds: (B, L, d_model).
        positions: (B, L), which positions of their rows they are.
        kept: each layer's keys and values so far; the chunk's are appended.

    Returns:
        (B, L, d_model), after the last norm.
    """
    base, is_phi = model.base_model, isinstance(model, PhiForCausalLM)
    rotation = base.rotary_emb(embeds, positions)
    keep = _keep_for(embeds)
    length = embeds.shape[1]
    allowed = allowed_keys(length, kept[0].get_seq_length() + length, None, embeds.device)
    # The layers add to it in place.
    hidden = embeds.clone(memory_format=torch.contiguous_format)
    for layer, own in zip(base.layers, kept, strict=True):
        normed = normalised(hidden, layer.input_layernorm)
        y = _attended(layer.self_attn, normed, rotation, allowed, own, keep)
        mlp = layer.mlp
        if is_phi:
            inner = F.gelu(mlp.fc1(normed), approximate="tanh")
            _add(hidden, y, layer.self_attn.dense)
            _add(hidden, inner, mlp.fc2)
        else:
            _add(hidden, y, layer.self_attn.o_proj)
            normed = normalised(hidden, layer.post_attention_layernorm)
            _add(hidden, F.silu(mlp.gate_proj(normed)) * mlp.up_proj(normed), mlp.down_proj)
    return normalised(hidden, base.final_layernorm if is_phi else base.norm)


def _add(hidden: Tensor, x: Tensor, layer: nn.Linear) -> None:
    """Add a linear layer of x (B, L, K) to (B, L, N) in place: one kernel where it has no bias."""
    if layer.bias is None:
        hidden.view(-1, hidden.shape[-1]).addmm_(x.flatten(0, 1), layer.weight.t())
    else:
        hidden += layer(x)


def _attended(
    layer: Any,
    normed: Tensor,
    rotation: tuple[Tensor, Tensor],
    allowed: Tensor | None,
    kept: PreallocatedLayer,
    keep: Keep,
) -> Tensor:
    """(B, L, d_model) -> (B, L, H P), before the layer's last product."""
    q, k, v = (
        product(normed).unflatten(-1, (-1, layer.head_dim))
        for product in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    turned, keys, values = keep(q, k, v, *rotation, kept)
    y = F.scaled_dot_product_attention(
        turned.transpose(1, 2),
        keys,
        values,
        attn_mask=allowed,
        is_causal=allowed is None and q.shape[1] > 1,
        scale=layer.scaling,
        enable_gqa=layer.num_key_value_groups > 1,
    )
    return y.transpose(1, 2).flatten(2)


def _keep_for(embeds: Tensor) -> Keep:
    """``turn_and_keep``, in one kernel where that can be."""
    if not (embeds.is_cuda and find_spec("triton")):
        return turn_and_keep
    from ablate.components.backbones import transformer_turn

    return transformer_turn.turn_and_keep


def turn_and_keep(
    q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor, kept: PreallocatedLayer
) -> tuple[Tensor, Tensor, Tensor]:
    """Turn queries and keys by their positions, and append keys and values to a layer's.

    Args:
        q: (B, L, H, P), of which the first R channels turn (RoFormer, section 3.4).
        k: (B, L, G, P).
        v: as ``k``.
        cos: of the angles, (B, L, R).
        sin: as ``cos``.
        kept: the layer's.

    Returns:
        The queries, (B, L, H, P), and the layer's keys and values, (B, G, seen, P).

    Raises:
        ValueError: there is no room left for the keys and values.
    """
    cos, sin = cos[:, :, None], sin[:, :, None]
    keys, values = kept.update(_turned(k, cos, sin).transpose(1, 2), v.transpose(1, 2))
    return _turned(q, cos, sin), keys, values


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    width = cos.shape[-1]
    turning = heads[..., :width]
    turned = turning * cos + rotate_half(turning) * sin
    return turned if width == heads.shape[-1] else torch.cat([turned, heads[..., width:]], dim=-1)


def known(model: Any) -> bool:
    """Whether a model's layers are just what is known here, and may run without gradients.

    Not under autocast. Asked before each read, so that it looks at the layers by name: to walk
    through all modules of a model takes the host as long as its first layers take a GPU.
    """
    if torch.is_autocast_enabled("cuda") or model.training:
        return False
    config = model.config
    rope = config.rope_parameters["rope_type"] if hasattr(config, "rope_parameters") else None
    is_known = type(model) in (*_GATED, PhiForCausalLM) and rope not in (None, *_CHANGING)
    return is_known and capturable(config) and _plain(model)


def _plain(model: Any) -> bool:
    """One dtype, and no adapters, activations, norms or biases other than are known."""
    config, base, is_phi = model.config, model.base_model, isinstance(model, PhiForCausalLM)
    if config.hidden_act != ("gelu_new" if is_phi else "silu"):
        return False
    if is_phi and config.qk_layernorm:
        return False
    linear, norms = [model.lm_head], [base.final_layernorm if is_phi else base.norm]
    for layer in base.layers:
        attention, mlp = layer.self_attn, layer.mlp
        linear += [attention.q_proj, attention.k_proj, attention.v_proj]
        norms.append(layer.input_layernorm)
        if is_phi:
            linear += [attention.dense, mlp.fc1, mlp.fc2]
        else:
            linear += [attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj]
            norms.append(layer.post_attention_layernorm)
    kinds = (nn.LayerNorm,) if is_phi else (LlamaRMSNorm, Qwen2RMSNorm)
    return (
        type(base.embed_tokens) is nn.Embedding
        and all(type(norm) in kinds for norm in norms)
        and all(is_linear(layer) for layer in linear)
        and _one_dtype([base.embed_tokens, *norms, *linear])
    )


def _one_dtype(layers: Sequence[nn.Module]) -> bool:
    weights = (weight for layer in layers for weight in layer._parameters.values())
    dtypes = {weight.dtype for weight in weights if weight is not None}
    return len(dtypes) == 1 and dtypes <= set(_DTYPES)


def normalised(x: Tensor, norm: Any) -> Tensor:
    """A norm's result; an RMSNorm's is not rounded before its weights."""
    if isinstance(norm, nn.LayerNorm):
        return norm(x)
    return F.rms_norm(x, x.shape[-1:], norm.weight, epsilon(norm))


def epsilon(norm: Any) -> float:
    """That of a LayerNorm or an RMSNorm."""
    return norm.eps if isinstance(norm, nn.LayerNorm) else norm.variance_epsilon
