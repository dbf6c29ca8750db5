"""lmms-eval's tasks: what they give for a trained model equals what our own benchmarks give."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from ablate.errors import ConfigError
from ablate.sweeping.lmms import LmmsTasks
from tests.support import ablate, runs, write

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220)}
TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: {file}}}
test_split: test
output_type: {kind}
doc_to_visual: !function visual.of
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
{more}
metric_list:
  - {{metric: {metric}, aggregation: mean, higher_is_better: true}}
"""
VISUAL = """
from PIL import Image


def of(doc):
    return [Image.open(doc["image"])]
"""


def test_a_package_that_is_not_there_is_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "lmms_eval", None)
    with pytest.raises(ConfigError, match=r"uv run --with lmms-eval==\S+ --with 'filelock<4'"):
        LmmsTasks(["mme"])


def test_tasks_and_benchmarks_are_not_asked_at_once(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ablate("evaluate", "x", "--lmms-eval", "mme", "--benchmarks", "pope") == 2
    assert "--lmms-eval: stands beside --benchmarks; give one" in capsys.readouterr().err


def pictures(folder: Path, count: int = 48) -> Path:
    """Questions about plain pictures: LLaVA's records, and the same as lines for benchmarks."""
    records, lines = [], []
    for number in range(count):
        name = list(COLOURS)[number * 7 % 5 % 3]
        shade = tuple(min(255, value + number % 11) for value in COLOURS[name])
        path = folder / f"{number}.png"
        Image.new("RGB", (16, 16), shade).save(path)
        turns = [
            {"from": "human", "value": "<image>\nwhat color is it?"},
            {"from": "gpt", "value": name},
        ]
        records.append({"id": str(number), "image": path.name, "conversations": turns})
        about = {"question": "what color is it?", "answer": name, "choices": [*COLOURS]}
        lines.append({"id": str(number), "image": str(path), **about})
    (folder / "data.json").write_text(json.dumps(records))
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.slow  # and of a package that is installed for it
def test_a_tasks_score_is_that_of_our_benchmark_for_the_same_items(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("lmms_eval")
    monkeypatch.setenv("HF_HOME", str(house / "hf"))
    pictures(house)
    (house / "visual.py").write_text(VISUAL)
    items = house / "items.jsonl"
    for name, kind, metric, more in (
        ("written", "generate_until", "exact_match", "generation_kwargs: {max_new_tokens: 8}"),
        ("chosen", "multiple_choice", "acc", 'doc_to_choice: "{{choices}}"'),
    ):
        text = TASK.format(name=name, file=items, kind=kind, metric=metric, more=more)
        (house / f"{name}.yaml").write_text(text)
        assert yaml.safe_load(text.replace("!function ", ""))["task"] == name
    asked: list[Any] = [
        {"written": {"name": "file", "args": {"file": str(items), "max_new_tokens": 8}}},
        {"chosen": {"name": "file", "args": {"file": str(items), "metric": "likelihood"}}},
    ]
    data = {"json_file": "data.json", "images": ".", "vocab_size": 300, "template": "plain"}
    sweep = {
        "base": "base.yaml",
        "data": {"name": "llava", "args": data, "max_length": 64},
        "train": {"max_steps": 12, "batch_size": 16, "lr": 3.0e-3},
        "evaluate": {"benchmarks": asked, "limit": None},
        "measure.what": [],
    }
    write(house / "s.yaml", sweep)
    assert ablate("sweep", "s.yaml") == 0
    capsys.readouterr()
    assert ablate("evaluate", "base-s0", "--lmms-eval", "written.yaml,chosen.yaml") == 0
    (run,) = runs("cell")
    metrics = run.data.metrics
    assert 0.2 < metrics["written/accuracy"] < 1
    assert metrics["lmms-eval/written/exact_match"] == pytest.approx(metrics["written/accuracy"])
    assert metrics["lmms-eval/chosen/acc"] == pytest.approx(metrics["chosen/accuracy"])
    assert run.data.tags["ablate.made/lmms-eval"]
    printed = capsys.readouterr().out
    assert f"base-s0: written/exact_match {metrics['written/accuracy']:.6g}" in printed
    artifacts = house / "mlartifacts"
    (kept,) = artifacts.rglob("lmms-eval/written.jsonl")
    assert len(kept.read_text().splitlines()) == 48
    assert ablate("evaluate", "base-s0", "--lmms-eval", "writen.yaml") == 2
    assert "writen.yaml: defines no task" in capsys.readouterr().err
