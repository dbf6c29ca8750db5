"""Models that know every answer, or none, by each tokenizer and template."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from ablate.config.compose import Layer, compose, expand
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.placement import IMAGE_INDEX
from ablate.data.samples import Turn
from ablate.data.templates import get_template
from ablate.data.text import IGNORE_INDEX
from ablate.errors import DataError
from ablate.evaluation import evaluate as module
from ablate.evaluation.evaluate import evaluate
from ablate.models.generation import Generation
from ablate.sweeping.prepare import prepare
from ablate.tracking.progress import Display
from tests.data.support import encoded, to_tensor
from tests.data.test_templates import OWNERS
from tests.library_tokenizers import MAKERS, Library
from tests.support import BASE

COLOURS = ["blue", "4", "yes", "the user"]


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of three benchmarks, with four questions each, two of them to be affirmed."""
    cache = tmp_path_factory.mktemp("official")
    roots = {name: cache / "benchmarks" / name for name in ("pope", "vsr", "vqav2")}
    for root, images in zip(roots.values(), ("val2014", "images", "val2014"), strict=True):
        (root / images).mkdir(parents=True)
        for index in range(4):
            name = f"COCO_val2014_{index:012d}.jpg" if root.name == "vqav2" else f"{index}.jpg"
            (root / images / name).write_bytes(encoded(index, "jpeg"))
    for setting in ("random", "popular", "adversarial"):
        lines(
            roots["pope"] / f"coco_pope_{setting}.json",
            [
                {
                    "question_id": i,
                    "image": f"{i}.jpg",
                    "text": f"Is there a {setting} circle {i}?",
                    "label": ("yes", "no")[i % 2],
                }
                for i in range(4)
            ],
        )
    lines(
        roots["vsr"] / "test.jsonl",
        [
            {"image": f"{i}.jpg", "caption": f"It is on {i}.", "label": i % 2, "relation": "on"}
            for i in range(4)
        ],
    )
    questions = [{"image_id": i, "question": f"What is {i}?", "question_id": i} for i in range(4)]
    annotations = [
        {
            "question_id": i,
            "multiple_choice_answer": colour,
            "answer_type": "other",
            "answers": [{"answer": colour}] * 10,
        }
        for i, colour in enumerate(COLOURS)
    ]
    for name, values in (
        ("v2_OpenEnded_mscoco_val2014_questions.json", {"questions": questions}),
        ("v2_mscoco_val2014_annotations.json", {"annotations": annotations}),
    ):
        (roots["vqav2"] / name).write_text(json.dumps(values))
    return cache


def lines(path: Path, values: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


class Parrot:
    """A model that has conversations by heart, in tokens, and goes on with them."""

    encoder = SimpleNamespace(transform=to_tensor)
    connector = SimpleNamespace(num_output_tokens=1)

    def __init__(self, conversations: list[list[int]], vocab_size: int) -> None:
        self.conversations = conversations
        self.vocab_size = vocab_size

    def to(self, device: torch.device) -> Parrot:
        return self

    def eval(self) -> Parrot:
        return self

    def generate(
        self, pixels: Any, input_ids: Tensor, attention_mask: Tensor, **options: Any
    ) -> Generation:
        (end,) = options["stop_ids"]
        rows = [
            self.rest(ids[mask.bool()].tolist())
            for ids, mask in zip(input_ids, attention_mask, strict=True)
        ]
        logits = torch.zeros(len(rows), self.vocab_size)
        logits[range(len(rows)), [row[0] for row in rows]] = 1.0
        longest = max(map(len, rows))
        tokens = torch.tensor([row + [end] * (longest - len(row)) for row in rows])
        return Generation(tokens, torch.tensor([len(row) - 1 for row in rows]), logits)

    def features(self, pixels: Any) -> Any:
        return pixels

    def log_probabilities(
        self, pixels: Any, input_ids: Tensor, labels: Tensor, *images: Tensor | None
    ) -> Tensor:
        known = [
            ids[: int((label != IGNORE_INDEX).nonzero()[-1]) + 1].tolist() in self.conversations
            for ids, label in zip(input_ids, labels, strict=True)
        ]
        return torch.tensor(known).log()

    def rest(self, prompt: list[int]) -> list[int]:
        begun = [c for c in self.conversations if c[: len(prompt)] == prompt]
        (rest,) = {tuple(conversation[len(prompt) :]) for conversation in begun}
        return list(rest)


RIGHT = {"pope": {"yes": "Yes", "no": "No"}, "vsr": {}, "vqav2": {}}
WRONG = {
    "pope": {"yes": "No", "no": "Yes"},
    "vsr": {"True": "False", "False": "True"},
    "vqav2": dict.fromkeys(COLOURS, "red"),
}


@pytest.mark.parametrize("benchmark_name", ["pope", "vsr", "vqav2"])
@pytest.mark.parametrize("template", OWNERS)
@pytest.mark.parametrize("name", MAKERS)
def test_knowing_all_answers_scores_1_and_none_0(
    libraries: dict[str, Library],
    official: Path,
    name: str,
    template: str,
    benchmark_name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "read_once", module.read_anew)  # a parrot has no backbone
    library, benchmark = libraries[name], BENCHMARKS.get(benchmark_name)()
    samples = benchmark.samples(official, "test")
    dataset: Any = SimpleNamespace(
        tokenizer=lambda cache: library.ours, template=get_template(template)
    )
    run = compose([Layer("test", expand({**BASE, "evaluate": {"batch_size": 3}}, "test"))])
    reporter: Any = SimpleNamespace(progress=lambda phase, fraction: None)
    for given, score in [(RIGHT, 1.0), (WRONG, 0.0)]:
        conversations = []
        for index in range(len(samples)):
            (turn,) = samples[index].turns
            answer = given[benchmark_name].get(turn.answer, turn.answer)
            turns = [Turn(turn.question, answer)]
            ids, _ = OWNERS[template](library, turns, True)
            # An image's token is a padding token that attention sees.
            conversations.append([library.ours.pad_id if i == IMAGE_INDEX else i for i in ids])
        model: Any = Parrot(conversations, library.ours.vocab_size)
        records = evaluate(run, model, dataset, official, benchmark, reporter)
        assert benchmark.summarise(records)["accuracy"] == score
        predictions = [record["prediction"].casefold() for record in records]
        answers = [samples[i].turns[0].answer for i in range(len(samples))]
        expected = [given[benchmark_name].get(a, a).casefold() for a in answers]
        assert predictions == expected
        assert {record["log_probability"] for record in records} == {0.0 if score else -math.inf}


def test_choices_that_a_tokenizer_does_not_know_are_refused_before_training(official: Path) -> None:
    values = {**BASE, "evaluate": {"benchmarks": ["vsr"]}, "data": {"name": "easy-vqa"}}
    run = compose([Layer("test", expand(values, "test"))])
    with pytest.raises(DataError, match=r"vsr: .*cannot tell 'False' .*'<unk>'.* from 'True'"):
        prepare([run], official, Display(Console()))
