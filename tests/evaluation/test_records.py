"""What is kept of an answered item: one format, and the probability of the right answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from ablate.config.registries import benchmark_named, data_set
from ablate.config.schema import RunConfig
from ablate.data.benchmarks.base import Benchmark
from ablate.data.benchmarks.metrics import METRICS
from ablate.data.samples import Sample, Turn
from ablate.data.text import IGNORE_INDEX, PromptCollator, encode_answer
from ablate.evaluation import evaluate as module
from ablate.evaluation.evaluate import evaluate
from ablate.evaluation.rescore import rescore
from ablate.models.images_read import ImagesRead
from ablate.models.vlm import VisionLanguageModel, build_model
from ablate.sweeping.work import keep_results
from tests.data.support import image
from tests.evaluation.test_score import Log, config, official

KEYS = ["id", "image_id", "question", "answer", "answers", "category", "prediction"]
BACKBONES = {
    "mamba1": {"name": "mamba1", "args": {"d_model": 32, "n_layer": 2}},
    "mamba2": {"name": "mamba2", "args": {"d_model": 32, "n_layer": 2}},
    "transformer": {
        "name": "transformer",
        "args": {"config": {"hidden_size": 32, "intermediate_size": 64}},
    },
}


class Several(Benchmark):
    """Three questions about two images and one without any; one has several annotators."""

    pictured = False
    """Leave out what has no image."""

    @property
    def max_new_tokens(self) -> int:
        return 4

    def samples(self, cache_dir: Path, split: Any, limit: int | None = None) -> list[Sample]:
        samples = [
            Sample("a", image(1), [Turn("is there a circle?", "")], "", ["yes", "no", "no", "yes"]),
            Sample("b", image(1), [Turn("what color is the shape?", "dark teal blue")]),
            Sample("c", image(2), [Turn("what?", "red"), Turn("is it red?", "yes")]),
            Sample("d", None, [Turn("what is it?", "a circle")]),
        ]
        return samples[:3] if self.pictured else samples

    def score(self, prediction: str, record: dict[str, Any]) -> float:
        return float(prediction in record["answers"])


def answered(
    run: RunConfig, cache: Path, benchmark: Benchmark
) -> tuple[VisionLanguageModel, list[dict[str, Any]]]:
    """A model that is not trained, and its records."""
    dataset = data_set(run)
    dataset.prepare(cache)
    model = build_model(run, dataset.tokenizer(cache).vocab_size)
    torch.manual_seed(0)
    with torch.no_grad():  # so that its answers differ
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model, evaluate(run, model, dataset, cache, benchmark, Log())


def plain_loop(
    model: VisionLanguageModel, sample: Sample, answer: str, cache: Path, run: RunConfig
) -> tuple[float, int]:
    """The log-probability of an answer, token by token, each from all that stands before it."""
    dataset = data_set(run)
    last = Turn(sample.turns[-1].question, answer)
    ids, labels = encode_answer(
        [*sample.turns[:-1], last],
        dataset.template,
        dataset.tokenizer(cache),
        image=sample.image is not None,
    )
    pixels = None if sample.image is None else model.encoder.transform(sample.image)[None]
    total, count = 0.0, 0
    for place, label in enumerate(labels):
        if label == IGNORE_INDEX:
            continue
        with torch.inference_mode():
            embeds, _ = model.sequence(pixels, torch.tensor([ids[:place]]))
            logits = model.backbone(embeds)[0, -1, : model.vocab_size].double()
        total += float(logits.log_softmax(-1)[label])
        count += 1
    return total, count


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_right_answers_probability_is_that_of_a_plain_loop(backbone: str, cache: Path) -> None:
    right = {"a": "no", "b": "dark teal blue", "c": "yes", "d": "a circle"}
    for size in (1, 4):
        run = config(backbone=BACKBONES[backbone], evaluate={"batch_size": size})
        model, records = answered(run, cache, Several())
        for record, sample in zip(records, Several().samples(cache, "test"), strict=True):
            expected, tokens = plain_loop(model, sample, right[sample.id], cache, run)
            assert record["log_probability"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
            assert record["tokens"] == tokens
            assert record["log_probability"] < 0
    assert records[1]["tokens"] == 4
    ids = [record["image_id"] for record in records]
    assert ids[0] == ids[1] != ids[2]
    assert ids[3] is None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_answers_are_what_they_are_without_it(backbone: str, cache: Path) -> None:
    run = config(backbone=BACKBONES[backbone], evaluate={"batch_size": 20, "limit": 20})
    benchmark = benchmark_named("easy-vqa")
    model, records = answered(run, cache, benchmark)
    dataset = data_set(run)
    tokenizer = dataset.tokenizer(cache)
    samples = benchmark.samples(cache, "test", 20)
    batch = PromptCollator(tokenizer, dataset.template, model.encoder.transform)(
        [samples[i] for i in range(20)]
    )
    pixels = batch["pixels"].index_select(0, batch["image_of_row"])
    tokens = model.generate(
        pixels,
        batch["input_ids"],
        batch["attention_mask"],
        max_new_tokens=benchmark.max_new_tokens,
        stop_ids=[tokenizer.eos_id],
    ).tokens.tolist()
    predictions = [record["prediction"] for record in records]
    assert predictions == [tokenizer.decode(row).strip() for row in tokens]
    assert len(set(predictions)) > 1


@pytest.mark.parametrize("backbone", BACKBONES)
def test_reading_an_image_once_changes_no_answer(
    backbone: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three questions about two images, prompts and answers of several lengths."""
    run = config(backbone=BACKBONES[backbone], evaluate={"batch_size": 20})
    monkeypatch.setattr(Several, "pictured", True)
    read: list[int] = []
    whole = ImagesRead.__init__
    monkeypatch.setattr(
        ImagesRead,
        "__init__",
        lambda self, model, pixels, room: (
            read.append(len(pixels)) or whole(self, model, pixels, room)
        ),
    )
    _, once = answered(run, cache, Several())
    assert read == [2]
    monkeypatch.setattr(module, "read_once", module.read_anew)
    _, anew = answered(run, cache, Several())
    assert read == [2]
    for one, other in zip(once, anew, strict=True):
        assert one.pop("log_probability") == pytest.approx(other.pop("log_probability"), abs=1e-4)
        assert one == other
    assert len({record["prediction"] for record in once}) > 1


def test_what_is_about_one_image_comes_together() -> None:
    names = [["b"], ["a"], [], ["b"], [], ["a"], ["c"], ["a", "b"]]
    assert module.by_image(names) == [0, 3, 1, 5, 2, 4, 6, 7]


def test_every_benchmark_has_the_same_record(cache: Path, tmp_path: Path) -> None:
    for name in ("pope", "vqav2"):
        if not (cache / "benchmarks" / name).exists():
            official(cache, name)
    for name in ("easy-vqa", "pope", "vqav2", "proxy-vqa", "proxy-pope"):
        benchmark = benchmark_named(name)
        _, records = answered(config(evaluate={"limit": 3}), cache, benchmark)
        choices = ["choice_probabilities"] if benchmark.choices else []
        assert [*records[0]] == [*KEYS, "log_probability", "tokens", *choices, "score"]
        keep_results(name, benchmark, records, tmp_path, Log())
        rows = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert rows["image_id"].notna().all()
        rescore(tmp_path / f"{name}.parquet", None, cache)
    assert records[0]["image_id"] != records[1]["image_id"]


def test_official_images_go_by_their_names(tmp_path: Path) -> None:
    official(tmp_path, "vqav2")
    sample = benchmark_named("vqav2").samples(tmp_path, "test")[0]
    assert sample.record([])["image_id"] == "COCO_val2014_000000000042"


def test_a_choices_probability_is_of_the_word_that_is_chosen(cache: Path) -> None:
    """POPE's official answers are in lower case, and its choices are not."""
    if not (cache / "benchmarks" / "pope").exists():
        official(cache, "pope")
    run = config(evaluate={"limit": 1})
    benchmark = benchmark_named("pope")
    model, (record,) = answered(run, cache, benchmark)
    sample = benchmark.samples(cache, "test")[0]
    assert record["answer"] == "no"
    expected, _ = plain_loop(model, sample, "No", cache, run)
    assert record["log_probability"] == pytest.approx(expected, rel=1e-4)


class WithOptions(Several):
    """Questions with two and three options of their own, one without an image."""

    @property
    def by_likelihood(self) -> bool:
        return True

    def samples(self, cache_dir: Path, split: Any, limit: int | None = None) -> list[Sample]:
        two, three = ["a circle", "red"], ["dark teal blue", "yes", "a"]
        return [
            Sample("a", image(1), [Turn("what is it?", "red")], choices=two),
            Sample("b", None, [Turn("what color is the shape?", "yes")], choices=three),
        ]

    def score(self, prediction: str, record: dict[str, Any]) -> float:
        return METRICS["likelihood"].score(prediction, record)


def test_options_are_as_likely_as_in_a_plain_loop(cache: Path, tmp_path: Path) -> None:
    benchmark = WithOptions()
    for size in (1, 2):
        run = config(evaluate={"batch_size": size})
        model, records = answered(run, cache, benchmark)
        for record, sample in zip(records, benchmark.samples(cache, "test"), strict=True):
            plain = [plain_loop(model, sample, c, cache, run)[0] for c in sample.choices]
            expected = torch.tensor(plain, dtype=torch.float64).softmax(0).tolist()
            found = record["choice_probabilities"]
            assert list(found) == ["A", "B", "C"][: len(plain)]
            assert list(found.values()) == pytest.approx(expected, rel=1e-3)
            likeliest = sample.choices[plain.index(max(plain))]
            assert record["score"] == float(likeliest == sample.turns[-1].answer)
    keep_results("mine", benchmark, records, tmp_path, Log())
    lines = rescore(tmp_path / "mine.parquet", "seed-bench", cache)
    assert lines[0] == "2 predictions"
    assert "score otherwise" not in lines[1]
