"""Image files as people see them: upright, on white, in 8 bits, in every mode that Pillow has."""

from __future__ import annotations

import io
import random
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import ablate.data.images
from ablate.data.annotated_items import AnnotatedItems, AnnotationError
from ablate.data.benchmarks.annotations import Item
from ablate.data.images import ImageError, decode_image, show
from ablate.data.llava_images import ImageFormat, read_image
from ablate.data.llava_records import BadRecordError
from ablate.data.shards import decode_stored
from ablate.errors import ConfigError
from ablate.evaluation.chat import read_image as chat_image

RAMP = np.linspace(0, 1, 256)[None].repeat(4, axis=0)
EIGHT = np.round(RAMP * 255).astype(np.uint8)
SIXTEEN = Image.fromarray(np.round(RAMP * 65535).astype(np.uint16))
WORDS = " ".join(map(str, np.asarray(SIXTEEN).ravel())).encode()
BIG_ENDIAN = np.asarray(SIXTEEN).astype(">u2").tobytes()
FLOATS = Image.fromarray(RAMP.astype(np.float32))
ORIENTATION = ExifTags.Base.Orientation


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode_image(data)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def tiff(values: bytes, bits: int, **tags: int) -> bytes:
    """A grey TIFF of 256 x 4 pixels, little-endian, in one strip; with any bits a value."""
    entries = {256: 256, 257: 4, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 4}
    entries |= {279: len(values)} | {int(key[1:]): value for key, value in tags.items()}
    head = struct.pack("<2sHI", b"II", 42, 8 + len(values)) + values
    rows = b"".join(struct.pack("<HHII", key, 4, 1, entries[key]) for key in sorted(entries))
    return head + struct.pack("<H", len(entries)) + rows + bytes(4)


def packed(values: np.ndarray, bits: int) -> bytes:
    """Unsigned values with so many bits each, rows padded to bytes, as TIFF has them."""
    rows = (values[..., None] >> np.arange(bits)[::-1]) & 1
    return np.packbits(rows.reshape(len(values), -1).astype(np.uint8), axis=1).tobytes()


# --- Depth ----------------------------------------------------------------------------------------

DEEP: dict[str, bytes] = {
    "16-bit PNG": saved(SIXTEEN, "png"),
    "16-bit PGM": saved(SIXTEEN, "ppm"),
    "16-bit PGM in words": b"P2 256 4 65535\n"
    + " ".join(map(str, np.asarray(SIXTEEN).ravel())).encode(),
    "12-bit PGM": b"P5 256 4 4095\n" + np.round(RAMP * 4095).astype(">u2").tobytes(),
    "16-bit TIFF": saved(SIXTEEN, "tiff"),
    "16-bit TIFF, big-endian": saved(Image.frombytes("I;16B", (256, 4), BIG_ENDIAN), "tiff"),
    "12-bit TIFF": tiff(packed(np.round(RAMP * 4095).astype(int), 12), 12),
    "16-bit TIFF, white is zero": saved(
        Image.fromarray(65535 - np.asarray(SIXTEEN)), "tiff", tiffinfo={262: 0}
    ),
    "16-bit JPEG 2000": saved(SIXTEEN, "jpeg2000", irreversible=False),
    "float TIFF": saved(FLOATS, "tiff"),
    "PFM": saved(FLOATS, "ppm"),
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("image_format", ["original", "pixels"])
def test_deep_grey_is_scaled(name: str, image_format: ImageFormat, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(DEEP[name])
    stored = np.asarray(decode_stored(read_image("x", tmp_path, image_format))).astype(int)
    for found in (stored, pixels(DEEP[name])):
        assert found.shape == (4, 256, 3)
        assert np.abs(found - EIGHT[..., None]).max() <= 1


COUNTS = np.round(RAMP * 65535)
UNKNOWN: dict[str, tuple[bytes, str]] = {
    "32-bit TIFF": (
        saved(Image.fromarray(COUNTS.astype(np.int32)), "tiff"),
        "TIFF does not say which of its values is white; save it with 8 or 16 unsigned bits",
    ),
    "signed TIFF": (tiff((COUNTS - 32768).astype("<i2").tobytes(), 16, t339=2), "does not say"),
    "floats to 255": (
        saved(Image.fromarray((RAMP * 255).astype(np.float32)), "tiff"),
        "its floating-point values go from 0 to 255, not from 0",
    ),
    "floats below 0": (saved(Image.fromarray(RAMP.astype(np.float32) - 1), "tiff"), "from -1 to 0"),
    "not a number": (
        saved(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "tiff"),
        "from nan to nan",
    ),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_grey_without_a_known_white_is_refused(name: str, tmp_path: Path) -> None:
    content, message = UNKNOWN[name]
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(ImageError, match=message):
        decode_image(content)
    with pytest.raises(BadRecordError, match=rf"image 'x' is broken: .*{message}"):
        read_image("x", tmp_path)


MODES = {"1": "L", "L": "L", "P": "L", "LA": "L", "PA": "RGBA"}  # by what they are made from
MODES |= dict.fromkeys(("RGB", "RGBA", "CMYK", "YCbCr", "LAB", "RGBX"), "RGB")
STORED_AS = ("png", "tiff", "jpeg", "bmp", "webp")


@pytest.mark.parametrize("mode", MODES)
def test_every_shallow_mode_of_every_format_keeps_its_grey(mode: str) -> None:
    expected = np.where(EIGHT > 127, 255, 0) if mode == "1" else EIGHT.astype(int)
    options: dict[str, Any] = {"dither": Image.Dither.NONE} if mode == "1" else {}
    picture = Image.fromarray(EIGHT).convert(MODES[mode]).convert(mode, **options)
    tried = 0
    for kind in STORED_AS:
        exact: dict[str, Any] = {"lossless": True} if kind == "webp" else {}
        try:
            data = saved(picture, kind, **exact)
        except (OSError, KeyError):
            continue  # the format does not have the mode
        tried += 1
        assert np.abs(pixels(data) - expected[..., None]).max() <= (12 if kind == "jpeg" else 2)
    assert tried


# --- Transparency ---------------------------------------------------------------------------------


def clear_left(mode: str) -> Image.Image:
    """Black, transparent on its left half."""
    picture = Image.new("RGBA", (8, 4), (0, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (0, 0, 4, 4))
    return picture.convert(mode)


def palette() -> bytes:
    picture = Image.new("P", (8, 4), 1)
    picture.putpalette([0, 0, 0, 0, 0, 0])
    picture.paste(0, (0, 0, 4, 4))
    return saved(picture, "png", transparency=b"\0\xff")


def keyed(picture: Image.Image, key: Any) -> bytes:
    return saved(picture, "png", transparency=key)


def halves(picture: Image.Image, value: Any) -> Image.Image:
    picture.paste(value, (0, 0, 4, 4))
    return picture


DEEP_HALVES = np.zeros((4, 8), np.uint16)
DEEP_HALVES[:, :4] = 777
TRANSPARENT: dict[str, bytes] = {
    "RGBA PNG": saved(clear_left("RGBA"), "png"),
    "LA PNG": saved(clear_left("LA"), "png"),
    "palette PNG": palette(),
    "colour key": keyed(halves(Image.new("RGB", (8, 4)), (1, 2, 3)), (1, 2, 3)),
    "grey key": keyed(halves(Image.new("L", (8, 4)), 9), 9),
    "16-bit grey key": keyed(Image.fromarray(DEEP_HALVES), 777),
    "GIF": saved(clear_left("RGBA"), "gif"),
    "WebP": saved(clear_left("RGBA"), "webp", lossless=True),
    "TIFF": saved(clear_left("RGBA"), "tiff"),
}


@pytest.mark.parametrize("name", TRANSPARENT)
@pytest.mark.parametrize("image_format", ["original", "pixels"])
def test_transparency_shows_white(name: str, image_format: ImageFormat, tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(TRANSPARENT[name])
    stored = np.asarray(decode_stored(read_image("x", tmp_path, image_format)))
    for found in (stored, pixels(TRANSPARENT[name])):
        assert (found[:, :4] == 255).all()
        assert (found[:, 4:] == 0).all()


def test_half_transparent_is_mixed_with_white() -> None:
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 128))
    assert pixels(saved(picture, "png"))[0, 0].tolist() == [255, 127, 127]


# --- Orientation ----------------------------------------------------------------------------------


def arrow() -> Image.Image:
    """No two of its eight orientations are alike."""
    values = np.zeros((32, 64, 3), np.uint8)
    values[:8], values[:, :8], values[8:16, 48:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    return Image.fromarray(values)


def turned(orientation: int, kind: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return saved(arrow(), kind, exif=exif, **options)


EXACT: dict[str, dict[str, Any]] = {"png": {}, "webp": {"lossless": True}, "tiff": {}}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", EXACT)
def test_orientation_is_applied_once(kind: str, orientation: int, tmp_path: Path) -> None:
    data = turned(orientation, kind, **EXACT[kind])
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    reference = Image.open(io.BytesIO(saved(arrow(), "png", exif=exif)))
    expected = np.asarray(ImageOps.exif_transpose(reference))
    assert np.array_equal(pixels(data), expected)
    (tmp_path / "x").write_bytes(data)
    assert np.array_equal(decode_stored(read_image("x", tmp_path)), expected)


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("image_format", ["original", "pixels"])
def test_turned_photographs_are_stored_upright(
    orientation: int, image_format: ImageFormat, tmp_path: Path
) -> None:
    data = turned(orientation, "jpeg", quality=100, subsampling=0)
    (tmp_path / "x.jpg").write_bytes(data)
    stored = decode_stored(read_image("x.jpg", tmp_path, image_format))
    expected = np.asarray(decode_image(data)).astype(int)
    assert np.abs(np.asarray(stored) - expected).max() <= (0 if image_format == "pixels" else 24)
    assert np.abs(np.asarray(stored) - expected).mean() < 1
    assert stored.size == ((64, 32) if orientation < 5 else (32, 64))


@pytest.mark.parametrize("orientation", [0, 1, 9])
def test_an_upright_file_is_stored_as_it_is(orientation: int, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(turned(orientation, "jpeg"))
    assert read_image("x.jpg", tmp_path) == (tmp_path / "x.jpg").read_bytes()


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_an_opaque_file_of_another_mode_is_stored_as_it_is(mode: str, tmp_path: Path) -> None:
    data = saved(arrow().convert(mode), "png")
    (tmp_path / "x.png").write_bytes(data)
    assert read_image("x.png", tmp_path) == data
    assert np.array_equal(decode_stored(data), decode_image(data))


def test_a_turned_deep_image() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    found = pixels(saved(SIXTEEN, "png", exif=exif))
    assert found.shape == (256, 4, 3)
    assert np.array_equal(found[:, 0, 0], EIGHT[0])


def test_damaged_metadata_lose_no_image() -> None:
    """Photographs come with metadata that no library can write again."""
    exif = Image.Exif()
    exif[ORIENTATION], exif[ExifTags.Base.Make], exif[ExifTags.Base.XResolution] = 6, "A", 72.0
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.LensSpecification] = (1.0, 2.0, 3.0, 4.0)
    data = saved(arrow(), "jpeg", exif=exif)
    start, length = data.index(b"Exif\0\0") + 6, len(exif.tobytes()) - 6
    generator = random.Random(0)
    sizes = []
    for _ in range(500):
        content = bytearray(data)
        for _ in range(generator.randint(1, 6)):
            content[start + generator.randrange(length)] = generator.randrange(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "Corrupt EXIF data"
            sizes.append(decode_image(bytes(content)).size)
    assert set(sizes) == {(64, 32), (32, 64)}


# --- Size -----------------------------------------------------------------------------------------

THIN = {(3000, 1): (336, 1), (1, 3000): (1, 336), (3000, 20): (336, 2), (999, 999): (336, 336)}


@pytest.mark.parametrize("size", THIN)
@pytest.mark.parametrize("image_format", ["original", "pixels"])
@pytest.mark.parametrize("kind", ["png", "jpeg", "bmp"])
def test_a_side_is_one_pixel_at_least(
    size: tuple[int, int], image_format: ImageFormat, kind: str, tmp_path: Path
) -> None:
    (tmp_path / "x").write_bytes(saved(Image.new("RGB", size, (9, 9, 9)), kind))
    found = decode_stored(read_image("x", tmp_path, image_format, 336))
    assert found.size == THIN[size]
    assert found.getpixel((0, 0)) == (9, 9, 9)


def test_what_cannot_be_stored_is_a_bad_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise SystemError("tile cannot extend outside image")

    (tmp_path / "x.png").write_bytes(saved(arrow(), "png"))
    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(BadRecordError, match=r"image 'x\.png' cannot be stored: tile"):
        read_image("x.png", tmp_path, max_side=8)


def test_a_large_scan_is_read_and_scaled(tmp_path: Path) -> None:
    """Above what Pillow warns of: 91 million pixels."""
    (tmp_path / "x.png").write_bytes(saved(Image.new("1", (14000, 6500), 1), "png"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = decode_stored(read_image("x.png", tmp_path, max_side=512))
    assert found.size == (512, 238)
    assert found.getpixel((100, 100)) == (255, 255, 255)


def test_the_limit_of_pixels_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablate.data.images, "MAX_PIXELS", 2_000_000)
    assert decode_image(saved(Image.new("1", (2000, 1000)), "png")).size == (2000, 1000)
    with pytest.raises(ImageError, match=r"2001 x 1000 pixels, more than the 2 million that are"):
        decode_image(saved(Image.new("1", (2001, 1000)), "png"))


# --- Readers --------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], Image.Image | None]] = {
    "benchmark": lambda path: AnnotatedItems([Item("1", path, "Q", "A")])[0].image,
    "chat": chat_image,
}


@pytest.mark.parametrize("reader", READERS)
def test_all_readers_of_files_show_the_same(reader: str, tmp_path: Path) -> None:
    read = READERS[reader]
    for content in (*DEEP.values(), *TRANSPARENT.values(), turned(6, "jpeg"), turned(3, "png")):
        (tmp_path / "x").write_bytes(content)
        found = read(tmp_path / "x")
        assert found is not None
        assert found.tobytes() == show(content).image.tobytes()
    (tmp_path / "x").write_bytes(UNKNOWN["32-bit TIFF"][0])
    with pytest.raises((AnnotationError, ConfigError), match="does not say which of its values"):
        read(tmp_path / "x")
