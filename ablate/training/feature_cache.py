"""A frozen encoder's features of a run's images, computed once for all cells that share it.

An encoder that is not trained gives an image the same features in every epoch, cell and sweep. They
are kept in the cache, ``features/ENCODER/IMAGES``: one folder for each encoder, by the hash of its
weights and of what else shapes its output, and in it one table for each set of images.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablate.components.encoders import Encoder
from ablate.components.source import source_hash
from ablate.config.checks import stages_of
from ablate.config.identity import digest, to_dict
from ablate.config.registries import run_benchmark
from ablate.config.schema import Policy, RunConfig
from ablate.data.base import DataSet
from ablate.data.features import table_of, write_features
from ablate.data.image_names import image_names
from ablate.data.prepared import bytes_in, mark_used, prepare_once
from ablate.data.samples import Samples
from ablate.errors import CellError, ConfigError
from ablate.models.devices import autocast, device_here, precision, to_device
from ablate.processes.messages import Reporter
from ablate.training.fit import training_samples, validation_samples
from ablate.training.schedule import samples_seen
from ablate.units import GIB

VERSION = 1  # of what is stored: a new number for any change of it
FOLDER = "features"
LIMIT, DEFAULT_LIMIT = "ABLATE_FEATURES_GIB", 16.0


def limit() -> float:
    """Bytes that all stored features may take together: ``ABLATE_FEATURES_GIB``, or 16 GiB.

    0 stores none and uses none.

    Raises:
        ConfigError: it is not a number, or a negative one.
    """
    given = os.environ.get(LIMIT) or str(DEFAULT_LIMIT)
    try:
        size = float(given)
    except ValueError:
        size = -1.0
    if not size >= 0:
        raise ConfigError("environment", LIMIT, f"is a number of GiB, 0 or more, not {given!r}")
    return size * GIB


def applies(config: RunConfig) -> bool:
    """Whether the run's features may be stored: of a frozen encoder, and neither switched off."""
    return config.encoder.policy is Policy.freeze and config.encoder.cache_features and limit() > 0


def sources(config: RunConfig, dataset: DataSet, cache: Path) -> dict[str, Samples[Any]]:
    """The samples that a run's model sees, by what for."""
    found: dict[str, Samples[Any]] = {"train": training_samples(config, dataset, cache)}
    if config.train.validate_every:
        found["validation"] = validation_samples(config, dataset, cache)
    for name in config.evaluate.benchmarks:
        chosen = config.evaluate
        found[name] = run_benchmark(config, name).chosen(cache, chosen.split, chosen.limit)
    return found


def folder(config: RunConfig, encoder: Encoder, cache: Path) -> Path:
    """Where the features of a run's encoder are kept: named by all that affects their values."""
    values = hashlib.sha256(pickle.dumps(encoder.transform))
    for name, tensor in sorted(encoder.state_dict().items()):
        values.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        values.update(tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy())
    chosen = config.encoder
    setting = [precision(config.train), device_here().type, torch.__version__]
    setting += [source_hash(type(part)) for part in (encoder, *getattr(encoder, "parts", ()))]
    fields = [VERSION, chosen.name, to_dict(chosen.args), chosen.feature_precision, *setting]
    return cache / FOLDER / digest([fields, values.hexdigest()])


def make_features(
    config: RunConfig, encoder: Encoder, dataset: DataSet, cache: Path, reporter: Reporter
) -> None:
    """Compute and store the features of all images of a run that are not stored yet.

    Raises:
        CellError: they would take more room than there may be.
    """
    place = folder(config, encoder, cache)
    tables = {}
    for samples in sources(config, dataset, cache).values():
        names = image_names(samples)
        tables[place / table_of(names)] = samples, distinct(names)
    missing = {path: found for path, found in tables.items() if not path.exists() and found[1]}
    for path in tables.keys() - missing.keys():
        mark_used(path)
    images = sum(count_images(own) for _, own in missing.values())
    if not images:
        return
    needed = images * bytes_an_image(config, encoder)
    _check_room(needed, cache)
    reporter.metrics({"images": images, "GiB": needed / GIB})
    device = device_here()
    encoder.to(device).eval()
    done = 0
    for path, (samples, own) in missing.items():
        count = count_images(own)
        write = partial(
            write_features,
            samples=samples,
            images=own,
            transform=encoder.transform,
            encode=_encode(config, encoder, device),
            stored=stored_type(config),
            num_workers=config.data.num_workers,
            progress=partial(_report, reporter, done, count, images),
        )
        prepare_once(path, write)
        done += count


def _report(reporter: Reporter, before: int, count: int, images: int, fraction: float) -> None:
    reporter.progress("features", (before + fraction * count) / images)


def _encode(config: RunConfig, encoder: Encoder, device: torch.device) -> Callable[[Any], Tensor]:
    @torch.inference_mode()
    def encode(pixels: Any) -> Tensor:
        with autocast(config.train, device):
            return encoder(to_device(pixels, device))

    return encode


def stored_type(config: RunConfig) -> torch.dtype | None:
    """The type that features are rounded to; None for that of the encoder's output."""
    return torch.bfloat16 if config.encoder.feature_precision == "bfloat16" else None


def distinct(names: list[list[str]]) -> dict[int, list[int]]:
    """Index of a sample -> which of its images no sample before has, in order of appearance."""
    seen: set[str] = set()
    found: dict[int, list[int]] = {}
    for index, own in enumerate(names):
        for number, name in enumerate(own):
            if name not in seen:
                seen.add(name)
                found.setdefault(index, []).append(number)
    return found


def count_images(images: Mapping[int, Sequence[int]]) -> int:
    """How many images ``distinct`` has found."""
    return sum(map(len, images.values()))


def bytes_an_image(config: RunConfig, encoder: Encoder) -> int:
    """Bytes that an image's features take."""
    size = 4 if stored_type(config) is None else 2
    return encoder.num_tokens * encoder.embed_dim * size


def _check_room(needed: int, cache: Path) -> None:
    kept = cache / FOLDER
    used, free = bytes_in(kept), shutil.disk_usage(cache).free
    if used + needed > limit():
        raise CellError(
            f"they would take {needed / GIB:.3g} GiB beside {used / GIB:.3g} GiB of others, more "
            f"than the {limit() / GIB:g} GiB allowed; raise {LIMIT} or delete {kept}"
        )
    if needed > free:
        raise CellError(
            f"they would take {needed / GIB:.3g} GiB, and {cache} has {free / GIB:.3g} GiB free"
        )


@dataclass
class Request:
    """Runs that share an encoder and images: what to store, and how often it would be computed.

    Attributes:
        key: ``features_key`` of these runs.
        config: one of them.
        images: distinct ones.
        seen: images that the runs encode in all, without stored features.
    """

    key: str
    config: RunConfig
    images: int
    seen: int

    @property
    def is_worthwhile(self) -> bool:
        """Whether storing saves work: a short run does not see every image."""
        return self.images > 0 and self.seen >= self.images


def requests(
    configs: list[RunConfig], cache: Path, dataset: Callable[[RunConfig], DataSet]
) -> list[Request]:
    """What the runs would store, one request per encoder and set of data."""
    found: dict[str, Request] = {}
    counts: dict[str, tuple[int, dict[str, list[list[str]]]]] = {}
    for config in filter(applies, configs):
        data, key = _data_key(config), features_key(config)
        if data not in counts:
            counts[data] = _counts(config, dataset(config), cache)
        images, names = counts[data]
        request = found.setdefault(key, Request(key, config, images, 0))
        for purpose, each in names.items():
            read = samples_seen(config.train, len(each)) if purpose == "train" else len(each)
            request.seen += read * sum(map(len, each)) // max(1, len(each))
    return list(found.values())


def _counts(
    config: RunConfig, dataset: DataSet, cache: Path
) -> tuple[int, dict[str, list[list[str]]]]:
    found = sources(config, dataset, cache)
    names = {purpose: image_names(samples) for purpose, samples in found.items()}
    tables = {table_of(n): count_images(distinct(n)) for n in names.values()}
    return sum(tables.values()), names


def features_key(config: RunConfig) -> str:
    """Equal for runs that need the same features, as far as can be told without their weights."""
    # Weights may be drawn from the seed, unless stage 0 gives them.
    seed = None if stages_of(config.encoder) else config.seed
    parts = [to_dict(config.encoder), precision(config.train), seed, config.start_from]
    return digest([_data_key(config), *parts])


def _data_key(config: RunConfig) -> str:
    chosen, validate = config.evaluate, bool(config.train.validate_every)
    part = config.train.validate_samples if validate else 0
    # What is left out may have the only question about an image.
    fits = config.data.max_length if config.data.too_long == "skip" else None
    data = [config.data.name, to_dict(config.data.args), fits]
    asked = [chosen.benchmarks, to_dict(chosen.definitions), chosen.split, chosen.limit]
    return digest([data, part, *asked])
