"""What `ablate data look` is given: records, converted data, a sweep file's data or a run's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from ablate.analysis.connect import refusals
from ablate.analysis.results import artifact_text
from ablate.config.compose import Layer, compose
from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.config.shipped import find_file
from ablate.data.convert import ConvertOptions, trained_for
from ablate.data.converted import Shards
from ablate.data.lengths import no_pixels
from ablate.data.llava_records import SUFFIXES
from ablate.data.look import Look, of_records, spread
from ablate.data.templates import TemplateName
from ablate.data.text import TrainCollator
from ablate.errors import ConfigError, DataError
from ablate.models.vlm import build_component
from ablate.sweeping.plan import plan_sweep
from ablate.sweeping.sample_checks import prepare_data
from ablate.tracking.described import find_runs
from ablate.training.fit import training_samples
from ablate.training.lengths import collator

DEFAULT = ConvertOptions.template


@dataclass(frozen=True)
class Written:
    """How samples are written where no run says so.

    Attributes:
        template: the chat template; None for the one that a conversion was made for, or the
            default one.
        max_length: tokens of a row.
        images: the folder of a file's images; None for the file's own.
    """

    template: TemplateName | None
    max_length: int
    images: Path | None


def looked_at(given: str, written: Written, count: int, cache: Path) -> tuple[str, Iterable[Look]]:
    """What is said of the whole, and the samples, evenly spread over it.

    Args:
        given: a file of records, a folder of converted data, a sweep file or a run.
        written: for the first two.
        count: of samples.
        cache: folder of converted data.

    Raises:
        ConfigError, DataError: there is nothing of the kind, or it cannot be read.
    """
    path = Path(given).expanduser()
    template: Any = written.template or trained_for(path) or DEFAULT
    how = f"as {template} writes them, max_length {written.max_length:,}"
    try:
        if path.is_file() and path.suffix in SUFFIXES:
            images = path.parent if written.images is None else written.images
            total, looks = of_records(path, images, template, written.max_length, count)
            return f"{given}: {total:,} conversations, {how}", looks
        if path.is_dir():
            data = Shards(folder=str(path), template=template)
            samples, tokenizer = data.split(cache, "train"), data.tokenizer(cache)
            collate = TrainCollator(tokenizer, data.template, no_pixels, written.max_length)
            about = f"{given}: {len(samples):,} conversations to train on, {how}"
            return about, spread(samples, collate, count)
    except (ValueError, OSError) as error:
        raise DataError("data look", given, str(error)) from error
    return _of_config(given, count, cache)


def _of_config(given: str, count: int, cache: Path) -> tuple[str, Iterable[Look]]:
    config = _config(given)
    prepare_data(given, config, cache)
    dataset = data_set(config)
    try:
        samples = training_samples(config, dataset, cache)
        collate = collator(config, dataset, cache, no_pixels)
    except (ValueError, OSError) as error:
        raise DataError(given, "data", str(error)) from error
    with torch.device("meta"):
        seen = build_component(config, "encoder").image_size
    about = (
        f"{given}: {len(samples):,} conversations of {config.data.name} to train on, max_length "
        f"{collate.max_length:,}; the encoder sees images at {seen} x {seen}"
    )
    return about, spread(samples, collate, count)


def _config(given: str) -> RunConfig:
    """The first cell's of a sweep file, or a run's.

    Raises:
        ConfigError: there is no such file or run, or a mistake in it.
    """
    try:
        path = find_file(given)
    except ConfigError as no_file:
        try:
            tracker, runs = find_runs(given)
        except ConfigError as no_run:
            raise (no_file if Path(given).suffix else no_run) from None
        saved = f"run {runs[0].info.run_id}: config.yaml"
        with refusals(tracker.uri):
            text = artifact_text(tracker.client, tracker.uri, runs[0].info.run_id, "config.yaml")
        return compose([Layer(saved, yaml.safe_load(text))])
    return plan_sweep(path).cells[0].config
