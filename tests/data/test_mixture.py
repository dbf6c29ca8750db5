"""Mixtures: weights are passes an epoch, over one vocabulary, resumable like any data set."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import ablate.data.proxies.base
from ablate.components.registry import UnknownComponentError
from ablate.data import DATASETS
from ablate.data.loading import SeededSampler, make_loader
from ablate.data.mixture import Mixture, WeightedSamples, passes
from ablate.data.tokenizer import train_tokenizer
from tests.data.support import Numbers

SIZES = {"proxy-vqa": 40, "proxy-vsr": 30}
PART_ARGS = {name: {"train_samples": size} for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ablate.data.proxies.base, "EVAL_SAMPLES", {"validation": 9, "test": 6})
        mixture(1, 1).prepare(directory)
    return directory


def mixture(vqa: float, vsr: float, **options: Any) -> Mixture:
    return Mixture(parts={"proxy-vqa": vqa, "proxy-vsr": vsr}, part_args=PART_ARGS, **options)


@pytest.mark.parametrize("weight", [0.25, 0.5, 1, 1.5, 2, 3.1])
def test_weight_is_the_number_of_passes(weight: float) -> None:
    counts = Counter(passes(40, weight).tolist())
    assert sum(counts.values()) == round(40 * weight)
    assert set(counts.values()) <= {int(weight), int(weight) + 1}


def test_samples_of_all_parts(cache: Path) -> None:
    train = mixture(2, 0.5).split(cache, "train")
    counts = Counter(train[i].id for i in range(len(train)))
    by_part = Counter(name.split("/")[0] for name in counts.elements())
    assert by_part == {"proxy-vqa": 80, "proxy-vsr": 15}
    assert {n for name, n in counts.items() if name.startswith("proxy-vqa")} == {2}
    assert {n for name, n in counts.items() if name.startswith("proxy-vsr")} == {1}
    validation = mixture(2, 0.5).split(cache, "validation")
    assert len(validation) == 18
    with pytest.raises(IndexError):
        validation[18]


def test_one_vocabulary_for_all(cache: Path) -> None:
    mixed = mixture(1, 1)
    tokenizer = mixed.tokenizer(cache)
    unknown = tokenizer.encode("<unk>")
    samples = mixed.split(cache, "train")
    for i in range(len(samples)):
        turn = samples[i].turns[0]
        assert unknown[0] not in tokenizer.encode(f"{turn.question} {turn.answer}")


def test_fingerprint_knows_the_weights(cache: Path) -> None:
    assert mixture(1, 1).fingerprint(cache) == mixture(1, 1).fingerprint(cache)
    assert mixture(1, 1).fingerprint(cache) != mixture(1, 2).fingerprint(cache)


def test_a_given_tokenizer_is_used(cache: Path) -> None:
    path = DATASETS.get("proxy-vqa")(**PART_ARGS["proxy-vqa"]).split_directory(cache, "train")  # type: ignore[attr-defined]
    mixed = mixture(1, 1, tokenizer=str(path / "tokenizer.json"))
    mixed.prepare(cache)
    assert mixed.tokenizer(cache).vocab_size < mixture(1, 1).tokenizer(cache).vocab_size


def test_a_chat_template_goes_with_a_given_tokenizer(cache: Path, tmp_path: Path) -> None:
    given = tmp_path / "tokenizer.json"
    train_tokenizer(["a colour"], "word", 40).save(given)
    fingerprints = set()
    for jinja in ("", "{{ messages[0].content }}", "{{ messages[1].content }}"):
        if jinja:
            given.with_name("chat_template.jinja").write_text(jinja)
        mixed = mixture(1, 1, tokenizer=str(given), template="tokenizer")
        mixed.prepare(cache)
        assert mixed.tokenizer(cache).config.get("chat_template", "") == jinja
        fingerprints.add(mixed.fingerprint(cache))
    assert len(fingerprints) == 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mixture_resumes_at_the_sample_where_it_stopped(workers: int) -> None:
    samples = WeightedSamples({"a": (Numbers(7), 2), "b": (Numbers(10), 0.5)})

    def ids(batch: Any) -> list[str]:
        return [sample.id for sample in batch]

    def start() -> Any:
        sampler = SeededSampler(len(samples), 5, True)
        return make_loader(samples, ids, 4, sampler=sampler, num_workers=workers)

    whole = list(start())
    assert Counter(i for batch in whole for i in batch).total() == 19
    first = start()
    iterator = iter(first)
    done = [next(iterator), next(iterator)]
    second = start()
    second.load_state_dict(first.state_dict())
    assert done + list(second) == whole


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="needs parts"):
        Mixture(parts={})
    with pytest.raises(ValueError, match="weight of 'proxy-vqa' must be above 0"):
        Mixture(parts={"proxy-vqa": 0})
    with pytest.raises(ValueError, match="'easy-vqa', which is not one of the parts"):
        Mixture(parts={"proxy-vqa": 1}, part_args={"easy-vqa": {}})
    with pytest.raises(UnknownComponentError, match="did you mean 'proxy-vqa'"):
        Mixture(parts={"proxyvqa": 1})
