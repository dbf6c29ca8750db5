"""Converting and reading, side by side: shards, and the plain folder of files they are made from.

    python tests/bench_data.py [--workers 2] [--repeats 4] [--cpu-time]

The same pixels from three places, through the same transform and the same loader: the folder as
LLaVA's own data set reads it (the JSON in memory, ``Image.open(path).convert("RGB")`` a file), the
shards with the files as they are, and the shards with the pixels stored decoded
(``ablate data convert --image-format pixels``). Batches are checked to be equal before anything is
timed. Images: drawings of 64 pixels in PNG, and crops of photographs of 336 pixels in JPEG
(quality 90). Epochs take turns, so that a busy machine slows all; medians are printed.

``warm``: all files are in the page cache. ``cold``: the kernel was told to drop the files' pages
before each epoch, which leaves folders and inodes cached. On a machine that others keep busy take
``--cpu-time``: the processor's time of this process and the workers (Linux), warm alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from ablate.components.encoders.image_transform import ImageTransform
from ablate.data.convert import Conversion, ConvertOptions
from ablate.data.loading import ResumableLoader, SeededSampler, make_loader
from ablate.data.samples import Sample, Samples, Turn
from ablate.data.shards import ShardDataset
from ablate.data.text import stack_pixels

BATCH = 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Folder:
    """LLaVA-format files as LLaVA's data set reads them, map-style."""

    def __init__(self, json_file: Path, images: Path) -> None:
        self.records = json.loads(json_file.read_text())
        self.images = images

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Sample:
        record = self.records[index]
        image = Image.open(self.images / record["image"]).convert("RGB")
        question, answer = (message["value"] for message in record["conversations"])
        return Sample(record["id"], image, [Turn(question.replace("<image>\n", ""), answer)])


def drawing(rng: np.random.Generator) -> Image.Image:
    """A shape or two on a background, 64 pixels."""
    image = Image.new("RGB", (64, 64), tuple(rng.integers(128, 256, 3).tolist()))
    for draw in (ImageDraw.Draw(image).ellipse, ImageDraw.Draw(image).rectangle):
        left, top, width, height = rng.integers(4, 30, 4).tolist()
        draw((left, top, left + width, top + height), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image


def photographs() -> list[Image.Image]:
    from sklearn.datasets import load_sample_images

    return [Image.fromarray(pixels) for pixels in load_sample_images().images]


def write_source(root: Path, size: int, count: int) -> tuple[Path, Path]:
    """A JSON file and a folder of images; the two paths."""
    rng, photos = np.random.default_rng(0), photographs()
    (root / "images").mkdir()
    records: list[dict[str, Any]] = []
    for index in range(count):
        if size == 64:
            name, options = f"{index:06d}.png", {}
            image = drawing(rng)
        else:
            name, options = f"{index:06d}.jpg", {"quality": 90}
            photo = photos[index % len(photos)]
            left, top = (int(rng.integers(side - size + 1)) for side in photo.size)
            image = photo.crop((left, top, left + size, top + size))
        image.save(root / "images" / name, **options)
        turns = [("human", "<image>\nWhat is shown?"), ("gpt", f"Picture {index}.")]
        conversation = [{"from": speaker, "value": text} for speaker, text in turns]
        records.append({"id": str(index), "image": name, "conversations": conversation})
    (root / "data.json").write_text(json.dumps(records))
    return root / "data.json", root / "images"


def converted(root: Path, image_format: Any, workers: int) -> tuple[Path, str]:
    """Shards of everything, and how it went."""
    options = ConvertOptions(vocab_size=300, validation_every=10**9, image_format=image_format)
    start = time.perf_counter()
    out = root / image_format
    summary = Conversion(root / "data.json", root / "images", options).run(out, workers)
    seconds, count = time.perf_counter() - start, summary.samples["train"]
    line = f"{count} samples in {seconds:.1f} s, {count / seconds:.0f} samples/s, "
    return out / "train", line + f"{summary.bytes / count / 1e3:.1f} kB a sample"


def loader(samples: Samples[Sample], size: int, workers: int) -> ResumableLoader:
    """Batches of images alone: texts are tokenised alike wherever they come from."""
    collate = partial(_pixels, transform=ImageTransform(size, "naive", MEAN, STD))
    sampler = SeededSampler(len(samples), 0, shuffle=True)
    return make_loader(samples, collate, BATCH, sampler=sampler, num_workers=workers)


def _pixels(samples: Sequence[Sample], transform: ImageTransform) -> Any:
    return stack_pixels([image for sample in samples for image in sample.images], transform)


def drop_pages(folder: Path) -> None:
    """Ask the kernel to forget the contents of all files in a folder."""
    os.sync()
    for path in folder.rglob("*.*"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def processor_time(batches: ResumableLoader) -> float:
    """Seconds of this process and a loader's workers so far."""
    workers = getattr(batches._iterator, "_workers", [])
    # the number of another process's clock, as Linux's clock_getcpuclockid(3) makes it
    clocks = [(~worker.pid << 3) | 2 for worker in workers]
    return time.process_time() + sum(map(time.clock_gettime, clocks))


def rates(
    loaders: dict[str, ResumableLoader], repeats: int, cold: dict[str, Path], cpu_time: bool
) -> dict[str, float]:
    """Median samples a second of each loader's epochs, taking turns; ``cold``: drop these first."""
    found: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(repeats):
        for name, batches in loaders.items():
            if cold:
                drop_pages(cold[name])
            clock = partial(processor_time, batches) if cpu_time else time.perf_counter
            start = clock()
            count = sum(len(batch) for batch in batches)
            found[name].append(count / (clock() - start))
    return {name: statistics.median(values) for name, values in found.items()}


def bench(size: int, count: int, options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as name:
        root = Path(name)
        json_file, images = write_source(root, size, count)
        print(f"{size} pixels, {count} images, {options.workers} workers")  # noqa: T201
        places = {"folder": images}
        for image_format in ("original", "pixels"):
            places[f"shards, {image_format}"], line = converted(root, image_format, options.workers)
            print(f"  convert, {image_format}: {line}")  # noqa: T201
        samples: dict[str, Any] = {
            where: Folder(json_file, images) if where == "folder" else ShardDataset(path)
            for where, path in places.items()
        }
        loaders = {where: loader(found, size, options.workers) for where, found in samples.items()}
        for batches in zip(*loaders.values(), strict=True):  # also starts the workers
            assert all(torch.equal(batches[0], batch) for batch in batches)
        for state in ("warm",) if options.cpu_time else ("warm", "cold"):
            cold = places if state == "cold" else {}
            found = rates(loaders, options.repeats, cold, options.cpu_time)
            for where, rate in found.items():
                ratio = rate / found["folder"]
                print(f"  {state} {where:17s} {rate:7.0f} samples/s, x {ratio:.2f}", flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument(
        "--cpu-time", action="store_true", help="the processor's time, not the wall's"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    bench(64, 4000, options)
    bench(336, 1000, options)


if __name__ == "__main__":
    main()
