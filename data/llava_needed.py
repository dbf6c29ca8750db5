"""What conversations in LLaVA's format need to be there, and where the published ones come from."""

from __future__ import annotations

from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ablate.components.needed_files import NeededFile
from ablate.data.llava_images import read_image
from ablate.data.llava_records import BadRecordError, image_names, read_records
from ablate.data.subsets import evenly_spread

IMAGES_READ = 16
_HUB = "huggingface.co/datasets/liuhaotian"


class Published(NamedTuple):
    """Where a file of records and its images are published, and how large that says they are."""

    origin: str
    size: str
    images: str
    images_size: str = ""


PUBLISHED = {
    "llava_v1_5_mix665k.json": Published(
        f"{_HUB}/LLaVA-Instruct-150K",
        "1.03 GB",
        "COCO, GQA, OCR-VQA, TextVQA and Visual Genome, as github.com/haotian-liu/LLaVA says",
    ),
    "blip_laion_cc_sbu_558k.json": Published(
        f"{_HUB}/LLaVA-Pretrain", "181 MB", f"images.zip of {_HUB}/LLaVA-Pretrain", "27.4 GB zipped"
    ),
}
"""By the published name of the records."""


def needed_sources(json_file: Path, images: Path) -> list[NeededFile]:
    """A file of records and the folder of their images, as they were found.

    Every image is looked for, and some are read.
    """
    known = PUBLISHED.get(json_file.name, Published("", "", ""))
    wrong = lacking = ""
    if json_file.is_file():
        try:
            stat = json_file.stat()
            names = _images_of(json_file, stat.st_size, stat.st_mtime_ns)
        except (ValueError, OSError) as error:
            wrong = str(error)
        else:
            lacking = _problem(names, images)
    return [
        NeededFile("records", json_file, known.origin, known.size, wrong),
        NeededFile("images", images, known.images, known.images_size, lacking),
    ]


@lru_cache(maxsize=2)
def _images_of(json_file: Path, size: int, changed: int) -> list[str]:
    """The images of all records that can be used, each once.

    A large file is read once for all data sets of it, which may differ by their tokenizers.

    Args:
        json_file: the records; raises as ``read_records``.
        size: in bytes.
        changed: its time of change.
    """
    names: dict[str, None] = {}
    for record in read_records(json_file):
        with suppress(BadRecordError):
            names |= dict.fromkeys(image_names(record))
    return list(names)


def _problem(names: list[str], folder: Path) -> str:
    """What is wrong with the images of these names."""
    absent = [name for name in names if not (folder / name).is_file()]
    if absent:
        there = len(names) - len(absent)
        return f"has {there} of {len(names)} images, {absent[0]} is missing"
    try:
        for place in evenly_spread(len(names), IMAGES_READ):
            read_image(names[place], folder)
    except BadRecordError as error:
        return str(error)
    return ""
