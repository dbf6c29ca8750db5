"""What a run's settings make of its training batches."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity
from ablate.config.schema import RunConfig
from ablate.data.samples import Sample, Turn
from ablate.data.templates import get_template
from ablate.data.text import IGNORE_INDEX
from ablate.data.tokenizer import EOS, train_tokenizer
from ablate.training.fit import collator
from tests.data.support import image, to_tensor
from tests.support import BASE

TOKENIZER = train_tokenizer(["a red circle is here", "render a summary"], "bpe", 400)
SAMPLES = [Sample("a", image(1), [Turn("Render a summary", f"a red circle{EOS} is here")])]


def config(**data: object) -> RunConfig:
    values = merge(expand(BASE, "base"), expand({"data": data}, "test"))
    return compose([Layer("test", values)])


def batch(**data: object) -> dict[str, torch.Tensor]:
    dataset: Any = SimpleNamespace(
        tokenizer=lambda cache: TOKENIZER, template=get_template("plain")
    )
    run = config(max_length=1000, **data)
    return collator(run, dataset, Path(), to_tensor)(SAMPLES)


def test_prompts_can_be_dropped() -> None:
    kept, dropped = batch(), batch(prompts="drop")
    learnt = kept["labels"][kept["labels"] != IGNORE_INDEX]
    assert kept["input_ids"].shape[1] > len(learnt)
    assert dropped["input_ids"].tolist() == dropped["labels"].tolist() == [learnt.tolist()]


def test_special_tokens_in_the_data_are_text_unless_they_are_meant() -> None:
    ends = [
        (batch(parse_special_tokens=meant)["labels"] == TOKENIZER.eos_id).sum().item()
        for meant in (False, True)
    ]
    assert ends == [1, 2]


def test_the_defaults_leave_older_runs_their_identity() -> None:
    unchanged = identity(config(prompts="keep", parse_special_tokens=False))
    assert unchanged == identity(config())
    assert identity(config(prompts="drop")) != unchanged
    assert identity(config(parse_special_tokens=True)) != unchanged
