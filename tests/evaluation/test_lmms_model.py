"""A model as lmms-eval takes it, without that package: its few classes stand in for it here.

With the package, ``tests/sweeping/test_lmms.py`` (slow).
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ablate.config.registries import data_set
from ablate.data.samples import Sample, Turn
from ablate.evaluation.chat import Chat
from tests.data.support import image
from tests.evaluation.test_records import Several, answered, config, plain_loop

QUESTION = "what color is the shape?"


class Base:
    def __init__(self) -> None:
        self.task_dict: dict[str, Any] = {}


@dataclass
class Request:
    args: tuple[Any, ...]


@dataclass
class Result:
    text: Any


@pytest.fixture
def chat(cache: Path) -> Chat:
    run = config()
    model, _ = answered(run, cache, Several())
    dataset = data_set(run)
    return Chat(model, dataset.tokenizer(cache), dataset.template, [image(1)], max_new_tokens=6)


@pytest.fixture
def model(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> Any:
    parts = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {"Instance": Request, "GenerationResult": Result},
        "lmms_eval.api.model": {"lmms": Base},
    }
    for name, values in parts.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "ablate.evaluation.lmms_model", raising=False)
    made = importlib.import_module("ablate.evaluation.lmms_model").LmmsModel(chat, batch_size=2)
    monkeypatch.delitem(sys.modules, "ablate.evaluation.lmms_model")
    made.task_dict["t"] = {"test": [[image(1)], [], [image(2)], [image(1), image(2)]]}
    return made


def asked(doc: int, context: str, given: Any) -> Request:
    return Request((context, given, lambda images: images, doc, "t", "test"))


def test_answers_are_those_of_a_chat(model: Any, chat: Chat) -> None:
    said = chat.ask(QUESTION, lambda piece: None)
    usual = {"max_new_tokens": 6, "until": ["\n\n"], "num_beams": 1}
    cut = {**usual, "until": said.strip()[-3:]}
    requests = [asked(d, QUESTION, given) for d, given in ((0, usual), (1, usual), (0, cut))]
    first, without, shorter = model.generate_until(requests)
    assert first == said.strip()
    assert without != ""
    assert shorter == first[: first.index(first[-3:])].strip()


def test_losses_are_those_of_a_plain_loop(model: Any, chat: Chat, cache: Path) -> None:
    requests = [asked(0, QUESTION, " red"), asked(1, QUESTION, "dark teal blue")]
    found = [each.text for each in model.loglikelihood(requests)]
    for (loss, greedy), picture, answer in zip(
        found, (image(1), None), ("red", "dark teal blue"), strict=True
    ):
        sample = Sample("x", picture, [Turn(QUESTION, "")])
        expected, _ = plain_loop(chat.model, sample, answer, cache, config())
        assert loss == pytest.approx(-expected, rel=1e-4)
        assert greedy is False
    said = model.generate_until([asked(0, QUESTION, {"max_new_tokens": 1})])[0]
    ((_, greedy),) = [r.text for r in model.loglikelihood([asked(0, QUESTION, lambda doc: said)])]
    assert greedy is True


def test_what_a_model_of_ours_has_not_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="t: item 3 has not one image"):
        model.generate_until([asked(3, QUESTION, {})])
    with pytest.raises(ValueError, match="num_beams is 5"):
        model.generate_until([asked(0, QUESTION, {"num_beams": 5})])
    with pytest.raises(ValueError, match="several rounds"):
        model.generate_until_multi_round([])
