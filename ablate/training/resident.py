"""A small training set on the device as a whole, so that making a batch is choosing its rows.

The ids and labels of all conversations are found once for all cells and kept in the cache, and the
images are features that a frozen encoder has stored. A batch is as ``TrainCollator`` makes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ablate.config.identity import digest, to_dict
from ablate.config.schema import RunConfig
from ablate.data.base import DataSet
from ablate.data.features import FEATURES, FeatureTable
from ablate.data.lengths import VERSION as LENGTHS_VERSION
from ablate.data.loading import ResumableLoader, make_loader
from ablate.data.placement import IMAGE_INDEX
from ablate.data.prepared import prepare_once
from ablate.data.samples import image_key
from ablate.data.text import IGNORE_INDEX, TrainCollator
from ablate.units import GIB

VERSION = 1  # of what is stored
FOLDER = "rows"
IDS, LABELS, LENGTHS, KEYS = "ids.npy", "labels.npy", "lengths.npy", "images.npy"
ROOM = 1 * GIB
"""Bytes that a training set may take of the device."""


class Rows:
    """The conversations of a training split as arrays, from where ``write_rows`` put them.

    Attributes:
        ids, labels: (samples, longest), padded on the right.
        lengths: (samples,).
        keys: (samples, 16) the content of each sample's image, see ``image_key``; no row if any
            sample does not have exactly one image before its text.
    """

    def __init__(self, directory: Path) -> None:
        self.ids, self.labels, self.lengths, self.keys = (
            np.load(directory / name) for name in (IDS, LABELS, LENGTHS, KEYS)
        )


def write_rows(directory: Path, samples: Any, collate: TrainCollator) -> None:
    """Find the ids and labels of all samples, see ``Rows``."""
    ids, labels, keys = [], [], []
    for index in range(len(samples)):
        sample = samples[index]
        row, learnt = collate.row(sample)
        ids.append(row)
        labels.append(learnt)
        if len(sample.images) == 1 and IMAGE_INDEX not in row:
            keys.append(np.frombuffer(image_key(sample.images[0]), np.uint8))
    lengths = np.array(list(map(len, ids)))
    if len(keys) < len(ids):
        keys = []
    np.save(directory / IDS, _padded(ids, lengths, collate.tokenizer.pad_id))
    np.save(directory / LABELS, _padded(labels, lengths, IGNORE_INDEX))
    np.save(directory / LENGTHS, lengths)
    np.save(directory / KEYS, np.array(keys, np.uint8).reshape(-1, 16))


def _padded(rows: list[list[int]], lengths: np.ndarray, padding: int) -> np.ndarray:
    made = np.full((len(rows), lengths.max(initial=1)), padding, np.int32)
    for place, row in enumerate(rows):
        made[place, : len(row)] = row
    return made


class Resident:
    """Makes batches of a training set that is on the device: indices of samples to a batch.

    Args:
        rows: of all samples.
        table: the features of all their images.
        device: where they are to be.
    """

    def __init__(self, rows: Rows, table: FeatureTable, device: torch.device) -> None:
        self.lengths, self.learnt = rows.lengths, rows.labels != IGNORE_INDEX
        self.device = device
        self.ids, self.labels = (
            torch.from_numpy(each).to(device).long() for each in (rows.ids, rows.labels)
        )
        self.features = table.whole().to(device)
        self.images = torch.tensor([table.place(key.tobytes()) for key in rows.keys]).to(device)

    def __call__(self, indices: Sequence[int]) -> dict[str, Any]:
        """The batch of these samples.

        Returns:
            As ``TrainCollator``, but without ``attention_mask``; with what
            ``ablate.models.flops.counted`` adds, and ``supervised``, which are known here.
        """
        own = np.asarray(indices)
        lengths = self.lengths[own]
        longest = int(lengths.max())
        chosen = self._sent(own)
        return {
            "pixels": {FEATURES: self.features[self.images[chosen]]},
            "has_image": torch.ones(len(own), dtype=torch.bool, device=self.device),
            "input_ids": self.ids[chosen, :longest],
            "labels": self.labels[chosen, :longest],
            "placed": None,
            "conversations": len(own),
            "images": len(own),
            "text_tokens": int(lengths.sum()),
            "supervised": self._sent(np.flatnonzero(self.learnt[own, :longest])),
        }

    def _sent(self, values: np.ndarray) -> Tensor:
        """On the device; a GPU is not waited for."""
        here = torch.from_numpy(values)
        pinned = here.pin_memory() if self.device.type == "cuda" else here
        return pinned.to(self.device, non_blocking=True)


def resident_loader(
    config: RunConfig,
    dataset: DataSet,
    cache: Path,
    loader: ResumableLoader,
    device: torch.device,
) -> ResumableLoader:
    """A loader of the same batches from the device, or this one where they cannot be there.

    Args:
        config: the run.
        dataset: the run's.
        cache: folder of converted data.
        loader: of samples by ``TrainCollator``.
        device: where the batches are to be.
    """
    collate = cast(TrainCollator, loader.collate_fn)
    table, samples = collate.transform, cast(Any, loader.dataset)
    if not isinstance(table, FeatureTable) or table.nbytes > ROOM or collate.pack is not None:
        return loader
    data = to_dict(config.data, identity_only=True)
    key = digest([VERSION, LENGTHS_VERSION, dataset.fingerprint(cache), data, collate.max_length])
    directory = cache / FOLDER / key
    prepare_once(directory, lambda partial: write_rows(partial, samples, collate))
    rows = Rows(directory)
    if len(rows.keys) < len(samples):
        return loader
    assert loader.batch_size is not None
    return make_loader(
        cast(Any, range(len(samples))),
        Resident(rows, table, device),
        loader.batch_size,
        sampler=loader.sampler,
        pinned=False,
    )
