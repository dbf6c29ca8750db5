"""How many tokens a run's conversations take, remembered in the cache."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ablate.config.identity import digest, to_dict
from ablate.config.schema import RunConfig
from ablate.data.base import DataSet, Split
from ablate.data.lengths import VERSION, no_pixels
from ablate.data.prepared import prepare_once
from ablate.data.survey import Survey, survey
from ablate.data.templates import CaptionTemplate
from ablate.data.text import TrainCollator

FOLDER = "lengths"
LENGTHS, SIZES = "lengths.npy", "sizes.json"


def collator(
    config: RunConfig, dataset: DataSet, cache: Path, transform: Any, image_tokens: int = 1
) -> TrainCollator:
    """What makes the run's training and validation batches; see ``TrainCollator``."""
    whole = _whole(config, dataset, cache, transform)
    limit = max_length(config, dataset, cache)
    return replace(whole, max_length=limit, image_tokens=image_tokens)


def _whole(config: RunConfig, dataset: DataSet, cache: Path, transform: Any) -> TrainCollator:
    data = config.data
    return TrainCollator(
        dataset.tokenizer(cache),
        CaptionTemplate() if data.prompts == "drop" else dataset.template,
        transform,
        sys.maxsize,
        parse_special_tokens=data.parse_special_tokens,
    )


def max_length(config: RunConfig, dataset: DataSet, cache: Path) -> int:
    """Text tokens of a row: ``data.max_length``; ``auto`` is a percentile of the training split's.

    Raises:
        ValueError: the template has no way to write a conversation, or there is none.
    """
    given = config.data.max_length
    return surveyed(config, dataset, cache).auto if given == "auto" else given


def surveyed(config: RunConfig, dataset: DataSet, cache: Path, split: Split = "train") -> Survey:
    """See ``ablate.data.survey.survey``; what was found is remembered in the cache.

    Raises:
        ValueError: see ``max_length``.
    """
    anyhow = replace(config.data, too_long="refuse", max_length=1)
    data = to_dict(anyhow, identity_only=True)
    key = digest([VERSION, dataset.fingerprint(cache), data, split])
    directory = cache / FOLDER / key

    def find(partial: Path) -> None:
        samples = dataset.split(cache, split)
        if not len(samples):
            raise ValueError(f"data set {config.data.name!r} has no sample in its {split} split")
        found = survey(samples, _whole(config, dataset, cache, no_pixels))
        np.save(partial / LENGTHS, found.lengths, allow_pickle=False)
        sizes = None if found.sizes is None else [[*size, n] for size, n in found.sizes.items()]
        (partial / SIZES).write_text(json.dumps(sizes))

    prepare_once(directory, find)
    sizes = json.loads((directory / SIZES).read_text())
    lengths = np.load(directory / LENGTHS, allow_pickle=False)
    return Survey(lengths, sizes and {(width, height): n for width, height, n in sizes})
