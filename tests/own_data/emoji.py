"""A folder of pictures and a JSON of questions about them, as somebody's own data may look.

    python -m tests.own_data.emoji FOLDER

The pictures are 3,372 renderings of emoji, 256 pixels, WebP with transparency (npm
``@lobehub/fluent-emoji-3d``, MIT), their names, groups and skin tones those of npm
``emoji-datasource`` (MIT); npm fetches both. Written are ``FOLDER/pictures`` and
``FOLDER/emoji.json``, LLaVA-format conversations of three questions: the group, or whether it is of
a group; the main colour, by the pixels; the skin tone of people.
"""

from __future__ import annotations

import colorsys
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

PACKAGES = {"pictures": "@lobehub/fluent-emoji-3d@1.1.0", "names": "emoji-datasource@16.0.0"}
TONES = {"1F3FB": "light", "1F3FC": "medium light", "1F3FD": "medium", "1F3FE": "medium dark"}
TONES |= {"1F3FF": "dark"}
HUES = ((15, "red"), (42, "orange"), (70, "yellow"), (165, "green"), (255, "blue"))
HUES += ((290, "purple"), (340, "pink"), (360, "red"))
SIDE = 32
"""Pixels to which a picture is scaled to find its main colour."""


def fetch(package: str, folder: Path) -> Path:
    """What an npm package holds."""
    command = ["npm", "pack", "--silent", package]
    done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    with tarfile.open(folder / done.stdout.split()[-1]) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return (folder / "unpacked" / "package").rename(folder / package.split("@")[-2].split("/")[-1])


def listed(names: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, str]]:
    """(file's stem, name, group, skin tone) of every emoji and of its skin tones."""
    for emoji in names:
        about = emoji["name"].casefold(), emoji["category"].casefold()
        yield emoji["unified"].casefold(), *about, "none"
        for tones, variation in emoji.get("skin_variations", {}).items():
            if tones in TONES:  # of several people with a tone each, no one answer is right
                yield variation["unified"].casefold(), *about, TONES[tones]


def main_colour(path: Path) -> str:
    """The colour that most of a picture's opaque pixels have."""
    with Image.open(path) as picture:
        small = np.asarray(picture.convert("RGBA").resize((SIDE, SIDE))) / 255
    seen = small[small[..., 3] > 0.5][:, :3]
    return Counter(colour(*pixel) for pixel in seen).most_common(1)[0][0] if len(seen) else "none"


def colour(red: float, green: float, blue: float) -> str:
    """The name of a colour, of channels from 0 to 1."""
    hue, saturation, value = colorsys.rgb_to_hsv(red, green, blue)
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    name = next(name for end, name in HUES if hue * 360 <= end)
    return "brown" if name in ("red", "orange") and value < 0.65 else name


def conversation(index: int, group: str, groups: list[str], tone: str, shade: str) -> list[Any]:
    """Three questions in an order of chance, as LLaVA writes them."""
    rng = Random(index)
    asked = group if rng.random() < 0.5 else rng.choice([each for each in groups if each != group])
    turns = [
        (f"Is it of the group {asked}?", "yes" if asked == group else "no"),
        ("What is its main colour?", shade),
        ("Which skin tone is it?", tone)
        if group == "people & body"
        else ("Which group is it of?", group),
    ]
    rng.shuffle(turns)
    messages = []
    for number, (question, answer) in enumerate(turns):
        text = f"<image>\n{question}" if number == 0 else question
        messages += [{"from": "human", "value": text}, {"from": "gpt", "value": answer}]
    return messages


def make(folder: Path, limit: int | None = None) -> Path:
    """Write the pictures and the JSON; the JSON's path.

    Args:
        folder: where to.
        limit: so many pictures, evenly spread; None for all.
    """
    (folder / "pictures").mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        fetched = {what: fetch(package, Path(scratch)) for what, package in PACKAGES.items()}
        names = json.loads((fetched["names"] / "emoji.json").read_text())
        assets = fetched["pictures"] / "assets"
        known = [each for each in listed(names) if (assets / f"{each[0]}.webp").exists()]
        chosen = known if limit is None else known[:: max(1, len(known) // limit)][:limit]
        groups, records = sorted({group for _, _, group, _ in known}), []
        for index, (stem, _, group, tone) in enumerate(chosen):
            file = shutil.copy(assets / f"{stem}.webp", folder / "pictures")
            turns = conversation(index, group, groups, tone, main_colour(Path(file)))
            records.append({"id": stem, "image": f"{stem}.webp", "conversations": turns})
    path = folder / "emoji.json"
    path.write_text(json.dumps(records, indent=1))
    return path


if __name__ == "__main__":
    print(make(Path(sys.argv[1]), *map(int, sys.argv[2:])))  # noqa: T201
