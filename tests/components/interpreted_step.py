"""The fused decoding step against the mixers' own, by Triton's interpreter; a program of its own.

Triton decides at its import whether to interpret. Prints the largest relative error of logits and
states, and of what, for the test that runs it.
"""

from __future__ import annotations

import itertools

import torch

from ablate.components.backbones import BACKBONES
from ablate.components.backbones.mamba_decode import FusedStep, fusable
from tests.components.interpreted import error

# Sizes that are no powers of 2; convolutions of one position, two and four.
KINDS = {
    "mamba1": [{}, {"d_conv": 2, "d_state": 6, "dt_rank": 5}],
    "mamba2": [{"headdim": 20}, {"d_conv": 1, "headdim": 8, "d_state": 20}],
}


@torch.inference_mode()
def largest_error(kind: str, sizes: dict[str, int], batch: int, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    model = BACKBONES.get(kind)(20, d_model=20, n_layer=1, **sizes).to(dtype).eval()
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    ids = torch.randint(0, 20, (batch, 8))
    plain, fused = model.init_state(batch, 0), model.init_state(batch, 0)
    for state in (plain, fused):
        model.prefill(model.embed(ids[:, :6]), state)
    blocks = [(block.norm, block.mixer) for block in model.backbone.blocks()]
    assert fusable(blocks)
    stack = model.backbone
    step = FusedStep(
        stack.embedding, blocks, stack.norm_f, model.lm_head, fused, dtype, torch.float32
    )
    errors = [
        error(step(ids[:, t]), model.step(model.embed(ids[:, t : t + 1])[:, 0], plain))
        for t in range(6, 8)
    ]
    for mine, theirs in zip(fused, plain, strict=True):
        errors += [error(mine.ssm, theirs.ssm)]
        errors += [error(mine.conv, theirs.conv)] if theirs.conv.numel() else []
    return max(errors)


if __name__ == "__main__":
    for kind in KINDS:
        cases = itertools.product(KINDS[kind], ((1, torch.float32), (3, torch.bfloat16)))
        for sizes, (batch, dtype) in cases:
            found = largest_error(kind, sizes, batch, dtype)
            print(kind, str(dtype).removeprefix("torch."), found)  # noqa: T201
