"""Records as other tools spell them: read as they mean, or refused by name; never read in part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ablate.data.convert import Conversion, ConvertOptions
from ablate.data.llava_records import (
    BadRecordError,
    image_names,
    read_records,
    read_turns,
    record_lines,
)
from ablate.data.samples import Turn
from tests.data.support import encoded

ASKED: list[dict[str, Any]] = [
    {"from": "human", "value": "What colour is it?"},
    {"from": "gpt", "value": "red"},
]
SHOWN: list[dict[str, Any]] = [{"from": "human", "value": "<image>\nWhat colour is it?"}, ASKED[1]]
TURN = Turn("What colour is it?", "red")


def said(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


def with_image(**keys: Any) -> dict[str, Any]:
    return {"conversations": ASKED, **keys}


def parts(*given: dict[str, Any]) -> list[dict[str, Any]]:
    return said(("user", [*given, {"type": "text", "text": "What colour is it?"}]), GIVEN)


GIVEN = ("assistant", "red")
READ: dict[str, dict[str, Any]] = {
    "LLaVA": with_image(image="a.png"),
    "a list of one": with_image(image=["a.png"]),
    "LLaMA-Factory": {"messages": said(("user", "<image>What colour is it?"), GIVEN)}
    | {"images": ["a.png"]},
    "ms-swift": {"messages": said(("user", "<image>What colour is it?"), GIVEN), "images": "a.png"},
    "ms-swift's files": with_image(images=[{"bytes": None, "path": "a.png"}]),
    "image_path": with_image(image_path="a.png"),
    "img": with_image(img="a.png"),
    "twice the same": with_image(image="a.png", images=["a.png"]),
    "other media empty": with_image(image="a.png", video=None, videos=[], audios=[], tools=""),
    "OpenAI's parts": {
        "messages": parts({"type": "image_url", "image_url": {"url": "a.png", "detail": "low"}})
    },
    "transformers' parts": {"messages": parts({"type": "image", "path": "a.png"})},
    "Qwen's parts": {"messages": parts({"type": "image", "image": "a.png"})},
    "parts as placeholders": {"messages": parts({"type": "image"}), "images": ["a.png"]},
    "roles of OpenAI in from": with_image(
        image="a.png",
        conversations=[
            {"from": "user", "value": "<image>\nWhat colour is it?"},
            {"from": "assistant", "value": "red"},
        ],
    ),
    "OneVision": with_image(id="1", image="a.png", data_source="x", conversations=SHOWN),
}


@pytest.mark.parametrize("name", READ)
def test_spellings_of_an_image_are_read(name: str) -> None:
    assert image_names(READ[name]) == ["a.png"]
    assert read_turns(READ[name], 1) == [TURN]


TEXT_ALONE: dict[str, dict[str, Any]] = {
    "no key": with_image(),
    "null": with_image(image=None, video=None),
    "LLaMA-Factory": with_image(images=[], videos=[]),
    "OpenAI": {"messages": said(("user", "What colour is it?"), GIVEN)},
}


@pytest.mark.parametrize("name", TEXT_ALONE)
def test_text_alone(name: str) -> None:
    assert image_names(TEXT_ALONE[name]) == []
    assert read_turns(TEXT_ALONE[name], 0) == [TURN]


def test_a_tag_of_html_is_text() -> None:
    """LLaVA-1.5's mix has conversations about programs."""
    asked = [{"from": "human", "value": "What does <video src='x'> do?"}, ASKED[1]]
    assert image_names({"conversations": asked}) == []


def asked(*questions: str) -> list[dict[str, Any]]:
    return [m for q in questions for m in ({"from": "human", "value": q}, ASKED[1])]


PLACED: dict[str, tuple[dict[str, Any], list[Turn]]] = {
    "M4-Instruct": (
        with_image(image=["a.png", "b.png"], conversations=asked("<image>\n<image>\nWhich?")),
        [Turn("\n\nWhich?", "red", (0, 1))],
    ),
    "in mid-text and in turns": (
        with_image(
            images=["a.png", "b.png", "a.png"],
            conversations=asked(" Is <image> like <image>?", "Why?", "And <image>"),
        ),
        [
            Turn("Is  like ?", "red", (3, 9)),
            Turn("Why?", "red"),
            Turn("And ", "red", (4,)),
        ],
    ),
    "one in a later turn": (
        with_image(image="a.png", conversations=asked("Hi", "<image>\nWhat?")),
        [Turn("Hi", "red"), Turn("\nWhat?", "red", (0,))],
    ),
    "one in the first question is the template's": (
        with_image(image=["a.png"], conversations=asked("What is <image> this?", "Why?")),
        [Turn("What is  this?", "red"), Turn("Why?", "red")],
    ),
    "after a system text": (
        {"messages": said(("system", "Look. "), ("user", "<image><image>"), GIVEN)}
        | {"images": ["a.png", "b.png"]},
        [Turn("Look.\n", "red", (6, 6))],
    ),
    "OpenAI's parts": (
        {
            "messages": parts(
                {"type": "image", "image": "a.png"},
                {"type": "text", "text": "and"},
                {"type": "image", "image": "b.png"},
            )
        },
        [Turn("\nand\n\nWhat colour is it?", "red", (0, 5))],
    ),
}


@pytest.mark.parametrize("name", PLACED)
def test_images_stand_where_their_tokens_are(name: str) -> None:
    record, turns = PLACED[name]
    assert read_turns(record, len(image_names(record))) == turns


def about(token: str) -> list[dict[str, Any]]:
    return [{"from": "human", "value": f"{token}\nWhat happens?"}, ASKED[1]]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "two images and no place": (
        with_image(images=["a.png", "b.png"]),
        "names 2 images and has <image> 0 times",
    ),
    "two images and one place": (
        with_image(images=["a.png", "a.png"], conversations=SHOWN),
        "names 2 images and has <image> 1 times",
    ),
    "one image and two places": (
        with_image(image="a.png", conversations=[*SHOWN, *SHOWN]),
        "names 1 images and has <image> 2 times",
    ),
    "an image in an answer": (
        with_image(
            image="a.png", conversations=[ASKED[0], {"from": "gpt", "value": "<image> red"}]
        ),
        "has <image> in an answer",
    ),
    "two keys": (
        with_image(image="a.png", images=["b.png"]),
        "names its images twice: ['a.png'] and ['b.png']",
    ),
    "a video": (with_image(video="v.mp4", conversations=about("<video>")), "has 'video'"),
    "videos": (with_image(videos=["v.mp4"], image="a.png"), "has 'videos', which is not read"),
    "audio": (with_image(audios=["s.wav"]), "has 'audios'"),
    "tools": (with_image(image="a.png", tools='[{"name": "f"}]'), "has 'tools'"),
    "a video in the text": (with_image(conversations=about("<video>")), "is about <video>"),
    "a sound in the text": (with_image(conversations=about("<audio>")), "is about <audio>"),
    "another key": (with_image(image_url="http://x/a.png"), "has 'image_url' and no 'image'"),
    "an id of an image": (with_image(image_id=7), "has 'image_id' and no 'image'"),
    "an image in the text": (with_image(conversations=SHOWN), "<image> but names none"),
    "a part without a path": ({"messages": parts({"type": "image"})}, "<image> but names none"),
    "a part of another kind": (
        {"messages": parts({"type": "video", "video": "v.mp4"})},
        "message 0 has a part that is not read: {'type': 'video'",
    ),
    "bytes": (with_image(image={"bytes": "A" * 9999}), "image is not a path but {'bytes': 'AAA"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_be_learnt_in_part_is_refused_by_name(name: str) -> None:
    record, message = REFUSED[name]
    with pytest.raises(BadRecordError) as caught:
        read_turns(record, len(image_names(record)))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 250


FIRST: dict[str, tuple[dict[str, Any], list[Turn]]] = {
    "system": (
        {"conversations": [{"from": "system", "value": "Be brief."}, *ASKED]},
        [Turn("Be brief.\nWhat colour is it?", "red")],
    ),
    "a key": (with_image(system="Be brief."), [Turn("Be brief.\nWhat colour is it?", "red")]),
    "an empty key": (with_image(system=""), [TURN]),
    "OpenAI": (
        {"messages": said(("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"))},
        [Turn("Be brief.\nHi", "Hello")],
    ),
    "only a system asks": (
        {"messages": said(("system", "Describe."), ("user", "<image>"), GIVEN), "images": "a.png"},
        [Turn("Describe.", "red")],
    ),
    "gpt": ({"conversations": [{"from": "gpt", "value": "Ask me."}, *ASKED]}, [TURN]),
    "gpt, then several": (
        {"conversations": [{"from": "gpt", "value": "Ask me."}, *ASKED, *ASKED]},
        [TURN, TURN],
    ),
    "system and gpt": (
        {"messages": said(("system", "Be brief."), ("assistant", "Hi"), ("user", "Q"), GIVEN)},
        [Turn("Be brief.\nQ", "red")],
    ),
}


@pytest.mark.parametrize("name", FIRST)
def test_first_messages_that_are_no_question(name: str) -> None:
    record, turns = FIRST[name]
    assert read_turns(record) == turns


NO_TURNS: dict[str, tuple[dict[str, Any], str]] = {
    "alpaca": ({"instruction": "Q", "output": "A"}, "only 'instruction, output'"),
    "gpt alone": ({"conversations": ASKED[1:]}, "a question without an answer"),
    "two of gpt first": ({"conversations": [*ASKED[1:] * 2, *ASKED]}, "1 is not from 'human'"),
    "a system alone": ({"messages": said(("system", "Hi"))}, "a question without an answer"),
    "a system later": (
        {"messages": said(("user", "Q"), GIVEN, ("system", "Hi"), ("user", "Q"), GIVEN)},
        "message 2 is not from 'human'",
    ),
    "a tool": ({"messages": said(("user", "Q"), ("tool", "A"))}, "message 1 is not from .* 'tool'"),
    "a system that is no text": (with_image(system=["Hi"]), "system has no text"),
}


@pytest.mark.parametrize("name", NO_TURNS)
def test_no_conversation(name: str) -> None:
    record, message = NO_TURNS[name]
    with pytest.raises(BadRecordError, match=message):
        read_turns(record)


def test_a_record_per_line(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(encoded(1))
    records = [
        {"id": "\u2028", "images": ["a.png"], "messages": said(("user", "one\u2028line"), GIVEN)},
        {"id": "bad\u2028id", "messages": []},
        with_image(id="2", image="a.png"),
    ]
    lines = [json.dumps(record, ensure_ascii=False) for record in records]
    path = tmp_path / "data.jsonl"
    path.write_text(f"\ufeff{lines[0]}\n\n{lines[1]}\r\n{lines[2]}\n", "utf-8")
    assert read_records(path) == records
    assert record_lines(path) == [1, 3, 4]
    made = Conversion(path, tmp_path / "images", ConvertOptions(vocab_size=300))
    summary = made.run(tmp_path / "out", workers=1)
    assert summary.samples["train"] == 2
    assert [(p.line, p.id) for p in summary.problems] == [(3, "bad\u2028id")]


@pytest.mark.parametrize(
    ("content", "message"), [("{}\n{\n", "is not valid JSON: line 2: not"), ("\n\n", "no record")]
)
def test_damaged_lines_are_named(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_records(tmp_path / "data.jsonl")
