"""LLaVA-format data: turns, images, bad records, resumption."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops

import ablate.data.convert
from ablate.data import DATASETS
from ablate.data.llava import LLaVA
from ablate.data.llava_images import read_image
from ablate.data.llava_records import BadRecordError, read_turns, record_lines
from ablate.data.samples import Turn
from ablate.data.shards import decode_stored, read_index
from ablate.data.tokenizer import train_tokenizer
from tests.data.support import ROOT, encoded, image


def record(number: int, **changes: Any) -> dict[str, Any]:
    conversation = [
        {"from": "human", "value": f"<image>\nWhat is in picture {number}?"},
        {"from": "gpt", "value": f"A colour, number {number}."},
        {"from": "human", "value": "Which?"},
        {"from": "gpt", "value": "Red."},
    ]
    return {
        "id": f"r{number}",
        "image": f"sub/{number}.jpg",
        "conversations": conversation,
    } | changes


def source(root: Path, records: list[Any], count: int) -> dict[str, Any]:
    (root / "images" / "sub").mkdir(parents=True)
    for number in range(count):
        (root / "images" / "sub" / f"{number}.jpg").write_bytes(encoded(number, "jpeg"))
    (root / "data.json").write_text(json.dumps(records))
    return {"json_file": str(root / "data.json"), "images": str(root / "images")}


def prepared(tmp_path: Path, records: list[Any], count: int = 12, **options: Any) -> LLaVA:
    arguments = source(tmp_path / "source", records, count)
    built = LLaVA(**arguments, vocab_size=300, validation_every=5, **options)
    built.prepare(tmp_path / "cache")
    return built


def test_is_registered() -> None:
    assert DATASETS.get("llava") is LLaVA


def test_conversations_and_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate.data.convert, "PER_SHARD", 4)
    llava = prepared(tmp_path, [record(i) for i in range(12)])
    train = llava.split(tmp_path / "cache", "train")
    validation = llava.split(tmp_path / "cache", "validation")
    assert [validation[i].id for i in range(2)] == ["0000004-r4", "0000009-r9"]
    assert (len(train), len(validation)) == (10, 2)
    assert len(train.index["shards"]) == 3
    sample = train[3]
    assert sample.turns == [
        Turn("What is in picture 3?", "A colour, number 3."),
        Turn("Which?", "Red."),
    ]
    assert sample.image is not None
    assert sample.image.size == (8, 8)
    assert llava.fingerprint(tmp_path / "cache")
    text = "What is in picture 3?"
    tokenizer = llava.tokenizer(tmp_path / "cache")
    assert tokenizer.decode(tokenizer.encode(text)) == text
    with pytest.raises(ValueError, match="has no test split; it has train, validation"):
        llava.split(tmp_path / "cache", "test")


BAD = {
    "missing image": (record(99), "image 'sub/99.jpg' cannot be read: No such file"),
    "outside": (record(1, image="../data.json"), "is outside the image folder"),
    "absolute": (record(1, image="/etc/hostname"), "is outside the image folder"),
    "no path": (record(1, image=7), "image is not a path but 7"),
    "no conversations": (record(1, conversations=[]), "has no conversations"),
    "not an object": ("text", "is not an object but str"),
    "no answer": (
        record(1, conversations=[{"from": "human", "value": "Why?"}]),
        "has a question without an answer",
    ),
    "empty answer": (
        record(
            1, conversations=[{"from": "human", "value": "Q"}, {"from": "gpt", "value": "<image> "}]
        ),
        "has a question without an answer",
    ),
    "wrong order": (
        record(1, conversations=[{"from": "human", "value": "Q"}, {"from": "human", "value": "Q"}]),
        "message 1 is not from 'gpt'",
    ),
    "no text": (record(1, conversations=[{"from": "human"}]), "message 0 has no text"),
}


def test_bad_records_are_skipped_and_listed(tmp_path: Path) -> None:
    records = [record(0), *(bad for bad, _ in BAD.values()), record(1)]
    llava = prepared(tmp_path, records)
    train = llava.split(tmp_path / "cache", "train")
    validation = llava.split(tmp_path / "cache", "validation")
    kept = {s[i].id for s in (train, validation) for i in range(len(s))}
    assert kept == {"0000000-r0", f"{len(records) - 1:07d}-r1"}
    listing = (llava.directory(tmp_path / "cache") / "problems.jsonl").read_text().splitlines()
    problems = [json.loads(line) for line in listing]
    assert [p["index"] for p in problems] == list(range(1, len(BAD) + 1))
    assert {p["line"] for p in problems} == {1}
    for problem, (_, reason) in zip(problems, BAD.values(), strict=True):
        assert reason in problem["reason"]


def test_bad_records_can_be_refused(tmp_path: Path) -> None:
    arguments = source(tmp_path / "source", [record(0), record(99)], 2)
    llava = LLaVA(**arguments, bad="refuse", vocab_size=300)
    with pytest.raises(
        BadRecordError,
        match=r"data\.json, line 1: record 1 \('r99'\) image 'sub/99\.jpg'.*bad: skip;",
    ):
        llava.prepare(tmp_path / "cache")
    assert not llava.directory(tmp_path / "cache").exists()
    (tmp_path / "source" / "images" / "sub" / "99.jpg").write_bytes(encoded(9, "jpeg"))
    llava.prepare(tmp_path / "cache")
    assert len(llava.split(tmp_path / "cache", "train")) == 2


@pytest.mark.parametrize("cut", [20, 200])
def test_broken_jpeg(tmp_path: Path, cut: int) -> None:
    (tmp_path / "x.jpg").write_bytes(encoded(3, "jpeg")[:-cut])
    with pytest.raises(BadRecordError, match=r"image 'x\.jpg' is broken"):
        read_image("x.jpg", tmp_path)


def test_other_formats_become_png(tmp_path: Path) -> None:
    image(7).save(tmp_path / "x.bmp")
    assert read_image("x.bmp", tmp_path).startswith(b"\x89PNG")


def test_images_can_be_stored_decoded_and_smaller(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").convert("RGB").resize((60, 30))
    picture.save(tmp_path / "x.png")
    picture.save(tmp_path / "x.jpg", quality=95)
    assert decode_stored(read_image("x.png", tmp_path, "pixels")).tobytes() == picture.tobytes()
    assert read_image("x.png", tmp_path, "pixels").startswith(b"P6")
    assert read_image("x.png", tmp_path, max_side=60) == (tmp_path / "x.png").read_bytes()
    expected = picture.resize((20, 10), Image.Resampling.BICUBIC)
    for name, begin in (("x.png", b"\x89PNG"), ("x.jpg", b"\xff\xd8")):
        stored = read_image(name, tmp_path, max_side=20)
        assert stored.startswith(begin)
        found = decode_stored(stored)
        assert found.size == (20, 10)
        difference = ImageChops.difference(found, expected)
        assert max(high for _, high in difference.getextrema()) <= (0 if name == "x.png" else 4)


def test_text_only_rows(tmp_path: Path) -> None:
    text = record(0, conversations=record(0)["conversations"][2:])
    del text["image"]
    llava = prepared(tmp_path / "a", [record(0), text])
    samples = llava.split(tmp_path / "a" / "cache", "train")
    assert len(samples) == 2
    assert samples[1].image is None
    assert samples[1].turns == [Turn("Which?", "Red.")]
    llava = prepared(tmp_path / "b", [record(0), text], text_only="skip")
    assert len(llava.split(tmp_path / "b" / "cache", "train")) == 1


def test_lines_of_records(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    records: list[Any] = [record(0), "text", {"a": [1, {}]}, 7, record(1)]
    path.write_text(json.dumps(records))
    assert record_lines(path) == [1] * 5
    text = "\ufeff\n" + json.dumps(records, indent=1)
    path.write_text(text)
    starts = [n for n, line in enumerate(text.split("\n"), 1) if re.match(r" [^ \]}]", line)]
    assert record_lines(path) == starts


def test_the_image_token_is_taken_out_wherever_it_is() -> None:
    conversation = [{"from": "human", "value": "Q?\n<image>"}, {"from": "gpt", "value": "A"}]
    assert read_turns(record(0, conversations=conversation)) == [Turn("Q?", "A")]


def test_a_given_tokenizer_is_used(tmp_path: Path) -> None:
    first = prepared(tmp_path, [record(i) for i in range(3)])
    path = first.directory(tmp_path / "cache") / "tokenizer.json"
    second = LLaVA(
        json_file=str(tmp_path / "source" / "data.json"),
        images=str(tmp_path / "source" / "images"),
        tokenizer=str(path),
    )
    assert second.directory(tmp_path / "cache") != first.directory(tmp_path / "cache")
    second.prepare(tmp_path / "cache")
    own = second.directory(tmp_path / "cache") / "tokenizer.json"
    assert json.loads(own.read_text()) == json.loads(path.read_text())
    (tmp_path / "none.json").write_text("{}")
    third = LLaVA(
        json_file=str(tmp_path / "source" / "data.json"),
        images=str(tmp_path / "source" / "images"),
        tokenizer=str(tmp_path / "none.json"),
    )
    with pytest.raises(ValueError, match=r"none\.json is not a tokenizer\.json"):
        third.prepare(tmp_path / "cache")


def test_a_chat_template_goes_with_a_given_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    given = tmp_path / "given" / "tokenizer.json"
    train_tokenizer(["a colour"], "bpe", 300).save(given)
    plain = prepared(tmp_path, [record(i) for i in range(3)], tokenizer=str(given))
    whole = {plain.directory(tmp_path / "cache"): plain.fingerprint(tmp_path / "cache")}
    for jinja in ("{{ messages[0].content }}", "{{ messages[1].content }}"):
        given.with_name("chat_template.jinja").write_text(jinja)
        again = LLaVA(
            json_file=str(tmp_path / "source" / "data.json"),
            images=str(tmp_path / "source" / "images"),
            vocab_size=300,
            validation_every=5,
            tokenizer=str(given),
            template="tokenizer",
        )
        again.prepare(tmp_path / "cache")
        assert again.tokenizer(tmp_path / "cache").config == {"chat_template": jinja}
        whole[again.directory(tmp_path / "cache")] = again.fingerprint(tmp_path / "cache")
    assert len(whole) == len(set(whole.values())) == 3


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no file at .*none\.json"):
        LLaVA(json_file=str(tmp_path / "none.json"), images="").prepare(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ValueError, match="must hold a list"):
        LLaVA(json_file=str(tmp_path / "x.json"), images="").prepare(tmp_path / "cache")
    with pytest.raises(ValueError, match=r"no image folder at .*nowhere"):
        LLaVA(json_file=str(tmp_path / "x.json"), images="nowhere").prepare(tmp_path / "cache")
    with pytest.raises(ValueError, match="validation_every must be 2 or more"):
        LLaVA(json_file="", images="", validation_every=1)
    with pytest.raises(ValueError, match="max_side must be 1 or more"):
        LLaVA(json_file="", images="", max_side=0)


SLOW = """
import sys, time
from pathlib import Path
import ablate.data.convert as convert
from ablate.data.llava import LLaVA

read = convert.read_image
def slow(*arguments):
    time.sleep(0.1)
    return read(*arguments)
convert.read_image, convert.PER_SHARD = slow, 4
options = dict(json_file=sys.argv[1], images=sys.argv[2], vocab_size=300, validation_every=5)
LLaVA(**options).prepare(Path(sys.argv[3]))
"""


def test_killed_conversion_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = source(tmp_path / "source", [record(i) for i in range(60)], 60)
    cache = tmp_path / "cache"
    command = [sys.executable, "-c", SLOW, *arguments.values(), str(cache)]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    deadline = time.monotonic() + 90
    while len(list(cache.glob(".llava-*.partial/train/done-*.json"))) < 2:
        assert process.poll() is None, "the conversion ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    monkeypatch.setattr(ablate.data.convert, "PER_SHARD", 4)
    llava = LLaVA(**arguments, vocab_size=300, validation_every=5)
    assert not llava.directory(cache).exists()
    done = next(iter(cache.glob(".llava-*.partial"))) / "train" / "shard-000000.tar"
    written = done.stat().st_mtime_ns
    llava.prepare(cache)
    kept = llava.directory(cache) / "train" / "shard-000000.tar"
    assert kept.stat().st_mtime_ns == written
    assert len(llava.split(cache, "train")) == 48

    llava.prepare(tmp_path / "other")
    again = read_index(llava.directory(tmp_path / "other") / "train")
    assert read_index(llava.directory(cache) / "train") == again


def test_data_of_another_version_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = source(tmp_path / "source", [record(0)], 1)
    new = LLaVA(**arguments).directory(tmp_path)
    made = ablate.data.convert.Conversion(
        Path(arguments["json_file"]),
        Path(arguments["images"]),
        ablate.data.convert.ConvertOptions(vocab_size=300),
    )
    monkeypatch.setattr(ablate.data.convert, "VERSION", 1)
    assert LLaVA(**arguments).directory(tmp_path) != new
    made.run(tmp_path / "out", workers=1)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="with these options by this version; delete it"):
        made.run(tmp_path / "out", workers=1)
