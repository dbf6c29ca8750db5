"""The Triton kernels that train Mamba-2 against the plain forms, by Triton's interpreter.

A program of its own, since Triton decides at its import whether to interpret. Prints a line per
case for the test that runs it: name, dtype and largest relative error of outputs and gradients. The
interpreter multiplies no bfloat16: float16 stands for what has less precision than float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES, mamba
from ablate.components.backbones.keeping import Keep
from ablate.components.mixers.gated_norm import gated_rms_norm_reference
from ablate.components.mixers.mamba2 import Mamba2Scan
from ablate.components.mixers.norm_fused import GatedNorm
from ablate.components.scans import ssd_fused
from tests.components.scan_cases import relative_error

# Length, heads and groups: not whole chunks, one chunk and less.
SCANS: list[tuple[int, int, int, torch.dtype]] = [
    (66, 2, 1, torch.float32),
    (64, 2, 2, torch.float16),
    (3, 1, 1, torch.float32),
]
# Where documents start: side by side, at a chunk's edge, of one position.
DOCUMENTS = (0, 37, 38, 64)


def gradients(output: Tensor, weigh: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    return [output, *torch.autograd.grad((output * weigh).sum(), leaves)]


def largest(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    pairs = zip(actual, expected, strict=True)
    return max(relative_error(a.double(), e.double()) for a, e in pairs)


@torch.no_grad()
def uneven(module: Any) -> Any:
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return module


def scan_error(length: int, heads: int, groups: int, documents: bool, dtype: torch.dtype) -> float:
    """The whole scan, of parts of a wider sequence, as the projection gives them."""
    scan = uneven(Mamba2Scan(heads * 16, d_state=16, headdim=16, ngroups=groups, kernel="portable"))
    # As they are in the order that the kernels' function takes them.
    own = [scan.conv1d.weight, scan.conv1d.bias, scan.dt_bias, scan.A_log, scan.D]
    wide = torch.randn(2, length, scan.conv_dim + heads + 8).to(dtype).requires_grad_()
    xbc, dt = wide[..., 8 : 8 + scan.conv_dim], wide[..., 8 + scan.conv_dim :]
    weigh = torch.randn(2, length, scan.d_inner)
    starts = [*DOCUMENTS, length] if documents else [0, length]
    parts = [
        scan.scan(xbc[:, a:b].float(), dt[:, a:b].float()) for a, b in itertools.pairwise(starts)
    ]
    expected = gradients(torch.cat(parts, dim=1), weigh, [wide, *own])
    numbers = None
    if documents:
        position = torch.arange(length)
        numbers = sum((position >= start).int() for start in DOCUMENTS).expand(2, -1).contiguous()
    fused = ssd_fused.Scan.apply(xbc, dt, numbers, groups, 16, *own)
    return largest(gradients(fused, weigh, [wide, *own]), expected)


def norm_error(width: int, groups: int) -> float:
    """The gated norm, with a gate that directions share and rows that are a part of wider ones."""
    x, gate = torch.randn(2, 3, 5, width), torch.randn(2, 1, 5, width + 8)
    leaves = [x.requires_grad_(), gate.requires_grad_(), torch.randn(width, requires_grad=True)]
    weigh = torch.randn(x.shape)
    results = [
        gradients(norm(x, gate[..., 8:], leaves[2], groups, 1e-5), weigh, leaves)
        for norm in (GatedNorm.apply, gated_rms_norm_reference)
    ]
    return largest(*results)


def results(model: nn.Module, embeds: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Logits of tokens, and all gradients."""
    embeds = embeds.clone().requires_grad_()
    logits = model(embeds, mask)
    logits = logits if mask is None else logits * (mask > 0).unsqueeze(-1)
    generator = torch.Generator().manual_seed(0)
    weigh = torch.randn(logits.shape, generator=generator)
    return gradients(logits, weigh, [embeds, *model.parameters()])


def model_errors() -> Iterator[float]:
    """A model, of blocks that keep all that they can, or less, with padding and without."""
    model: Any = uneven(
        BACKBONES.get("mamba2")(20, d_model=24, n_layer=2, d_state=16, headdim=16, ngroups=1)
    )
    embeds, padding = torch.randn(2, 14, 24), torch.ones(2, 14, dtype=torch.long)
    padding[0, :5], padding[1, 11:] = 0, 0
    plain: Callable[..., Any] = mamba.fused_dtype
    for mask in (None, padding):
        expected = results(model, embeds, mask)
        mamba.fused_dtype = lambda *_: torch.float32
        for keep in Keep if mask is None else [Keep.everything]:
            model._keeps = lambda _, keep=keep: [keep] * 2
            yield largest(results(model, embeds, mask), expected)
        mamba.fused_dtype = plain


def readings(model: Any, embeds: Tensor) -> list[Tensor]:
    """Hidden states and decoding states: an image, questions about it, and prompts of their own."""
    image, questions = embeds[:, :9], embeds[[1, 0, 1], 9:]
    mask = torch.ones(3, 5, dtype=torch.long)
    mask[1, :2], mask[2, :4] = 0, 0
    state, anew = model.init_state(2, 0), model.init_state(3, 0)
    found = [model.read(image, state)]
    forked = model.fork(state, torch.tensor([1, 0, 1]))
    for each in (forked, anew):
        found.append(model.read(questions, each, mask) * mask.unsqueeze(-1))
        found.append(model.read(questions[:, :2], each))
        found += mamba._tensors(each)
    return found


def reading_error() -> float:
    """Reading into states, in chunks with padding and without."""
    model = uneven(BACKBONES.get("mamba2")(20, d_model=24, n_layer=2, d_state=16, headdim=16))
    embeds, plain = torch.randn(2, 14, 24), mamba.fused_dtype
    expected = readings(model, embeds)
    mamba.fused_dtype = lambda *_: torch.float32
    found = readings(model, embeds)
    mamba.fused_dtype = plain
    return largest(found, expected)


def report(case: str, dtype: torch.dtype, error: float) -> None:
    print(case, str(dtype).removeprefix("torch."), error)  # noqa: T201


if __name__ == "__main__":
    torch.manual_seed(0)
    # Blocks that are shorter than the sequences, and cost the interpreter less.
    ssd_fused._CONV_BACKWARD |= {"BLOCK_T": 8}
    for length, heads, groups, dtype in SCANS:
        report("scan", dtype, scan_error(length, heads, groups, False, dtype))
    report("documents", torch.float32, scan_error(66, 1, 1, True, torch.float32))
    for width, groups in ((24, 1), (48, 3), (16, 1)):
        report("gated-norm", torch.float32, norm_error(width, groups))
    report("reading", torch.float32, reading_error())
    for error in model_errors():
        report("model", torch.float32, error)
