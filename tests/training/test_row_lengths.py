"""``max_length: auto``, and what is told of lengths and of templates before a sweep."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.identity import identity
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.text import encode_conversation
from ablate.data.tokenizer import train_tokenizer
from ablate.errors import ConfigError
from ablate.sweeping.dry_run import print_lengths
from ablate.sweeping.plan import Cell, Plan
from ablate.sweeping.sample_checks import check_samples, prepare_data
from ablate.training.fit import training_loader
from ablate.training.lengths import FOLDER, max_length, surveyed
from tests.data.support import to_tensor
from tests.data.test_llava import record, source
from tests.support import BASE


def run(folder: Path, args: dict[str, Any] | None = None, **data: Any) -> RunConfig:
    """A run on LLaVA's records, with the defaults but for a vocabulary that is soon trained."""
    if not folder.exists():
        long = record(7)
        long["conversations"][1]["value"] = "Very " * 40 + "red."
        source(folder, [long if i == 7 else record(i) for i in range(40)], 40)
    paths = {"json_file": str(folder / "data.json"), "images": str(folder / "images")}
    values = {"name": "llava", "args": {**paths, "vocab_size": 4000, **(args or {})}, **data}
    base = expand(BASE, "base") | {"data": values}
    return compose([Layer("test", merge(base, {"train": {"batch_size": 40, "max_steps": 1}}))])


def lengths(config: RunConfig, cache: Path) -> list[int]:
    dataset = data_set(config)
    samples, tokenizer = dataset.split(cache, "train"), dataset.tokenizer(cache)
    rows = [
        encode_conversation(samples[i].turns, dataset.template, tokenizer, 10_000)[0]
        for i in range(len(samples))
    ]
    return sorted(map(len, rows))


def remembered(cache: Path) -> list[Path]:
    return [path for path in (cache / FOLDER).iterdir() if path.is_dir()]


def test_auto_is_the_length_of_all_but_one_in_a_thousand(tmp_path: Path) -> None:
    config, cache = run(tmp_path / "given", max_length="auto"), tmp_path / "cache"
    dataset = data_set(config)
    prepare_data("test", config, cache)
    found = lengths(config, cache)
    assert max_length(config, dataset, cache) == found[-1]  # of 40, none is one in a thousand
    (kept,) = remembered(cache)
    many = np.array([*range(1, 1001), *[7] * 1000])
    np.save(kept / "lengths.npy", many)  # as of 2,000 conversations: two are longer
    assert max_length(config, dataset, cache) == 998
    np.save(kept / "lengths.npy", np.array([found[0]] * 4000 + [found[-1]]))
    loader, _ = training_loader(config, dataset, cache, to_tensor)
    (batch,) = loader
    assert batch["input_ids"].shape[1] == found[0] < found[-1]
    check_samples("test", config, cache)


def test_a_length_by_number_is_another_run() -> None:
    base = compose([Layer("base", expand(BASE, "base"))])
    auto = compose([Layer("base", merge(expand(BASE, "b"), {"data": {"max_length": "auto"}}))])
    assert identity(base) != identity(auto)
    for bad in ("many", 0, 2.5):
        with pytest.raises(ConfigError, match=r"data\.max_length"):
            compose([Layer("base", merge(expand(BASE, "b"), {"data": {"max_length": bad}}))])


def printed(config: RunConfig, cache: Path) -> str:
    console = Console(file=io.StringIO(), width=200)
    cells = [Cell({}, config, "test")] * 2
    print_lengths(console, Plan("test", "test", {}, cells), cache)
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_defaults_leave_room_for_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The system prompt of the default template is words, not letters."""
    config, cache = run(tmp_path / "given"), tmp_path / "cache"
    with caplog.at_level(logging.WARNING):
        prepare_data("test", config, cache)
    assert not caplog.records
    found = lengths(config, cache)
    assert found[-2] < 70
    said = printed(config, cache).splitlines()
    assert said[0] == (
        f"data llava, train: 40 conversations, tokens of text: median {found[19]}, 99 % within "
        f"{found[-1]}, longest {found[-1]}; max_length 256 cuts none"
    )
    assert [line.strip() for line in said[1:]] == ["images: 40 of 8 x 8"]
    short = run(tmp_path / "given", max_length=found[-2])
    assert f"max_length {found[-2]} cuts 1 of them (2.5%)" in printed(short, cache)
    assert len(remembered(cache)) == 1


def test_a_tokenizer_that_spells_the_template_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = tmp_path / "tokenizer.json"
    train_tokenizer(["What is in picture 3? A colour."] * 9, "bpe", 4000).save(given)
    config = run(tmp_path / "given", {"tokenizer": str(given)})
    with caplog.at_level(logging.WARNING):
        prepare_data("sweep.yaml", config, tmp_path / "cache")
    (told,) = caplog.messages
    assert told.startswith("sweep.yaml: data: the tokenizer splits the chat template's 34 words in")
    assert surveyed(config, data_set(config), tmp_path / "cache").auto > 200


def test_what_no_template_writes_is_said_by_a_dry_run(tmp_path: Path) -> None:
    config = run(tmp_path / "given", prompts="drop")
    prepare_data("test", config, tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"test \(cell base\): data: sample .* has 2 turns"):
        printed(config, tmp_path / "cache")
