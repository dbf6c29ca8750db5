"""Damaged inputs: each is one clear error, or a listed, left-out record; nothing else is lost."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ablate.data.annotated_items import AnnotationError, MissingFileError
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.benchmarks.annotations import OfficialBenchmark
from ablate.data.convert import PROBLEMS, Conversion, ConvertOptions
from ablate.data.llava_images import read_image
from ablate.data.llava_records import BadRecordError
from ablate.data.shards import INDEX, ShardDataset, ShardError, damage, decode_stored, write_shards
from tests.data.benchmarks.test_official_benchmarks import EXPECTED
from tests.data.support import encoded, image
from tests.data.support import record as shard_record
from tests.data.test_llava import record

Damage = Callable[[Path], object]


# --- Shards ---------------------------------------------------------------------------------------


def flip(path: Path, what: bytes) -> None:
    """Change one bit where ``what`` first is."""
    content = bytearray(path.read_bytes())
    content[content.index(what)] ^= 1
    path.write_bytes(content)


def rewrite(**changes: Any) -> Damage:
    """Change the index's text as a careless hand would."""
    return lambda d: (d / INDEX).write_text(
        json.dumps(json.loads((d / INDEX).read_text()) | changes)
    )


def replaced_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def swapped(directory: Path) -> None:
    """Two shards under each other's names."""
    first, second = (directory / f"shard-00000{i}.tar" for i in (0, 1))
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


def other_tar(directory: Path) -> None:
    """A good tar of the same size in place of a shard."""
    path = directory / "shard-000001.tar"
    size = path.stat().st_size
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x.json"), io.BytesIO())
    path.write_bytes(path.read_bytes().ljust(size, b"\0")[:size])


TAR, TABLE = "shard-000001.tar", "shard-000001.npy"
SHARDS: dict[str, tuple[Damage, str]] = {
    "index missing": (lambda d: (d / INDEX).unlink(), "no shards at"),
    "index empty": (lambda d: (d / INDEX).write_text(""), "index.json cannot be read"),
    "index is no JSON": (lambda d: (d / INDEX).write_text("{"), "index.json cannot be read"),
    "index is no text": (lambda d: (d / INDEX).write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "index is a folder": (lambda d: replaced_by_folder(d / INDEX), "index.json cannot be read"),
    "index is a list": (lambda d: (d / INDEX).write_text("[]"), "index.json has format None"),
    "index nests too deep": (lambda d: (d / INDEX).write_text("[" * 99999), "cannot be read"),
    "index of a later version": (rewrite(format=99), "index.json has format 99"),
    "index counts too many": (rewrite(samples=99), "index.json does not match its own checksum"),
    "index lists no shards": (rewrite(shards=[]), "index.json does not match its own checksum"),
    "bit of the index flipped": (lambda d: flip(d / INDEX, b"sha256"), "its own checksum"),
    "shard missing": (lambda d: (d / TAR).unlink(), TAR),
    "shard empty": (lambda d: (d / TAR).write_bytes(b""), f"{TAR} has 0 bytes"),
    "shard cut short": (lambda d: (d / TAR).write_bytes((d / TAR).read_bytes()[:-1]), TAR),
    "shard grown": (lambda d: (d / TAR).write_bytes((d / TAR).read_bytes() + b"x"), TAR),
    "shard is a folder": (lambda d: replaced_by_folder(d / TAR), TAR),
    "shard is another tar": (other_tar, TAR),
    "shard overwritten": (
        lambda d: (d / TAR).write_bytes(bytes((d / TAR).stat().st_size)),
        TAR,
    ),
    "shards swapped": (swapped, "shard-00000[01].tar"),
    "bit of an image flipped": (lambda d: flip(d / TAR, b"IDAT"), TAR),
    "bit of a text flipped": (lambda d: flip(d / TAR, b"how many"), TAR),
    "table missing": (lambda d: (d / TABLE).unlink(), "shard-000001"),
    "table empty": (lambda d: (d / TABLE).write_bytes(b""), "shard-000001"),
    "table is a pickle": (lambda d: (d / TABLE).write_bytes(b"\x80\x04N."), "shard-000001"),
    "bit of a table flipped": (lambda d: flip(d / TABLE, b"NUMPY"), "shard-000001"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_damaged_shards_name_themselves(name: str, tmp_path: Path) -> None:
    write_shards(tmp_path / "s", map(shard_record, range(7)), per_shard=3)
    spoil, message = SHARDS[name]
    spoil(tmp_path / "s")
    with pytest.raises(ShardError, match=message) as caught:
        list(ShardDataset(tmp_path / "s"))
    assert str(tmp_path / "s") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert any(str(tmp_path / "s") in line for line in damage(tmp_path / "s"))


def test_an_unlisted_shard_is_no_part_of_the_data(tmp_path: Path) -> None:
    write_shards(tmp_path, map(shard_record, range(7)), per_shard=3)
    (tmp_path / "shard-000003.tar").write_bytes((tmp_path / "shard-000000.tar").read_bytes())
    assert [s.id for s in ShardDataset(tmp_path)] == [f"s-{i}" for i in range(7)]
    assert damage(tmp_path) == [f"{tmp_path / 'shard-000003.tar'} is not in the index"]


# --- JSON files: nothing can be made of them ------------------------------------------------------

GOOD = [record(i) for i in range(4)]
JSON_FILES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is not valid JSON: Expecting value: line 1"),
    "no JSON": (b"id,image\n1,2\n", "is not valid JSON: Expecting value: line 1"),
    "JSON lines": (json.dumps(GOOD[0]).encode() * 2, "is not valid JSON: Extra data"),
    "cut short": (json.dumps(GOOD).encode()[:-40], "is not valid JSON: .*line 1"),
    "an object": (json.dumps({"data": GOOD}).encode(), "must hold a list of records, not dict"),
    "a number": (b"3", "must hold a list of records, not int"),
    "an empty list": (b"[]", "holds no record"),
    "Latin-1": ('[{"id": "é"}]'.encode("latin-1"), "is not valid JSON: 'utf-8' codec"),
    "UTF-16": (json.dumps(GOOD).encode("utf-16"), "is not valid JSON: 'utf-8' codec"),
    "binary": (bytes(range(256)), "is not valid JSON"),
    "too deep": (b"[" * 99999, "is not valid JSON: maximum recursion"),
    "no good record": (b'[{"id": "a"}]', "no record of use; .*line 1: record 0 .* conversations"),
}


def conversion(root: Path, content: bytes | Sequence[Any], **options: Any) -> Conversion:
    """A conversion of records with four good images; its result goes to ``root / "out"``."""
    (root / "images" / "sub").mkdir(parents=True)
    for number in range(4):
        (root / "images" / "sub" / f"{number}.jpg").write_bytes(encoded(number, "jpeg"))
    raw = content if isinstance(content, bytes) else json.dumps(content, indent=0).encode()
    (root / "data.json").write_bytes(raw)
    chosen = ConvertOptions(vocab_size=300, **options)
    return Conversion(root / "data.json", root / "images", chosen)


def left(root: Path) -> list[str]:
    """Folders and files beside the sources, without the lock."""
    return sorted(p.name for p in root.iterdir() if p.suffix not in (".json", ".lock"))


@pytest.mark.parametrize("name", JSON_FILES)
def test_damaged_json_is_refused(name: str, tmp_path: Path) -> None:
    content, message = JSON_FILES[name]
    with pytest.raises(ValueError, match=message) as caught:
        conversion(tmp_path, content).run(tmp_path / "out", workers=1)
    assert str(tmp_path / "data.json") in str(caught.value)
    assert left(tmp_path) == ["images"]


def test_a_byte_order_mark_is_no_damage(tmp_path: Path) -> None:
    content = "\ufeff" + json.dumps(GOOD)
    summary = conversion(tmp_path, content.encode()).run(tmp_path / "out", workers=1)
    assert summary.samples["train"] == 4


# --- Records: each is left out and listed, or refused ---------------------------------------------


def said(*texts: Any) -> dict[str, Any]:
    """A record with these messages, of human and gpt in turn."""
    messages = [{"from": s, "value": t} for s, t in zip(["human", "gpt"] * 9, texts, strict=False)]
    return record(1, conversations=messages)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in record(1).items() if k != key}


HUMAN, GPT = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
RECORDS: dict[str, tuple[Any, str]] = {
    "null": (None, "is not an object but NoneType"),
    "a list": ([1], "is not an object but list"),
    "NaN": (float("nan"), "is not an object but float"),
    "no conversations": (without("conversations"), "has no conversations"),
    "empty conversations": (record(1, conversations=[]), "has no conversations"),
    "conversations are text": (record(1, conversations="Q: A:"), "has no conversations"),
    "a message is text": (record(1, conversations=["Why?", "So."]), "message 0 is not from"),
    "wrong role": (
        record(1, conversations=[{"from": "observation", "value": "Q"}, GPT]),
        "message 0 is not from 'human' or 'gpt' but from 'observation'",
    ),
    "no role": (record(1, conversations=[{"value": "Q"}, GPT]), "message 0 is not from 'human'"),
    "answers alone": (record(1, conversations=[GPT, GPT]), "message 1 is not from 'human'"),
    "one answer": (record(1, conversations=[GPT]), "has a question without an answer"),
    "a system in between": (
        record(1, conversations=[HUMAN, {"from": "system", "value": "Be brief."}]),
        "message 1 is not from 'gpt'",
    ),
    "two questions in a row": (record(1, conversations=[HUMAN, HUMAN, GPT]), "message 1 is not"),
    "two answers in a row": (record(1, conversations=[HUMAN, GPT, GPT]), "message 2 is not from"),
    "no answer": (said("Why?"), "has a question without an answer"),
    "no last answer": (said("Why?", "So.", "And?"), "has a question without an answer"),
    "empty answer": (said("Why?", ""), "has a question without an answer"),
    "blank answer": (said("Why?", " \n"), "has a question without an answer"),
    "answer is a number": (said("Why?", 7), "message 1 has no text"),
    "answer is NaN": (said("Why?", float("nan")), "message 1 has no text"),
    "answer is null": (said("Why?", None), "message 1 has no text"),
    "half a character": (said("Why?", "\ud83d"), "message 1 is no valid Unicode"),
    "image is a number": (record(1, image=7), "image is not a path but 7"),
    "image is empty": (record(1, image=""), "image is not a path but ''"),
    "image is an object": (record(1, image={"bytes": "eA=="}), "image is not a path but {"),
    "two images": (
        record(1, image=["sub/0.jpg", "sub/1.jpg"]),
        "names 2 images and has <image> 1 t",
    ),
    "no images": (record(1, image=[]), "speaks of an image by <image> but names none"),
    "an image but no name": (without("image"), "speaks of an image by <image> but names none"),
    "image missing": (record(99), "image 'sub/99.jpg' cannot be read: No such file"),
    "image is a folder": (record(1, image="sub"), "image 'sub' cannot be read: Is a directory"),
    "image above the folder": (record(1, image="../data.json"), "outside the image folder"),
    "image by its full path": (record(1, image="/etc/hostname"), "outside the image folder"),
    "zero in the path": (record(1, image="sub/\0.jpg"), "cannot be read: "),
    "half a character in the path": (record(1, image="\ud83d.jpg"), "cannot be read: "),
    "path too long": (record(1, image="x" * 5000), "cannot be read: File name too long"),
    "path through a file": (record(1, image="sub/1.jpg/x"), "cannot be read: Not a directory"),
}


def test_bad_records_are_left_out_and_listed(tmp_path: Path) -> None:
    bad = list(RECORDS.values())
    records = [GOOD[0], *(content for content, _ in bad), GOOD[3]]
    made = conversion(tmp_path, records)
    summary = made.run(tmp_path / "out", workers=1)
    lines = (tmp_path / "data.json").read_text().splitlines()
    assert summary.samples == {"train": 2, "validation": 0}
    assert [p.index for p in summary.problems] == list(range(1, len(bad) + 1))
    for problem, (_, reason) in zip(summary.problems, bad, strict=True):
        assert reason in problem.reason
        assert "\n" not in str(problem)
    first = 2 + len(json.dumps(GOOD[0], indent=0).splitlines())
    assert [p.line for p in summary.problems[:2]] == [first, first + 1]
    for problem, (content, _) in zip(summary.problems, bad, strict=True):
        assert lines[problem.line - 1] == "{" or not isinstance(content, dict)
    assert len((tmp_path / "out" / PROBLEMS).read_text().splitlines()) == len(bad)
    samples = ShardDataset(tmp_path / "out" / "train")
    assert [s.id for s in samples] == ["0000000-r0", f"{len(records) - 1:07d}-r3"]
    assert damage(tmp_path / "out" / "train") == []


def test_a_bad_records_id_may_hold_a_line_separator(tmp_path: Path) -> None:
    separated = {**GOOD[1], "id": "a\u2028b", "image": "nowhere.jpg"}
    made = conversion(tmp_path, [GOOD[0], separated])
    for _ in range(2):  # converted, and read again
        summary = made.run(tmp_path / "out", workers=1)
        assert [problem.id for problem in summary.problems] == ["a\u2028b"]


@pytest.mark.parametrize("name", sorted(RECORDS)[::5])
def test_a_bad_record_can_be_refused(name: str, tmp_path: Path) -> None:
    content, reason = RECORDS[name]
    made = conversion(tmp_path, [GOOD[0], content], bad="refuse")
    with pytest.raises(BadRecordError, match=r"data\.json, line \d+: record 1 ") as caught:
        made.run(tmp_path / "out", workers=1)
    assert reason in str(caught.value)
    assert left(tmp_path) == ["images"]


def test_equal_ids_are_no_damage(tmp_path: Path) -> None:
    """LLaVA-1.5's mix has the same id for several conversations about an image."""
    conversion(tmp_path, [GOOD[1]] * 3).run(tmp_path / "out", workers=1)
    samples = ShardDataset(tmp_path / "out" / "train")
    assert [s.id for s in samples] == [f"000000{i}-r1" for i in range(3)]


def test_links_out_of_the_folder_and_in_circles(tmp_path: Path) -> None:
    """Links in the image folder are the user's; records must not lead out of it by themselves."""
    (tmp_path / "images").mkdir()
    (tmp_path / "coco" / "train").mkdir(parents=True)
    (tmp_path / "coco" / "train" / "x.png").write_bytes(encoded(1))
    (tmp_path / "coco" / "x.png").write_bytes(encoded(2))
    (tmp_path / "images" / "train").symlink_to(tmp_path / "coco" / "train")
    (tmp_path / "images" / "x.png").symlink_to(tmp_path / "coco" / "x.png")
    for name, number in (("train/x.png", 1), ("x.png", 2), ("train/../x.png", 2)):
        assert read_image(name, tmp_path / "images") == encoded(number)
    for name in ("../coco/x.png", "train/../../coco/x.png", str(tmp_path / "coco" / "x.png")):
        with pytest.raises(BadRecordError, match=r"is outside the image folder; .* link one"):
            read_image(name, tmp_path / "images")
    assert read_image(str(tmp_path / "images" / "x.png"), tmp_path / "images") == encoded(2)
    (tmp_path / "images" / "a.png").symlink_to("b.png")
    (tmp_path / "images" / "b.png").symlink_to("a.png")
    with pytest.raises(BadRecordError, match=r"image 'a\.png' cannot be read"):
        read_image("a.png", tmp_path / "images")


# --- Images ---------------------------------------------------------------------------------------


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def noise() -> Image.Image:
    return Image.effect_noise((64, 64), 64).convert("RGB")


def huge_png() -> bytes:
    """A PNG that says it is a gigapixel, without being so."""
    content = bytearray(encoded(1))
    content[16:24] = struct.pack(">II", 50_000, 50_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


BROKEN_IMAGES: dict[str, bytes] = {
    "zero bytes": b"",
    "text": b"not found",
    "a web page": b"<!DOCTYPE html><title>404</title>",
    "JPEG cut short": saved(noise(), "jpeg")[:-200],
    "JPEG cut in its head": saved(noise(), "jpeg")[:30],
    "JPEG begins late": saved(noise(), "jpeg")[4:],
    "PNG cut short": saved(noise(), "png")[:-100],
    "PNG with a flipped bit": saved(noise(), "png")[:200] + b"\xff" + saved(noise(), "png")[201:],
    "PNG without pixels": encoded(1)[:33],
    "a decompression bomb": huge_png(),
    "zeros": bytes(1000),
    "GIF cut short": saved(noise(), "gif")[:100],
    "a drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
}


@pytest.mark.parametrize("name", BROKEN_IMAGES)
def test_broken_images_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(BROKEN_IMAGES[name])
    with pytest.raises(BadRecordError, match=r"image 'x\.jpg' is broken: ") as caught:
        read_image("x.jpg", tmp_path)
    assert "\n" not in str(caught.value)


RED = Image.new("RGB", (16, 16), (255, 0, 0))
GREY16 = Image.fromarray(np.full((16, 16), 0x8000, dtype=np.uint16))
SHARED = {"quality": 100, "subsampling": 0}
ODD_IMAGES: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "CMYK JPEG": (saved(RED.convert("CMYK"), "jpeg", **SHARED), (255, 0, 0)),
    "grey JPEG": (saved(Image.new("L", (16, 16), 90), "jpeg", **SHARED), (90, 90, 90)),
    "palette": (saved(RED.convert("P"), "png"), (255, 0, 0)),
    "one bit": (saved(Image.new("1", (16, 16), 1), "png"), (255, 255, 255)),
    "16 bits of grey": (saved(GREY16, "png"), (128, 128, 128)),
    "16 bits of grey in TIFF": (saved(GREY16, "tiff"), (128, 128, 128)),
    "transparency": (saved(Image.new("RGBA", (16, 16), (9, 8, 7, 0)), "png"), (255, 255, 255)),
    "opaque": (saved(Image.new("RGBA", (16, 16), (9, 8, 7, 255)), "png"), (9, 8, 7)),
    "grey with transparency": (saved(Image.new("LA", (16, 16), (90, 51)), "png"), (222,) * 3),
    "animated GIF": (
        saved(RED, "gif", save_all=True, append_images=[image(0, (16, 16))]),
        (255, 0, 0),
    ),
    "WebP": (saved(RED, "webp", lossless=True), (255, 0, 0)),
    "BMP": (saved(RED, "bmp"), (255, 0, 0)),
    "corrupted EXIF": (saved(RED, "jpeg", exif=b"Exif\0\0MM\0*\xff\xff", **SHARED), (254, 0, 0)),
    "EXIF that is no EXIF": (saved(RED, "jpeg", exif=b"Exif\0\0", **SHARED), (254, 0, 0)),
    "a JPEG with something after it": (saved(RED, "jpeg", **SHARED) + b"junk" * 99, (254, 0, 0)),
    "one pixel": (saved(Image.new("RGB", (1, 1), (1, 2, 3)), "png"), (1, 2, 3)),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images_are_read(name: str, tmp_path: Path) -> None:
    content, colour = ODD_IMAGES[name]
    (tmp_path / "x.jpg").write_bytes(content)
    stored = read_image("x.jpg", tmp_path)
    found = decode_stored(stored)
    assert found.mode == "RGB"
    middle = found.getpixel((found.width // 2, found.height // 2))
    assert max(abs(a - b) for a, b in zip(middle, colour, strict=True)) <= 1


# --- Annotation files of the benchmarks -----------------------------------------------------------

QUESTIONS, ANNOTATIONS = (
    "v2_OpenEnded_mscoco_val2014_questions.json",
    "v2_mscoco_val2014_annotations.json",
)
FILES = {
    "vqav2": (QUESTIONS, ANNOTATIONS),
    "vizwiz": ("val.json",),
    "textvqa": ("TextVQA_0.5.1_val.json",),
    "gqa": ("testdev_balanced_questions.json",),
    "pope": tuple(f"coco_pope_{s}.json" for s in ("random", "popular", "adversarial")),
    "vsr": ("test.jsonl",),
}
ANNOTATED = [(name, file) for name, files in FILES.items() for file in files]


def official(tmp_path: Path, name: str) -> tuple[OfficialBenchmark, Path]:
    benchmark = BENCHMARKS.get(name)()
    assert isinstance(benchmark, OfficialBenchmark)
    root = benchmark.folder(tmp_path)
    root.mkdir(parents=True)
    EXPECTED[name][0](root)
    return benchmark, root


@pytest.mark.parametrize(("name", "file"), ANNOTATED)
@pytest.mark.parametrize("how", ["missing", "empty", "cut", "binary", "list", "number", "folder"])
def test_damaged_annotation_files(name: str, file: str, how: str, tmp_path: Path) -> None:
    benchmark, root = official(tmp_path, name)
    path = root / file
    content = path.read_bytes()
    if how in ("missing", "folder"):
        replaced_by_folder(path)
        if how == "missing":
            path.rmdir()
    else:
        cut, number = content.strip()[: len(content) // 2], b"3"
        path.write_bytes(
            {"empty": b"", "cut": cut, "binary": b"\xff\xfe\0", "list": b"[[]]", "number": number}[
                how
            ]
        )
    error = MissingFileError if how == "missing" else AnnotationError
    with pytest.raises(error, match=str(root)) as caught:
        benchmark.samples(tmp_path, "test")
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not all(finding.good for finding in benchmark.check(tmp_path))


def entry_of(name: str, values: Any) -> dict[str, Any]:
    """The one question in a benchmark's file."""
    found = {
        "vqav2": lambda: values["questions"][0],
        "annotations": lambda: values["annotations"][0],
        "vizwiz": lambda: values[0],
        "textvqa": lambda: values["data"][0],
        "gqa": lambda: values["201"],
    }.get(name, lambda: values)()
    assert isinstance(found, dict)
    return found


FIELDS = {
    "vqav2": ("image_id", "question", "question_id"),
    "annotations": ("question_id", "multiple_choice_answer", "answer_type", "answers"),
    "vizwiz": ("image", "question", "answers", "answer_type"),
    "textvqa": ("question_id", "image_id", "question", "answers"),
    "gqa": ("imageId", "question", "answer", "types"),
    "pope": ("question_id", "image", "text", "label"),
    "vsr": ("image", "caption", "label", "relation"),
}
READ = [(name, field) for name, fields in FIELDS.items() for field in fields]


@pytest.mark.parametrize(("name", "field"), READ)
def test_a_missing_or_mistyped_field_is_named(name: str, field: str, tmp_path: Path) -> None:
    benchmark, root = official(tmp_path, "vqav2" if name == "annotations" else name)
    path = root / (ANNOTATIONS if name == "annotations" else FILES[name][0])
    values = json.loads(path.read_text())
    entry = entry_of(name, values)
    del entry[field]
    path.write_text(json.dumps(values))
    with pytest.raises(AnnotationError, match=f"has no field '{field}'") as caught:
        benchmark.items(tmp_path)
    assert str(path) in str(caught.value)
    for wrong in (None, 2.5, {"a": "b"}):
        entry[field] = wrong
        path.write_text(json.dumps(values))
        with pytest.raises(AnnotationError) as caught:
            benchmark.items(tmp_path)
        assert str(path) in str(caught.value)


def edited(root: Path, file: str, change: Callable[[Any], Any]) -> None:
    values = json.loads((root / file).read_text())
    (root / file).write_text(json.dumps(change(values)))


def other_id(values: dict[str, Any]) -> dict[str, Any]:
    values["annotations"][0]["question_id"] = 421
    return values


def twice(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value * 2 for key, value in values.items()}


MISMATCHES: dict[str, tuple[str, str, Callable[[Any], Any], str]] = {
    "other ids": ("vqav2", ANNOTATIONS, other_id, "has no annotation of question 420"),
    "questions twice": ("vqav2", QUESTIONS, twice, "2 questions have the id 420"),
    "an image twice": ("vizwiz", "val.json", lambda v: v * 2, "2 questions have the id v_1"),
    "no questions": ("textvqa", FILES["textvqa"][0], lambda v: {"data": []}, "holds no question"),
    "one answer": (
        "vizwiz",
        "val.json",
        lambda v: [v[0] | {"answers": v[0]["answers"][:1]}],
        "has not the answers of several people",
    ),
    "answers are numbers": (
        "textvqa",
        FILES["textvqa"][0],
        lambda v: {"data": [v["data"][0] | {"answers": [1] * 10}]},
        "has not the answers of several people",
    ),
    "no label": ("pope", FILES["pope"][0], lambda v: v | {"label": "maybe"}, "not 'yes' or 'no'"),
    "label out of range": ("vsr", "test.jsonl", lambda v: v | {"label": 2}, "is 2, not 0 or 1"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_files_that_do_not_fit(name: str, tmp_path: Path) -> None:
    which, file, change, message = MISMATCHES[name]
    benchmark, root = official(tmp_path, which)
    edited(root, file, change)
    with pytest.raises(AnnotationError, match=message) as caught:
        benchmark.items(tmp_path)
    assert str(root) in str(caught.value)
