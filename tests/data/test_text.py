"""Tokenisers, templates, labels, truncation and collation."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import pytest
import tokenizers
import torch
from PIL import Image

from ablate.data.loading import SeededSampler, make_loader
from ablate.data.samples import Sample, Turn, image_key, majority
from ablate.data.templates import get_template
from ablate.data.text import (
    IGNORE_INDEX,
    PromptCollator,
    TooLongError,
    TrainCollator,
    Transform,
    encode_answer,
    encode_choices,
    encode_conversation,
    encode_prompt,
    right_answer,
    stack_pixels,
)
from ablate.data.tokenizer import Tokenizer, train_tokenizer
from tests.data.support import Numbers, image, to_tensor
from tests.library_tokenizers import MAKERS, Library

TEXTS = ["what color is the shape?", "red", "Is there a circle?", "yes", "no", "user: assistant:"]
TURNS = [Turn("what color is the shape?", "red"), Turn("is there a circle?", "yes")]


@pytest.fixture(params=["word", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return train_tokenizer(TEXTS, request.param, 400)


def test_word_level_gives_every_word_one_id() -> None:
    tokenizer = train_tokenizer(TEXTS, "word", 100)
    assert len(tokenizer.encode("red")) == len(tokenizer.encode("YES")) == 1
    assert tokenizer.encode("Is There?") == tokenizer.encode("is there ?")
    assert len(tokenizer.encode("is there?")) == 3
    assert (
        tokenizer.decode(tokenizer.encode("what color is the shape")) == "what color is the shape"
    )
    assert tokenizer.decode(tokenizer.encode("zebra")) == ""


def test_bpe_gives_any_text_back() -> None:
    tokenizer = train_tokenizer(TEXTS, "bpe", 300)
    for text in ["what color is the shape?", "Zebra — été\n {x}  y", " leading"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_training_is_deterministic(tokenizer: Tokenizer) -> None:
    kind = "word" if len(tokenizer.encode("circle")) == 1 and tokenizer.vocab_size < 100 else "bpe"
    again = train_tokenizer(TEXTS, kind, 400)  # type: ignore[arg-type]
    assert again.backend.to_str() == tokenizer.backend.to_str()


def test_vocab_size_bounds_ids(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" ".join(TEXTS) + "<|endoftext|>")
    assert max(ids) < tokenizer.vocab_size <= 400
    assert tokenizer.pad_id != tokenizer.eos_id


def test_decode_stops_at_the_end_token(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.pad_id, *tokenizer.encode("red"), tokenizer.eos_id, *tokenizer.encode("no")]
    assert tokenizer.decode(ids) == "red"


def test_save_and_load(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    text = "is there a red circle?"
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.pad_id, loaded.eos_id) == (tokenizer.pad_id, tokenizer.eos_id)
    assert pickle.loads(pickle.dumps(loaded)).encode(text) == tokenizer.encode(text)


def test_load_says_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no tokenizer at"):
        Tokenizer.load(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        Tokenizer.load(tmp_path / "tokenizer.json")


def test_special_tokens_of_a_foreign_tokenizer() -> None:
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "</s>": 1}, unk_token="a"))
    assert Tokenizer(backend).eos_id == 1
    assert Tokenizer(backend).pad_id == 1
    with pytest.raises(ValueError, match="no token '<end>'"):
        Tokenizer(backend, eos_token="<end>")
    with pytest.raises(ValueError, match="name its own as eos_token"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a")))


def spelled(turns: list[Turn], name: str) -> str:
    tokenizer = train_tokenizer(TEXTS, "bpe", 400)
    ids, _ = encode_conversation(turns, get_template(name), tokenizer, 10_000)
    return str(tokenizer.backend.decode(ids, skip_special_tokens=False))


def test_templates_spell_the_published_conversations() -> None:
    assert spelled(TURNS, "plain") == (
        "what color is the shape?\nred<|endoftext|>\nis there a circle?\nyes<|endoftext|>"
    )
    assert spelled(TURNS, "ml-mamba") == (
        "<|user|>\nwhat color is the shape?<|endoftext|>\n<|assistant|>\nred<|endoftext|>\n"
        "<|user|>\nis there a circle?<|endoftext|>\n<|assistant|>\nyes<|endoftext|>"
    )
    assert spelled(TURNS, "llava-1.5") == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: \nwhat color is the shape? ASSISTANT: red<|endoftext|>"
        "USER: is there a circle? ASSISTANT: yes<|endoftext|>"
    )


def test_braces_in_a_question_are_plain_text() -> None:
    assert spelled([Turn("what is {eos} {0}?", "{answer}")], "plain") == (
        "what is {eos} {0}?\n{answer}<|endoftext|>"
    )


def test_unknown_template() -> None:
    with pytest.raises(ValueError, match="did you mean 'ml-mamba'"):
        get_template("mlmamba")


def test_truncation_keeps_some_supervision_or_raises(tokenizer: Tokenizer) -> None:
    template = get_template("plain")
    ids, labels = encode_conversation(TURNS, template, tokenizer, 1000)
    first = next(i for i, label in enumerate(labels) if label != IGNORE_INDEX)
    for length in range(1, len(ids) + 1):
        if length <= first:
            with pytest.raises(TooLongError, match=f"max_length = {length} "):
                encode_conversation(TURNS, template, tokenizer, length)
        else:
            cut = encode_conversation(TURNS, template, tokenizer, length)
            assert cut == (ids[:length], labels[:length])


def samples() -> list[Sample]:
    return [
        Sample("a", image(1), TURNS),
        Sample("b", image(2), TURNS[:1], "color", ["red", "crimson"]),
    ]


def test_train_batch(tokenizer: Tokenizer) -> None:
    template = get_template("plain")
    batch = TrainCollator(tokenizer, template, to_tensor, 100)(samples())
    assert batch["pixels"].shape == (2, 3, 8, 8)
    for row, sample in enumerate(samples()):
        ids, labels = encode_conversation(sample.turns, template, tokenizer, 100)
        rest = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row].tolist() == ids + [tokenizer.pad_id] * rest
        assert batch["labels"][row].tolist() == labels + [IGNORE_INDEX] * rest
        assert batch["attention_mask"][row].tolist() == [1] * len(ids) + [0] * rest
    assert rest > 0


def test_prompt_batch(tokenizer: Tokenizer) -> None:
    template = get_template("ml-mamba")
    batch = PromptCollator(tokenizer, template, to_tensor)(samples())
    for row, sample in enumerate(samples()):
        ids = encode_prompt(sample.turns, template, tokenizer)
        rest = batch["input_ids"].shape[1] - len(ids)
        assert batch["input_ids"][row].tolist() == [tokenizer.pad_id] * rest + ids
        assert batch["attention_mask"][row].tolist() == [0] * rest + [1] * len(ids)
    assert batch["samples"][1] == {
        "id": "b",
        "image_id": image_key(image(2)).hex(),
        "question": "what color is the shape?",
        "answer": "red",
        "answers": ["red", "crimson"],
        "category": "color",
    }
    assert batch["samples"][0]["answers"] == ["yes"]
    with pytest.raises(TooLongError, match="sample 'a': the prompt has"):
        PromptCollator(tokenizer, template, to_tensor, 3)(samples())


def test_dict_of_pixels(tokenizer: Tokenizer) -> None:
    def both(picture: object) -> dict[str, torch.Tensor]:
        return {"x": torch.zeros(3, 4, 4), "y": torch.ones(3, 2, 2)}

    batch = TrainCollator(tokenizer, get_template("plain"), both, 100)(samples())
    assert {k: v.shape for k, v in batch["pixels"].items()} == {
        "x": (2, 3, 4, 4),
        "y": (2, 3, 2, 2),
    }


class Both:
    """An encoder's transform to two kinds of pixels."""

    def __call__(self, picture: Image.Image) -> dict[str, torch.Tensor]:
        pixels = to_tensor(picture)
        return {"half": pixels[:, ::2].half(), "whole": pixels}


def stack(samples: list[Sample], transform: Transform) -> object:
    """``stack_pixels`` as a collator of samples."""
    return stack_pixels([sample.image for sample in samples], transform)


@pytest.mark.parametrize("transform", [to_tensor, Both()])
@pytest.mark.parametrize("workers", [0, 2])
def test_pixels_are_stacked_alike_in_workers(transform: Transform, workers: int) -> None:
    numbers = Numbers(7)
    collate = partial(stack, transform=transform)
    found = list(
        make_loader(numbers, collate, 3, sampler=SeededSampler(7, 0, False), num_workers=workers)
    )
    for batch, indices in zip(found, ([0, 1, 2], [3, 4, 5], [6]), strict=True):
        pixels = [transform(numbers[i].image) for i in indices]
        if isinstance(pixels[0], dict):
            for key in pixels[0]:
                assert torch.equal(batch[key], torch.stack([p[key] for p in pixels]))
        else:
            assert torch.equal(batch, torch.stack(pixels))


@pytest.mark.parametrize("template", ["plain", "ml-mamba", "llava-1.5"])
@pytest.mark.parametrize("name", MAKERS)
def test_labels_of_the_right_answer_are_those_of_the_last_turn(
    libraries: dict[str, Library], name: str, template: str
) -> None:
    tokenizer, written = libraries[name].ours, get_template(template)
    ids, labels = encode_answer(TURNS, written, tokenizer)
    assert ids == encode_conversation(TURNS, written, tokenizer, 1000)[0]
    learnt = [place for place, label in enumerate(labels) if label != IGNORE_INDEX]
    assert learnt == list(range(learnt[0], learnt[-1] + 1))
    answer = [labels[place] for place in learnt]
    assert answer[-1] == tokenizer.eos_id
    assert tokenizer.decode(answer).strip() == TURNS[-1].answer
    assert encode_answer(TURNS[-1:], written, tokenizer)[1][-len(answer) :] == answer


def test_the_right_answer_is_the_majoritys() -> None:
    assert majority(["net", "bow", "net", "bow", "hat"]) == "bow"
    assert right_answer(["b", "a", "b"], ()) == "b"
    assert right_answer(["yes"], ("Yes", "No")) == "Yes"
    assert right_answer(["maybe"], ("Yes", "No")) == "maybe"


def test_too_long_rows_raise(tokenizer: Tokenizer) -> None:
    long = Sample("long", image(0), [Turn("is there a circle? " * 50, "no")])
    with pytest.raises(TooLongError, match="sample 'long'"):
        TrainCollator(tokenizer, get_template("plain"), to_tensor, 60)([*samples(), long])


def test_rows_without_an_image(tokenizer: Tokenizer) -> None:
    first, second = samples()
    text = Sample("t", None, TURNS)
    for collate, key, with_image, without in (
        (TrainCollator, "has_image", [True, True], False),
        (PromptCollator, "image_of_row", [0, 1], -1),
    ):
        collate = collate(tokenizer, get_template("plain"), to_tensor, 100)
        batch = collate([first, text, second])
        assert batch["input_ids"].shape[0] == 3
        assert batch[key].tolist() == [with_image[0], without, with_image[1]]
        assert torch.equal(batch["pixels"], collate([first, second])["pixels"])
        batch = collate([text])
        assert batch["pixels"] is None
        assert batch[key].tolist() == [without]


def test_an_image_of_several_prompts_is_there_once(tokenizer: Tokenizer) -> None:
    first, second = samples()
    again = Sample("again", first.image.copy(), TURNS)  # type: ignore[union-attr]
    collate = PromptCollator(tokenizer, get_template("plain"), to_tensor, 100)
    batch = collate([second, first, again])
    assert batch["image_of_row"].tolist() == [0, 1, 1]
    assert torch.equal(batch["pixels"], collate([second, first])["pixels"])
    ids = [record["image_id"] for record in batch["samples"]]
    assert ids[1] == ids[2] != ids[0]


def test_a_sample_needs_a_turn() -> None:
    with pytest.raises(ValueError, match="sample 'x' has no turn"):
        Sample("x", None, [])


@pytest.mark.parametrize("template", ["plain", "ml-mamba", "llava-1.5"])
@pytest.mark.parametrize("name", MAKERS)
def test_choices_are_told_apart_where_they_first_differ(
    libraries: dict[str, Library], name: str, template: str
) -> None:
    tokenizer, written = libraries[name].ours, get_template(template)
    for choices in [("Yes", "No"), ("True", "False"), ("4", "5"), ("Yes", "Yes and no")]:
        before, tokens = encode_choices([Turn("4 or 5?", "")], choices, written, tokenizer)
        assert len(set(tokens)) == len(choices)
        for choice, token in zip(choices, tokens, strict=True):
            ids, labels = encode_conversation([Turn("4 or 5?", choice)], written, tokenizer, 1000)
            assert ids[: len(before) + 1] == [*before, token]
            assert labels[len(before)] == token


def test_what_choices_have_in_common_is_given(libraries: dict[str, Library]) -> None:
    tokenizer = libraries["llama-fast"].ours  # which has digits by themselves: "▁", "4"
    template = get_template("llava-1.5")
    sample = Sample("a", image(1), [Turn("4 or 5?", "4")])
    batch = PromptCollator(tokenizer, template, to_tensor, choices=("4", "5"))([sample])
    (row,), (begun,), (choices,) = (
        batch[k].tolist() if k != "begun" else batch[k] for k in ("input_ids", "begun", "choices")
    )
    prompt = encode_prompt(sample.turns, template, tokenizer)
    assert row == [*prompt, *begun]
    names = [tokenizer.backend.id_to_token(token) for token in (*begun, *choices)]
    assert names == ["▁", "4", "5"]


def test_choices_that_are_alike_are_refused() -> None:
    tokenizer = train_tokenizer(["red", "is it?"], "word", 40)
    plain = get_template("plain")
    sample = Sample("a", image(1), [Turn("is it?", "")])
    for choices in [("Yes", "No"), ("red", "Yes", "RED")]:
        other, this = choices[0], choices[-1]
        message = rf"sample 'a': the tokenizer cannot tell {this!r} \(.*\) from {other!r}"
        with pytest.raises(ValueError, match=message):
            PromptCollator(tokenizer, plain, to_tensor, choices=choices)([sample])
    with pytest.raises(ValueError, match="reads as '<unk>'"):
        encode_choices(sample.turns, ("Yes", "No"), plain, tokenizer)
