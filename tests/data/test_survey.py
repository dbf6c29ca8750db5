"""Lengths in tokens, what a limit cuts, images per size; none of it reads a pixel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from ablate.data.conversations import Conversations
from ablate.data.lengths import no_pixels
from ablate.data.mixture import WeightedSamples
from ablate.data.samples import Sample, Turn
from ablate.data.shards import Record, ShardDataset, ShardError, encode_pixels, write_shards
from ablate.data.survey import Survey, described, image_sizes, survey
from ablate.data.templates import get_template
from ablate.data.text import TrainCollator, encode_conversation
from ablate.data.tokenizer import train_tokenizer
from tests.data.support import Numbers

TOKENIZER = train_tokenizer(["what is it", "a b c"], "word", 60)
COLLATE = TrainCollator(TOKENIZER, get_template("plain"), no_pixels, 3)


def stored(width: int, height: int, kind: Literal["png", "jpeg", "pixels", "exif"]) -> bytes:
    picture = Image.new("RGB", (width, height))
    if kind == "pixels":
        return encode_pixels(picture)
    stream = io.BytesIO()
    if kind == "exif":  # a header longer than what is read at first
        exif = Image.Exif()
        exif[0x010E] = "x" * 65_000
        picture.save(stream, "jpeg", exif=exif, comment=b"y" * 60_000)
    else:
        picture.save(stream, kind)
    return stream.getvalue()


@pytest.fixture
def samples(tmp_path: Path) -> ShardDataset:
    images = [stored(8, 4, "png"), stored(8, 4, "jpeg"), stored(5, 9, "pixels"), None]
    images.append(stored(7, 3, "exif"))
    texts = [["a"], ["a b", "b"], ["a b c a b c"], ["a"], ["c"]]
    records = [
        Record(image, [Sample(text, None, [Turn("what is it", text)]) for text in about])
        for image, about in zip(images, texts, strict=True)
    ]
    write_shards(tmp_path, records)
    return ShardDataset(tmp_path)


def test_lengths_are_those_of_whole_conversations(samples: ShardDataset) -> None:
    found = survey(samples, COLLATE)
    whole = [
        encode_conversation(sample.turns, COLLATE.template, TOKENIZER, 10_000)[0]
        for sample in map(samples.__getitem__, range(len(samples)))
    ]
    assert found.lengths.tolist() == [len(ids) for ids in whole] == [5, 6, 5, 10, 5, 5]
    assert found.sizes == {(8, 4): 2, (5, 9): 1, (7, 3): 1}
    joined = survey(Conversations(samples, 2), COLLATE)
    assert sorted(joined.lengths.tolist()) == [5, 5, 5, 10, 11]


def test_sizes_of_other_samples(samples: ShardDataset) -> None:
    sizes = {(8, 4): 2, (5, 9): 1, (7, 3): 1}
    assert image_sizes(Conversations(samples, 2)) == sizes
    twice = WeightedSamples({"a": (samples, 3), "b": (samples, 0.1)})
    assert image_sizes(twice) == {size: 2 * count for size, count in sizes.items()}
    assert image_sizes(Numbers(3)) is None
    assert image_sizes(WeightedSamples({"a": (samples, 1), "b": (Numbers(3), 1)})) is None


def test_an_image_without_a_size_is_refused(tmp_path: Path) -> None:
    png = stored(8, 4, "png")
    write_shards(tmp_path, [Record(png[:20], [Sample("a", None, [Turn("b", "c")])])])
    with pytest.raises(ShardError, match=r"sample 0 of shard .* its image has no size"):
        image_sizes(ShardDataset(tmp_path))


def test_what_a_limit_cuts() -> None:
    found = Survey(np.array([10] * 990 + [20] * 9 + [500]), {(4, 3): 7})
    assert found.auto == 20
    assert found.lines(500) == [
        "1,000 conversations, tokens of text: median 10, 99 % within 10, longest 500; "
        "max_length 500 cuts none",
        "images: 7 of 4 x 3",
    ]
    assert found.lines(20)[0].endswith("; max_length 20 cuts 1 of them (0.1%), 4.5% of all tokens")
    assert Survey(np.array([3]), None).lines() == [
        "1 conversations, tokens of text: median 3, 99 % within 3, longest 3"
    ]


def test_sizes_in_words() -> None:
    assert described({}) == "none"
    four = {(1, 2): 1, (3, 4): 5, (5, 6): 1, (7, 8): 1}
    assert described(four) == "5 of 3 x 4, 1 of 1 x 2, 1 of 5 x 6, 1 of 7 x 8"
    assert described({**four, (9, 30): 1}) == (
        "5 of 3 x 4, 1 of 1 x 2, 1 of 5 x 6, 2 of 2 other sizes, 8 to 30 pixels on the longer side"
    )
