"""A whole decoding step of a Llama-like model or of Phi in few kernels, for CUDA devices.

For one row a step is bound by the bytes of its weights. So each product reads its weights once, and
does on the way in and out what would otherwise be kernels of their own: the norm before it, the
activation or the addition to the residual after it. A layer of a Llama is five kernels, one of Phi,
whose attention and MLP stand side by side, three. More rows are multiplied by the libraries.

Imports Triton, so import it only where a CUDA device is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor, nn
from transformers import PhiForCausalLM

from ablate.components.backbones.kv_cache import FixedLayer
from ablate.components.backbones.transformer_decode import FixedState
from ablate.components.backbones.transformer_kernels import (
    add_kernel,
    attend_kernel,
    gated_kernel,
    project_kernel,
)
from ablate.components.backbones.transformer_layers import epsilon, normalised
from ablate.components.mixers.decode import dependent

_CHUNK = 64  # positions of one program's part of the attention
_TOGETHER = 16  # parts that are put together at a time


class FusedTransformerStep:
    """``step`` of a whole model on a ``FixedState``: token ids (B,) -> logits (B, vocab_size).

    The result is that of the library's modules but for rounding. The logits are overwritten by the
    next call.

    Args:
        model: one whose layers are ``known``.
        state: updated in place.
    """

    def __init__(self, model: Any, state: FixedState) -> None:
        self.model, self.base, self.state = model, model.base_model, state
        self.head = model.get_output_embeddings()
        self.is_phi = isinstance(model, PhiForCausalLM)
        weight = self.head.weight
        batch, room = state.mask.shape
        self.residual = weight.new_empty(batch, self.head.in_features)
        every = torch.arange(room, device=weight.device)[None]
        # The model's own, so that every kind of rotation is what it is there.
        self.rotation = tuple(table[0] for table in self.base.rotary_emb(weight, every))
        self.attention = _Attention(self.base.layers[0].self_attn, state, weight)

    def __call__(self, ids: Tensor) -> Tensor:
        self.residual.copy_(self.base.embed_tokens(ids))
        layer_of = self._phi if self.is_phi else self._gated
        for layer, cached in zip(self.base.layers, self.state.layers, strict=True):
            layer_of(layer, cached)
        norm = self.base.final_layernorm if self.is_phi else self.base.norm
        logits = project(self.residual, norm, [self.head])[0]
        self.state.advance()
        return logits

    def _gated(self, layer: Any, cached: FixedLayer) -> None:
        own, mlp = layer.self_attn, layer.mlp
        q, k, v = project(
            self.residual, layer.input_layernorm, [own.q_proj, own.k_proj, own.v_proj]
        )
        y = self.attention(q, k, v, cached, self.rotation)
        add(self.residual, [(y, own.o_proj)])
        inner = gated(self.residual, layer.post_attention_layernorm, mlp.gate_proj, mlp.up_proj)
        add(self.residual, [(inner, mlp.down_proj)])

    def _phi(self, layer: Any, cached: FixedLayer) -> None:
        own, mlp = layer.self_attn, layer.mlp
        q, k, v, inner = project(
            self.residual,
            layer.input_layernorm,
            [own.q_proj, own.k_proj, own.v_proj, mlp.fc1],
            gelu=True,
        )
        y = self.attention(q, k, v, cached, self.rotation)
        add(self.residual, [(y, own.dense), (inner, mlp.fc2)])


class _Attention:
    """One query's attention in any layer of a model, and the room for its parts.

    Args:
        layer: a layer's attention, for its sizes.
        state: that the layers share.
        like: for dtype and device of the result.
    """

    def __init__(self, layer: Any, state: FixedState, like: Tensor) -> None:
        self.state, self.scaling = state, layer.scaling
        self.width, self.group = layer.head_dim, layer.num_key_value_groups
        self.block = triton.next_power_of_2(self.width)
        batch, room = state.mask.shape
        self.kv_heads = state.layers[0].fixed[0].shape[1]
        heads = self.kv_heads * self.group
        self.splits = triton.cdiv(room, _CHUNK)

        def single(*shape: int) -> Tensor:
            return torch.empty(*shape, dtype=torch.float32, device=like.device)

        self.sums = single(batch, heads, self.splits, 2)
        self.parts = single(batch, heads, self.splits, self.block)
        self.arrived = torch.zeros(batch, self.kv_heads, dtype=torch.int32, device=like.device)
        self.y = like.new_empty(batch, heads * self.width)

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, cached: FixedLayer, rotation: tuple[Tensor, ...]
    ) -> Tensor:
        """Queries (B, H P), keys and values (B, G P) of the next position -> (B, H P)."""
        cos, sin = rotation
        keys, values = cached.fixed
        attend_kernel[(self.splits, self.kv_heads, len(q))](
            q,
            k,
            v,
            q.stride(0),
            k.stride(0),
            cos,
            sin,
            keys,
            values,
            self.state.mask.view(torch.uint8),
            self.state.place,
            self.state.positions,
            self.sums,
            self.parts,
            self.arrived,
            self.y,
            self.scaling,
            self.state.mask.shape[1],
            KV_HEADS=self.kv_heads,
            GROUP=self.group,
            WIDTH=self.width,
            TURNED=cos.shape[-1],
            SPLITS=self.splits,
            BLOCK_S=_TOGETHER,
            BLOCK_L=_CHUNK,
            BLOCK_D=self.block,
            num_warps=4,
            **dependent(q.device),
        )
        return self.y


def project(
    x: Tensor, norm: nn.Module, layers: Sequence[nn.Linear], *, gelu: bool = False
) -> Sequence[Tensor]:
    """Up to four linear layers of ``norm(x)``, all with a bias or none.

    Args:
        x: (B, K).
        norm: an RMSNorm or a LayerNorm.
        layers: each (K -> N).
        gelu: whether to apply GELU (by tanh) to what the last gives.

    Returns:
        (B, N) of each.
    """
    if len(x) > 1:
        normed = normalised(x, norm)
        found = [layer(normed) for layer in layers]
        return [*found[:-1], F.gelu(found[-1], approximate="tanh")] if gelu else found
    sizes = [layer.out_features for layer in layers]
    weights = [layer.weight for layer in layers]
    biases = [layer.bias for layer in layers]
    biased, missing = biases[0] is not None, 4 - len(layers)
    tile = _tile(sum(sizes), x.shape[1], 1)
    layer_norm = isinstance(norm, nn.LayerNorm)
    out = x.new_empty(1, sum(sizes))
    project_kernel[(sum(triton.cdiv(size, tile["BLOCK_N"]) for size in sizes),)](
        x,
        norm.weight,
        norm.bias if layer_norm else norm.weight,
        *weights,
        *weights[:1] * missing,
        *(biases if biased else weights),
        *weights[:1] * missing,
        out,
        epsilon(norm),
        COLS=x.shape[1],
        BLOCK_X=triton.next_power_of_2(x.shape[1]),
        NORM=2 if layer_norm else 1,
        **{f"N{i}": size for i, size in enumerate([*sizes, *[0] * missing])},
        BIASED=biased,
        GELU=gelu,
        **tile,
        **dependent(x.device),
    )
    return out.split(sizes, 1)


def gated(x: Tensor, norm: nn.Module, gate: nn.Linear, up: nn.Linear) -> Tensor:
    """``silu(gate(norm(x))) * up(norm(x))``: (B, K) -> (B, N); the norm is an RMSNorm."""
    if len(x) > 1:
        normed = normalised(x, norm)
        return F.silu(gate(normed)) * up(normed)
    rows, cols = gate.weight.shape
    tile = _tile(rows, cols, 2)
    out = x.new_empty(1, rows)
    biased = gate.bias is not None
    gated_kernel[(triton.cdiv(rows, tile["BLOCK_N"]),)](
        x,
        norm.weight,
        gate.weight,
        up.weight,
        gate.bias if biased else gate.weight,
        up.bias if biased else up.weight,
        out,
        rows,
        epsilon(norm),
        COLS=cols,
        BIASED=biased,
        **tile,
        **dependent(x.device),
    )
    return out


def add(residual: Tensor, terms: Sequence[tuple[Tensor, nn.Linear]]) -> None:
    """Add one or two linear layers of their inputs to (B, N), all with a bias or none."""
    if len(residual) > 1:
        for x, layer in terms:
            residual += layer(x)
        return
    (x, layer), (other, second) = terms[0], terms[-1]
    rows, cols = layer.weight.shape
    biased = layer.bias is not None
    tile = _tile(rows, cols, 1)
    add_kernel[(triton.cdiv(rows, tile["BLOCK_N"]),)](
        x,
        layer.weight,
        layer.bias if biased else layer.weight,
        other,
        second.weight,
        second.bias if biased else second.weight,
        residual,
        rows,
        COLS0=cols,
        COLS1=second.in_features if len(terms) > 1 else 0,
        BIASED=biased,
        **tile,
        **dependent(residual.device),
    )


# Rows, columns and warps of one program's tile, by the product's shape: the Mambas' (see
# ``mixers.decode``). Products that are made side by side share the rows.
_MANY_ROWS = (8, 512, 2)
_FEW_ROWS = (4, 2048, 4)
_LONG_AND_TWO = (4, 1024, 4)
"""Two products of 4,096 columns in the tiles of ``_MANY_ROWS`` spill registers, which costs 8 x."""


def _tile(rows: int, cols: int, products: int) -> dict[str, int]:
    block_n, block_k, warps = _MANY_ROWS if rows >= 6144 else _FEW_ROWS
    if rows >= 6144 and products > 1 and cols > 2560:
        block_n, block_k, warps = _LONG_AND_TWO
    block_k = min(block_k, triton.next_power_of_2(cols))
    return {"BLOCK_N": max(1, block_n // products), "BLOCK_K": block_k, "num_warps": warps}
