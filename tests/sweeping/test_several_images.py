"""A mixed set of one-, two- and no-image conversations trains, evaluates and chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from ablate.cli.main import main
from ablate.config.compose import Layer, compose, expand, merge
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.base import Split
from ablate.data.benchmarks.base import Benchmark, exact_match
from ablate.data.llava import LLaVA
from ablate.data.samples import Sample, Samples
from ablate.data.subsets import limited
from ablate.evaluation.chat import open_chat
from ablate.models.generation import GREEDY
from ablate.models.saved import MODEL
from ablate.processes.messages import Reporter
from ablate.sweeping import work
from ablate.sweeping.metric_names import own_metrics
from ablate.training.feature_cache import requests
from tests.data.support import image
from tests.support import BASE, Quiet
from tests.sweeping.test_golden import Kept

COLOURS = {"red": 250, "blue": 5}
PAIR = "<image>\nand\n<image>\nWhich is the second?"


def asked(*said: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(said)]


def records() -> list[dict[str, Any]]:
    """Conversations in turn about one image, two, none, and two of which one is shown later."""
    found = []
    for number in range(24):
        first, second = ("red", "blue") if number % 8 < 4 else ("blue", "red")
        files = [f"{number}-{first}.png", f"{number}-{second}.png"]
        one = {"image": files[0], "conversations": asked("<image>\nWhich is it?", first)}
        two = {"image": files, "conversations": asked(PAIR, second)}
        none = {"conversations": asked("Is red a colour?", "yes")}
        later = asked("<image>\nWhich is it?", first, "And <image>?", second)
        kinds = [one, two, none, {"image": files, "conversations": later}]
        found.append({"id": str(number), **kinds[number % 4]})
    return found


class Held(Benchmark):
    """The validation split of the data below."""

    def __init__(self, *, json_file: str = "data.json") -> None:
        super().__init__()

    @property
    def max_new_tokens(self) -> int:
        return 4

    def samples(self, cache_dir: Path, split: Split, limit: int | None = None) -> Samples[Sample]:
        data = LLaVA(**DATA)
        data.prepare(cache_dir)
        return limited(data.split(cache_dir, "validation"), limit)

    def score(self, prediction: str, record: dict[str, Any]) -> float:
        return exact_match(prediction, record["answers"])


DATA: dict[str, Any] = {
    "json_file": "data.json",
    "images": "images",
    "vocab_size": 300,
    "validation_every": 3,
    "template": "plain",
}


def config(**changes: Any) -> RunConfig:
    given = {
        "data": {"name": "llava", "args": DATA, "max_length": 40},
        "train": {"max_steps": 4, "batch_size": 8, "validate_every": 4},
        "evaluate": {"benchmarks": [f"{__name__}:Held"], "limit": None, "batch_size": 3},
        "measure": {"what": []},
    }
    values = merge(expand(BASE, "base"), expand(given, "t"))
    return compose([Layer("t", merge(values, expand(changes, "t")))])


@pytest.fixture
def own(house: Path) -> Path:
    (house / "images").mkdir()
    for number in range(24):  # what is held out is held out by images
        for name, value in COLOURS.items():
            path = house / "images" / f"{number}-{name}.png"
            image(abs(value - number), (64, 64)).save(path)
    (house / "data.json").write_text(json.dumps(records()))
    return house


def run(
    chosen: RunConfig, cache: Path, out: Path, reporter: Reporter | None = None
) -> pd.DataFrame:
    torch.set_num_threads(1)
    out.mkdir()
    data_set(chosen).prepare(cache)
    work.train_and_evaluate(chosen, cache, out, reporter or Quiet())
    (predictions,) = out.glob("*.parquet")
    return pd.read_parquet(predictions)


def test_a_mixed_set_trains_evaluates_and_chats(own: Path) -> None:
    cache = own / "cache"
    chosen = config()
    found = run(chosen, cache, own / "run")
    assert len(found) == 8
    assert found["image_id"].isna().sum() == 2
    assert (found["image_id"].str.count(r"\+") == 1).sum() == 4
    assert found["log_probability"].lt(0).all()

    two = found[found["question"].str.contains("second")].iloc[0]
    files = records()[int(two["id"].split("-")[-1])]["image"]
    shown = [Image.open(own / "images" / name).convert("RGB") for name in files]
    chat = open_chat(own / "run" / MODEL, shown, 4, GREEDY)
    assert chat.ask(PAIR, lambda piece: None).strip() == two["prediction"]
    assert chat.turns[0].places == (0, 5)
    again = open_chat(own / "run" / MODEL, chat.images, 4, GREEDY)
    again.ask("Which is the second?", lambda piece: None)
    assert again.turns[0].places == (0, 1)  # before the question, a line each
    assert again.turns[0].question == "\n\nWhich is the second?"


@pytest.mark.parametrize("template", ["plain", "llava-1.5-inside"])
def test_stored_features_change_nothing(template: str, own: Path) -> None:
    cache = own / "cache"
    data = {"data.args": DATA | {"template": template}, "data.max_length": 200}
    chosen = config(encoder={"policy": "freeze"}, **data)
    plain = run(chosen, cache, own / "plain")
    (request,) = requests([chosen], cache, data_set)
    assert request.images == 4 * 5 + 2 * 5  # of training and of validation
    work.store_features(chosen, cache, Quiet())
    pd.testing.assert_frame_equal(run(chosen, cache, own / "stored"), plain)


@pytest.mark.parametrize("backbone", ["mamba2", "transformer"])
def test_packed_training_is_training_row_by_row(backbone: str, own: Path) -> None:
    """The last step has fewer conversations, and its last part has one."""
    given = {"backbone": {"name": backbone}, "train": {"batch_size": 6, "accumulate": 2}}
    found = []
    for pack in (None, 300):
        chosen = config(**given, data={"pack": pack})
        run(chosen, own / "cache", own / f"run-{pack}", kept := Kept())
        assert ("data/fill" in own_metrics(chosen)) == (pack is not None)
        found.append(kept.values)
    apart, packed = found
    assert packed.pop("data/fill") > 0.8
    assert packed.keys() == apart.keys()
    # Floating-point operations count padding and each image.
    assert packed.pop("train/flops") < apart.pop("train/flops")
    assert packed == pytest.approx(apart, rel=1e-3)


def test_the_command_takes_several_images(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(config(), own / "cache", own / "run")
    files = ["--image", "images/0-red.png", "--image", "images/0-blue.png"]
    for question, code in ((PAIR, 0), ("Which?", 0), ("Is <image> red?", 2)):
        with pytest.raises(SystemExit) as ended:
            main(["chat", "--model", f"run/{MODEL}", *files, "--question", question])
        assert (ended.value.code or 0) == code
    error = capsys.readouterr().err
    assert "command line: question: has <image> 1 times for 2 images; write it once for" in error
    assert error.count("\n") == 1


def test_bad_records_are_named(own: Path) -> None:
    bad = records()[0] | {"id": "x", "image": ["0-red.png", "0-red.png"]}
    listed = [*records(), bad]
    (own / "data.json").write_text(json.dumps(listed))
    data = LLaVA(**DATA)
    data.prepare(own / "cache")
    problems = (data.directory(own / "cache") / "problems.jsonl").read_text()
    assert json.loads(problems)["reason"] == "names 2 images and has <image> 1 times"
    assert json.loads(problems)["id"] == "x"
