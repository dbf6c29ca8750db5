"""Several images a conversation, in any turn: exact places among the ids, in mixed batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from ablate.data.image_names import image_names
from ablate.data.lengths import ShortenedSamples, long_questions, no_pixels, question_reader
from ablate.data.placement import IMAGE_INDEX, Placement
from ablate.data.samples import Sample, Turn, image_key
from ablate.data.shards import Record, ShardDataset, damage, encode_pixels, write_shards
from ablate.data.templates import CaptionTemplate, get_template
from ablate.data.text import IGNORE_INDEX, PromptCollator, TrainCollator, encode_conversation
from ablate.data.tokenizer import Tokenizer, train_tokenizer
from tests.data.support import encoded, image, to_tensor

N = 3
"""Tokens of an image."""
WORDS = ["user: is this like that ? why so red blue yes no", "a b c d e f g h"]
SEVERAL = [Turn("is  like  ?", "red", (3, 9)), Turn("why ?", "no"), Turn("so ", "yes", (3,))]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return train_tokenizer(WORDS, "word", 60)


def samples() -> list[Sample]:
    """Three images; one that leads; none; two of which the first is in a later turn."""
    pictures = [image(i) for i in range(6)]
    return [
        Sample("three", None, SEVERAL).showing(pictures[:3]),
        Sample("one", pictures[3], [Turn("is it ?", "yes")]),
        Sample("none", None, [Turn("why ?", "no"), Turn("so ?", "yes")]),
        Sample("later", None, [Turn("so", "no"), Turn(" is", "red", (0, 0))]).showing(pictures[4:]),
    ]


def words(tokenizer: Tokenizer, ids: list[int]) -> str:
    """A row as text, with ``*`` for an image."""
    names = ["*" if token == IMAGE_INDEX else tokenizer.backend.id_to_token(token) for token in ids]
    return " ".join(names)


def encode(turns: list[Turn], template: str, tokenizer: Tokenizer) -> str:
    ids, labels = encode_conversation(turns, get_template(template), tokenizer, 1000)
    assert [label for label, token in zip(labels, ids, strict=True) if token == IMAGE_INDEX] == [
        IGNORE_INDEX
    ] * ids.count(IMAGE_INDEX)
    return words(tokenizer, ids)


def test_images_stand_where_the_turns_say(tokenizer: Tokenizer) -> None:
    end = tokenizer.eos_token
    assert (
        encode(SEVERAL, "plain", tokenizer)
        == f"is * like * ? red {end} why ? no {end} so * yes {end}"
    )
    found = encode(SEVERAL, "ml-mamba", tokenizer)
    user, assistant = "<|user|>", "<|assistant|>"
    assert found == (
        f"{user} is * like * ? {end} {assistant} red {end} "
        f"{user} why ? {end} {assistant} no {end} {user} so * {end} {assistant} yes {end}"
    )


@pytest.mark.parametrize("template", ["plain", "ml-mamba", "llava-1.5", "llava-1.5-inside"])
def test_a_single_image_without_a_place_is_the_templates(
    template: str, tokenizer: Tokenizer
) -> None:
    turns = [Turn("is this red ?", "yes"), Turn("why ?", "no")]
    ids, _ = encode_conversation(turns, get_template(template), tokenizer, 1000)
    assert ids.count(IMAGE_INDEX) == (template == "llava-1.5-inside")
    if template == "llava-1.5-inside":
        place = ids.index(IMAGE_INDEX)
        assert words(tokenizer, ids[place - 2 : place + 3]) == "user : * is this"
        outside, _ = encode_conversation(turns, get_template("llava-1.5"), tokenizer, 1000)
        assert ids[:place] + ids[place + 1 :] == outside


def test_a_batch_has_an_id_for_each_token_of_an_image(tokenizer: Tokenizer) -> None:
    template = get_template("plain")
    batch = TrainCollator(tokenizer, template, to_tensor, 1000, image_tokens=N)(samples())
    rows = [encode_conversation(s.turns, template, tokenizer, 1000) for s in samples()]
    rows[1] = ([IMAGE_INDEX, *rows[1][0]], [IGNORE_INDEX, *rows[1][1]])  # it leads
    places = []
    for index, (ids, labels) in enumerate(rows):
        expected: list[tuple[int, int]] = []
        for token, label in zip(ids, labels, strict=True):
            if token == IMAGE_INDEX:
                start = index * batch["input_ids"].shape[1] + len(expected)
                places += range(start, start + N)
                expected += [(tokenizer.pad_id, IGNORE_INDEX)] * N
            else:
                expected.append((token, label))
        length = len(expected)
        found = zip(batch["input_ids"][index], batch["labels"][index], strict=True)
        assert [(int(a), int(b)) for a, b in found][:length] == expected
        rest = batch["input_ids"].shape[1] - length
        assert batch["attention_mask"][index].tolist() == [1] * length + [0] * rest
    assert batch["placed"].tolist() == places
    assert torch.equal(batch["pixels"], torch.stack([to_tensor(image(i)) for i in range(6)]))
    assert batch["has_image"].tolist() == [False] * 4


def test_images_that_all_lead_are_left_to_the_model(tokenizer: Tokenizer) -> None:
    collate = TrainCollator(tokenizer, get_template("plain"), to_tensor, 1000, image_tokens=N)
    batch = collate(samples()[1:3])
    assert batch["placed"] is None
    assert batch["has_image"].tolist() == [True, False]
    batch = collate(samples()[2:3])
    assert batch["placed"] is batch["pixels"] is None
    batch = TrainCollator(tokenizer, get_template("llava-1.5-inside"), to_tensor, 1000)(
        samples()[2:3]
    )
    assert batch["placed"] is batch["pixels"] is None


def test_prompts_are_what_training_has_before_the_answer(tokenizer: Tokenizer) -> None:
    template = get_template("plain")
    read = {"image_tokens": N, "answered": True, "choices": ("yes", "no")}
    batch = PromptCollator(tokenizer, template, to_tensor, **read)(samples())
    trained = TrainCollator(tokenizer, template, to_tensor, 1000, image_tokens=N)(samples())
    assert torch.equal(batch["pixels"], trained["pixels"])
    assert batch["image_of"].tolist() == list(range(6))
    assert batch["image_of_row"].tolist() == [-1] * 4
    assert [r["image_id"].count("+") for r in batch["samples"] if r["image_id"]] == [2, 0, 1]
    for right, key in (("right_ids", "input_ids"), ("right_placed", "placed")):
        assert torch.equal(batch[right][:3], trained[key][:3])  # the last one's answer is another
    columns = batch["input_ids"].shape[1]
    is_image = torch.zeros(4 * columns, dtype=torch.bool)
    is_image[batch["placed"]] = True
    assert is_image.view(4, columns).sum(1).tolist() == [3 * N, N, 0, 2 * N]
    for row, ids in enumerate(trained["input_ids"]):
        prompt = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        assert torch.equal(ids[: len(prompt)], prompt)


def test_images_after_the_end_of_a_row_are_not_read(tokenizer: Tokenizer) -> None:
    template = get_template("plain")
    whole = encode_conversation(SEVERAL, template, tokenizer, 1000)[0]
    text = [place for place, token in enumerate(whole) if token != IMAGE_INDEX]
    for length in range(4, len(text) + 1):
        ids, labels = encode_conversation(SEVERAL, template, tokenizer, length)
        assert ids == whole[: len(ids)]
        assert len(labels) == len(ids)
        assert sum(token != IMAGE_INDEX for token in ids) == length
        assert ids[-1] != IMAGE_INDEX
        batch = TrainCollator(tokenizer, template, to_tensor, length, image_tokens=N)(samples()[:1])
        assert len(batch["pixels"]) == ids.count(IMAGE_INDEX)
        assert len(batch["placed"]) == N * ids.count(IMAGE_INDEX)


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_tokenizers_own_template_that_strips_moves_no_image() -> None:
    special = ["<pad>", "<unk>", "<|im_start|>", "<|im_end|>"]
    plain = train_tokenizer(["user assistant", *WORDS], "word", 80, special)
    config = {"chat_template": CHATML, "eos_token": "<|im_end|>"}
    tokenizer = Tokenizer(plain.backend, config=config)
    turns = [Turn("\n\n is this ?", "yes", (0, 1)), Turn("so ", "no", (3,))]
    found = encode(turns, "tokenizer", tokenizer)
    start, end = "<|im_start|>", "<|im_end|>"
    assert found == (
        f"{start} user * * is this ? {end} {start} assistant yes {end} "
        f"{start} user so * {end} {start} assistant no {end}"
    )


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (Sample("x", None, SEVERAL), "sample 'x': has 0 images and 3 places"),
        (Sample("x", image(0), SEVERAL), "sample 'x': has 1 images and 3 places"),
        (
            Sample("x", None, [Turn("so", "no")]).showing([image(0), image(1)]),
            "sample 'x': has 2 images and 0 places",
        ),
    ],
)
def test_images_without_places_are_refused(
    sample: Sample, message: str, tokenizer: Tokenizer
) -> None:
    for kind in (TrainCollator, PromptCollator):
        with pytest.raises(ValueError, match=message):
            kind(tokenizer, get_template("plain"), to_tensor, 1000)([sample])


def test_captions_are_of_one_image(tokenizer: Tokenizer) -> None:
    collate = TrainCollator(tokenizer, CaptionTemplate(), to_tensor, 1000)
    two = Sample("x", None, [Turn("so", "no", (0, 0))]).showing([image(0), image(1)])
    with pytest.raises(ValueError, match="sample 'x': has 2 images, and prompts: drop is for"):
        collate([two])


def test_shards_hold_any_number_of_images(tmp_path: Path) -> None:
    records = [
        Record(encoded(i) if n else None, [s], [encoded(10 * i + k) for k in range(1, n)])
        for i, (s, n) in enumerate(zip(samples(), (3, 1, 0, 2), strict=True))
    ]
    write_shards(tmp_path / "s", records, per_shard=2)
    assert damage(tmp_path / "s") == []
    found = ShardDataset(tmp_path / "s")
    for index, (sample, count) in enumerate(zip(samples(), (3, 1, 0, 2), strict=True)):
        read = found[index]
        assert read.turns == found.text(index).turns == sample.turns
        assert found.text(index).images == []
        assert found.image_count(index) == count
        expected = [image(index), *(image(10 * index + k) for k in range(1, 3))][:count]
        assert [i.tobytes() for i in read.images] == [i.tobytes() for i in expected]
    names = image_names(found)
    assert list(map(len, names)) == [3, 1, 0, 2]
    assert len({name for each in names for name in each}) == 6


def test_shards_of_single_images_are_as_they_were(tmp_path: Path) -> None:
    """Byte by byte: the identity of a data set is the checksum of its shards."""
    record = Record(encode_pixels(image(1)), [Sample("a", None, [Turn("why ?", "no")])])
    write_shards(tmp_path / "s", [record, Record(None, record.samples)])
    checksum = ShardDataset(tmp_path / "s").index["checksum"]
    assert checksum == CHECKSUM


CHECKSUM = "d08ec91ecf33d58dc173f6de4d323fd34dcf45a46444dc4deeb71471a371a490"


def test_long_questions_keep_their_images(tmp_path: Path, tokenizer: Tokenizer) -> None:
    long = Turn("a b c d e f g h a b c d e f g h", "yes", (0, 8, 31))
    sample = Sample("long", None, [long, Turn("so", "no", (2,))])
    write_shards(tmp_path / "s", [Record(encoded(0), [sample], [encoded(i) for i in (1, 2, 3)])])
    found = ShardDataset(tmp_path / "s")
    read = question_reader(found)
    assert read is not None
    collate = TrainCollator(tokenizer, get_template("plain"), no_pixels, 8, image_tokens=N)
    kept = long_questions(1, read, collate, 8)
    assert kept == {0: 12}
    shortened = ShortenedSamples(found, kept)
    assert len(shortened[0].images) == 4
    row = Placement.of(
        [shortened[0].first_turn()],
        [encode_conversation(shortened[0].first_turn().turns, collate.template, tokenizer, 8)[0]],
        N,
    )
    assert len(row.images[0]) == 3  # those after the end of the question stand at it


def test_a_record_has_the_name_of_all_images() -> None:
    pictures: list[Image.Image] = [image(0), image(1)]
    sample = Sample("x", None, [Turn("so", "no", (0, 0))]).showing(pictures)
    keys = [image_key(picture) for picture in pictures]
    assert sample.record(keys)["image_id"] == f"{keys[0].hex()}+{keys[1].hex()}"
    assert sample.record(keys[:1])["image_id"] == keys[0].hex()
    assert sample.record([])["image_id"] is None
