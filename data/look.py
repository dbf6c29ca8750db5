"""Samples as a model is trained on them: what of the text is given, learnt, and cut off."""

from __future__ import annotations

import base64
import io
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any, Literal

from PIL import Image

import ablate.analysis
from ablate.data.convert import Chunk, ConvertOptions, read_record
from ablate.data.llava_records import (
    IMAGE_TOKEN,
    BadRecordError,
    conversations,
    read_records,
)
from ablate.data.placement import IMAGE_INDEX
from ablate.data.samples import Sample
from ablate.data.shards import decode_stored
from ablate.data.subsets import evenly_spread
from ablate.data.templates import TemplateName, get_template
from ablate.data.text import IGNORE_INDEX, TrainCollator
from ablate.data.vocabulary import train_for

Kind = Literal["given", "learnt", "cut"]
QUALITY = 85
"""Of the images' JPEG on a page."""
LARGEST = 512
"""Pixels of the longer side of an image on a page."""


@dataclass(frozen=True)
class Part:
    """A stretch of text of one kind."""

    text: str
    kind: Kind


@dataclass(frozen=True)
class Look:
    """A sample as a model gets it.

    Attributes:
        id: the sample's.
        images: as they are stored.
        parts: the text, in order.
        tokens: of each kind, how many.
        problem: why it cannot be used; then there is no text.
    """

    id: str
    images: Sequence[Image.Image]
    parts: Sequence[Part]
    tokens: dict[Kind, int]
    problem: str = ""

    @property
    def summary(self) -> str:
        """The images' sizes and the numbers of tokens."""
        sizes = [f"image {image.width} x {image.height}" for image in self.images]
        size = ", ".join(sizes) or "no image"
        if self.problem:
            return f"cannot be used: it {self.problem}"
        given, learnt, cut = (self.tokens[kind] for kind in ("given", "learnt", "cut"))
        found = f"{size}, {given + learnt:,} tokens of text, {learnt:,} of them learnt"
        if not learnt:
            found += " (too long: see data.too_long)"
        return found + (f"; {cut:,} more cut off" if cut else "")


def look(sample: Sample, collate: TrainCollator) -> Look:
    """A sample's text by what becomes of it; tokens beyond the collator's limit are cut.

    Raises:
        ValueError: the template has no way to write it.
    """
    ids, labels = replace(collate, max_length=sys.maxsize).row(sample)
    before = accumulate((token != IMAGE_INDEX for token in ids), initial=0)
    kinds: list[Kind] = [
        "cut" if place >= collate.max_length else "given" if label == IGNORE_INDEX else "learnt"
        for place, label in zip(before, labels, strict=False)
    ]
    pairs = list(zip(ids, kinds, strict=True))
    parts = [
        Part(_shown([token for token, _ in run], collate), kind)
        for (kind, _), run in groupby(pairs, key=lambda pair: (pair[1], pair[0] == IMAGE_INDEX))
    ]
    text = Counter(kind for token, kind in pairs if token != IMAGE_INDEX)
    tokens: dict[Kind, int] = {kind: text[kind] for kind in ("given", "learnt", "cut")}
    return Look(sample.id, sample.images, parts, tokens)


def _shown(ids: list[int], collate: TrainCollator) -> str:
    """Tokens as text; an image where one stands."""
    if ids[0] == IMAGE_INDEX:
        return IMAGE_TOKEN * len(ids)
    return collate.tokenizer.backend.decode(ids, skip_special_tokens=False)


def spread(samples: Any, collate: TrainCollator, count: int) -> Iterator[Look]:
    """``count`` of the samples, evenly spread."""
    for index in evenly_spread(len(samples), count):
        yield look(samples[index], collate)


def of_records(
    table: Path, images: Path, template: TemplateName, limit: int, count: int
) -> tuple[int, Iterator[Look]]:
    """Samples of a file of records, without converting it.

    Args:
        table, images: see ``ablate.data.convert.Conversion``.
        template: as which they are written, by a tokenizer that is trained on all records.
        limit: tokens of a row.
        count: of samples, evenly spread; a bad one says what is wrong.

    Returns:
        The number of records, and the samples.

    Raises:
        ValueError: it is no file of records.
    """
    records, options = read_records(table), ConvertOptions(template=template)
    written = get_template(template)
    tokenizer = train_for(written, conversations(records), "bpe", options.vocab_size)
    chosen = evenly_spread(len(records), count)
    chunk = Chunk("train", 0, [], images.absolute(), options)
    return len(records), (
        _of_record(index, records[index], chunk, TrainCollator(tokenizer, written, _none, limit))
        for index in chosen
    )


def _none(image: Image.Image) -> Any:
    """The transform of a collator that is asked for text alone."""
    raise AssertionError("no pixels are asked for")


def _of_record(index: int, record: Any, chunk: Chunk, collate: TrainCollator) -> Look:
    try:
        read = read_record(index, record, chunk)
    except BadRecordError as error:
        return Look(f"record {index}", (), (), {}, str(error))
    assert read is not None  # text alone is kept
    return look(read.samples[0].showing(list(map(decode_stored, read.images))), collate)


def page(title: str, about: str, looks: Sequence[Look]) -> str:
    """The samples with their images as one HTML file that fetches nothing."""
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    style = Path(ablate.analysis.__file__).parent / "page" / "report.css"
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    items = [(each, [_data_uri(image) for image in each.images]) for each in looks]
    return environment.get_template("look.html.j2").render(
        title=title, about=about, items=items, css=Markup(style.read_text())
    )


def _data_uri(image: Image.Image) -> str:
    small = image.convert("RGB")
    small.thumbnail((LARGEST, LARGEST))
    stream = io.BytesIO()
    small.save(stream, "jpeg", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
