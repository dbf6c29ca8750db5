"""A transformer's fused decoding step against its own, by Triton's interpreter; a program of its
own.

Triton decides at its import whether to interpret. Prints the largest relative error of logits, keys
and values, and of what, for the test that runs it.
"""

from __future__ import annotations

import itertools

import torch

from ablate.components.backbones import BACKBONES
from ablate.components.backbones.transformer_decode import FixedState
from ablate.components.backbones.transformer_fused import FusedTransformerStep
from ablate.components.backbones.transformer_layers import known
from tests.components.interpreted import error
from tests.components.transformer_kinds import KINDS

PROMPT, NEW = 67, 3  # in two chunks of the attention
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@torch.inference_mode()
def largest_error(kind: str, batch: int, dtype: torch.dtype) -> float:
    torch.manual_seed(0)
    model = BACKBONES.get("transformer")(20, architecture=kind, config=KINDS[kind])
    model = model.to(dtype).eval()
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    assert known(model.model)
    ids = torch.randint(0, 20, (batch, PROMPT + NEW))
    mask = torch.ones(batch, PROMPT, dtype=torch.long)
    # A row that begins in the attention's second chunk, which sees nothing of the first.
    mask[-1, :65] = 0 if batch > 1 else 1
    plain, fast = (model.init_state(batch, PROMPT + NEW) for _ in range(2))
    for state in (plain, fast):
        model.prefill(model.embed(ids[:, :PROMPT]), state, mask if batch > 1 else None)
    fixed = FixedState(fast.cache, batch)
    fixed.load(fast)
    step = FusedTransformerStep(model.model, fixed)
    errors = [
        error(step(ids[:, t]), model.step(model.embed(ids[:, t : t + 1])[:, 0], plain))
        for t in range(PROMPT, PROMPT + NEW)
    ]
    for mine, theirs in zip(fixed.layers, plain.cache.layers, strict=True):
        for fixed_part, part in zip(mine.fixed, (theirs.keys, theirs.values), strict=True):
            errors.append(error(fixed_part[:, :, : PROMPT + NEW], part))
    return max(errors)


if __name__ == "__main__":
    for kind, batch, dtype in itertools.product(KINDS, (1, 3), DTYPES):
        print(kind, str(dtype).removeprefix("torch."), largest_error(kind, batch, dtype))  # noqa: T201
