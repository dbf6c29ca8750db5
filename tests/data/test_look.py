"""What is shown of a sample is what the model is trained on, all of it and in order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ablate.data.lengths import no_pixels
from ablate.data.look import look, of_records, page
from ablate.data.samples import Sample, Turn
from ablate.data.templates import get_template
from ablate.data.text import IGNORE_INDEX, TooLongError, TrainCollator
from ablate.data.vocabulary import train_for
from tests.data.support import image
from tests.data.test_llava import record, source

TURNS = [Turn("What is it?", "A circle <b>."), Turn("Which?", "Red.")]
SAMPLE = Sample("s-1", image(3, (6, 4)), TURNS)


def collator(template: str, limit: int) -> TrainCollator:
    written = get_template(template)
    tokenizer = train_for(written, [(TURNS, True)], "bpe", 2000)
    return TrainCollator(tokenizer, written, no_pixels, limit)


@pytest.mark.parametrize("template", ["plain", "ml-mamba", "llava-1.5"])
@pytest.mark.parametrize("limit", [1, 9, 20, 45, 1000])
def test_parts_are_the_batch(template: str, limit: int) -> None:
    collate = collator(template, limit)
    found = look(SAMPLE, collate)
    whole, _ = TrainCollator(collate.tokenizer, collate.template, no_pixels, 1000).row(SAMPLE)
    assert "".join(part.text for part in found.parts) == collate.tokenizer.backend.decode(
        whole, skip_special_tokens=False
    )
    try:
        batch = collate([SAMPLE])
    except TooLongError:
        assert found.tokens["learnt"] == 0
        assert "(too long: see data.too_long)" in found.summary
        return
    learnt = batch["labels"][0] != IGNORE_INDEX
    assert found.tokens["learnt"] == int(learnt.sum())
    assert found.tokens["given"] == int((~learnt).sum())
    assert found.tokens["cut"] == len(whole) - len(learnt)
    kept = [int(token) for token in batch["labels"][0] if token != IGNORE_INDEX]
    assert "".join(part.text for part in found.parts if part.kind == "learnt") == (
        collate.tokenizer.backend.decode(kept, skip_special_tokens=False)
    )


def test_of_a_summary() -> None:
    found = look(SAMPLE, collator("plain", 1000))
    assert found.summary == f"image 6 x 4, {sum(found.tokens.values())} tokens of text, " + (
        f"{found.tokens['learnt']} of them learnt"
    )
    alone = Sample("t", None, TURNS)
    cut = look(alone, collator("plain", 8))
    assert cut.summary.startswith("no image, 8 tokens of text, ")
    assert cut.summary.endswith(f"; {cut.tokens['cut']} more cut off")


def test_records_that_are_not_converted(tmp_path: Path) -> None:
    paths = source(tmp_path, [record(0), record(99), record(2)], 3)
    total, looks = of_records(
        Path(paths["json_file"]), Path(paths["images"]), "plain", 1000, count=10
    )
    first, bad, last = looks
    assert (total, first.id, last.id) == (3, "0000000-r0", "0000002-r2")
    assert "".join(part.text for part in last.parts if part.kind == "learnt") == (
        "A colour, number 2.<|endoftext|>Red.<|endoftext|>"
    )
    assert [image.size for image in first.images] == [(8, 8)]
    assert (bad.id, bad.parts) == ("record 1", ())
    assert bad.summary.startswith("cannot be used: it image 'sub/99.jpg' cannot be read")


def test_a_page_holds_all_and_runs_nothing(tmp_path: Path) -> None:
    text = page("<own>", "of & all", [look(SAMPLE, collator("plain", 1000))])
    assert "<h1>&lt;own&gt;</h1>" in text
    assert '<ins class="learnt">A circle &lt;b&gt;.&lt;|endoftext|&gt;</ins>' in text
    assert 'src="data:image/jpeg;base64,' in text
    assert "http" not in text.replace("http-equiv", "")
    assert json.dumps("default-src 'none'")[1:-1] in text


def test_several_images_stand_where_they_are_asked_about() -> None:
    turns = [Turn("Is  or  larger?", "The first.", (3, 7)), Turn("And ?", "No.", (4,))]
    sample = Sample("s-2", image(3, (6, 4)), turns).showing([image(i, (i, 4)) for i in (6, 7, 8)])
    whole = look(sample, collator("plain", 1000))
    text = "".join(part.text for part in whole.parts)
    assert text.startswith("Is <image> or <image> larger?\nThe first.")
    assert "And <image>?" in text
    assert whole.summary.startswith("image 6 x 4, image 7 x 4, image 8 x 4, ")
    cut = look(sample, collator("plain", 9))
    assert cut.tokens["given"] + cut.tokens["learnt"] == 9
    assert "".join(part.text for part in cut.parts) == text
