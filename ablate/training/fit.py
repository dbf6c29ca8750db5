"""Training a model on a run's data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from ablate.components.master_weights.compute_copy import copies_kept
from ablate.config.identity import digest, to_dict
from ablate.config.schema import COMPONENT_ROLES, RunConfig, TrainConfig
from ablate.data.base import DataSet, Split
from ablate.data.features import image_transform
from ablate.data.lengths import VERSION as LENGTHS_VERSION
from ablate.data.lengths import ShortenedSamples, long_questions, no_pixels, question_reader
from ablate.data.loading import ResumableLoader, SeededSampler, make_loader
from ablate.data.prepared import prepare_once
from ablate.data.samples import Sample, Samples
from ablate.data.subsets import limited, without
from ablate.data.text import Transform
from ablate.errors import CellError
from ablate.models.devices import device_here, precision
from ablate.models.flops import training_flops
from ablate.models.seeding import derive
from ablate.models.vlm import VisionLanguageModel
from ablate.processes.companions import ALONE, Place
from ablate.processes.messages import Reporter
from ablate.training.captured import captures
from ablate.training.checkpoints import Checkpoints, Saving, go_on
from ablate.training.lengths import collator
from ablate.training.module import VisionLanguageTraining
from ablate.training.ranks import Strategy, chosen_strategy, part, without_weights
from ablate.training.report import Report
from ablate.training.resident import resident_loader
from ablate.training.schedule import total_steps
from ablate.training.speed import Speed
from ablate.training.trainers import together

FOUND = "found.json"
FILL = "data/fill"
"""Of packed rows: the share of positions that are no padding."""


def training_samples(config: RunConfig, dataset: DataSet, cache: Path) -> Samples[Sample]:
    """The training split, with what is too long left out or shortened if that is asked for."""
    return _fitting(config, dataset, cache, "train")


def validation_samples(config: RunConfig, dataset: DataSet, cache: Path) -> Samples[Sample]:
    """A fixed part of the validation split, evenly spread; otherwise as ``training_samples``."""
    samples = _fitting(config, dataset, cache, "validation")
    return limited(samples, config.train.validate_samples)


def _fitting(config: RunConfig, dataset: DataSet, cache: Path, split: Split) -> Samples[Sample]:
    samples = dataset.split(cache, split)
    if config.data.too_long == "refuse":
        return samples
    found = too_long(config, dataset, cache, split)
    if config.data.too_long == "truncate":
        return ShortenedSamples(samples, found) if found else samples
    return without(samples, found) if found else samples


def too_long(config: RunConfig, dataset: DataSet, cache: Path, split: Split) -> dict[int, int]:
    """See ``ablate.data.lengths.long_questions``; what was found is remembered in the cache.

    Raises:
        ValueError: the template has no way to write a conversation.
    """
    data = to_dict(replace(config.data, too_long="refuse"), identity_only=True)
    key = digest([LENGTHS_VERSION, dataset.fingerprint(cache), data, split])
    directory = cache / "too_long" / key

    def find(partial: Path) -> None:
        samples = dataset.split(cache, split)
        read = question_reader(samples) or samples.__getitem__
        collate = collator(config, dataset, cache, no_pixels)
        found = long_questions(len(samples), read, collate, collate.max_length)
        (partial / FOUND).write_text(json.dumps(list(found.items())))

    prepare_once(directory, find)
    return dict(json.loads((directory / FOUND).read_text()))


def training_loader(
    config: RunConfig,
    dataset: DataSet,
    cache: Path,
    transform: Transform,
    features: Path | None = None,
    image_tokens: int = 1,
    place: Place = ALONE,
) -> tuple[ResumableLoader, int]:
    """The seeded loader of the training split, and the optimiser steps of the whole training.

    A batch is this rank's share of one of the ``accumulate`` parts of a step. ``features``: see
    ``image_transform``; ``image_tokens``: see ``TrainCollator``.

    Raises:
        CellError: there are more ranks than samples.
    """
    samples: Any = training_samples(config, dataset, cache)
    reads = image_transform(samples, transform, features)
    collate = collator(config, dataset, cache, reads, image_tokens)
    collate = replace(collate, pack=config.data.pack)
    if len(samples) < place.size:
        raise CellError(f"{len(samples)} samples are too few for train.devices: {place.size}")
    size = config.train.batch_size // config.train.accumulate // place.size
    seed, rank = derive(config.seed, "data"), (place.rank, place.size)
    sampler = SeededSampler(len(samples), seed, True, *rank, even=size)
    loader = make_loader(
        samples,
        collate,
        size,
        sampler=sampler,
        num_workers=config.data.num_workers,
    )
    return loader, total_steps(config.train, len(samples))


def validation_loader(
    config: RunConfig,
    dataset: DataSet,
    cache: Path,
    transform: Transform,
    features: Path | None = None,
    image_tokens: int = 1,
) -> ResumableLoader:
    """``validation_samples`` in order; the rest as in ``training_loader``."""
    samples = validation_samples(config, dataset, cache)
    reads = image_transform(samples, transform, features)
    collate = collator(config, dataset, cache, reads, image_tokens)
    sampler = SeededSampler(len(samples), 0, shuffle=False)
    return make_loader(samples, collate, config.evaluate.batch_size, sampler=sampler)


def fit(
    config: RunConfig,
    model: VisionLanguageModel,
    dataset: DataSet,
    cache: Path,
    reporter: Reporter,
    features: Path | None = None,
    checkpoints: Checkpoints | None = None,
    place: Place = ALONE,
) -> bool:
    """Train the model in place, from its checkpoint if there is one.

    Where several processes do so together, each is to call this; the first one has the trained
    model then.

    Args:
        config: the run.
        model: as training begins with it.
        dataset: the run's.
        cache: folder of converted data.
        reporter: is told what happens.
        features: see ``image_transform``.
        checkpoints: where its state is saved on the way; None: nowhere.
        place: which of the processes this is.

    Returns:
        False if the reporter asked to stop before the end.

    Raises:
        CellError: see ``VisionLanguageTraining.training_step``.
        Stopped: the process was asked to end; the state is saved.
    """
    reading = (model.encoder.transform, features, model.connector.num_output_tokens)
    loader, steps = training_loader(config, dataset, cache, *reading, place)
    stored = features is not None
    capture, why = captures(config, model, stored)
    reporter.facts({"optimiser steps": "captured" if capture else f"not captured: {why}"})
    if capture:
        loader = resident_loader(config, dataset, cache, loader, device_here())
    if config.data.too_long != "refuse":
        found = too_long(config, dataset, cache, "train")
        reporter.metrics({"data/too_long": float(len(found))})
    strategy = chosen_strategy(config.train.strategy, model)
    speed = Speed(config.train, stored)
    saving = [] if checkpoints is None else [Saving(checkpoints, reporter)]
    report = Report(reporter, steps, config.train.log_every)
    trainer = _trainer(config.train, steps, [report, speed, *saving], speed, place, strategy)
    shared = place.size > 1 and strategy == "fsdp"
    trained = without_weights(model) if shared and place.rank == 0 else None
    module = VisionLanguageTraining(model, config, steps, stored, place.size, capture)
    validates = bool(config.train.validate_every)
    validation = validation_loader(config, dataset, cache, *reading) if validates else None
    with copies_kept(not shared):
        go_on(trainer, module, checkpoints, loader, validation)
    read = speed.all_read()
    reporter.metrics(
        {
            "train/flops": training_flops(model, read, speed.stored),
            "train/image_tokens": float(model.connector.num_output_tokens),
            **({FILL: read.fill} if config.data.pack else {}),
            **speed.metrics(model),
        }
    )
    whole = trainer.strategy.lightning_module_state_dict() if shared else {}
    if place.size > 1:
        reporter.facts({"devices": f"{place.size}, {strategy}"})
        part()
    if trained is not None:
        _take_over(model, trained, whole)
    return trainer.global_step == steps


def _trainer(
    settings: TrainConfig,
    steps: int,
    callbacks: list[Callback],
    speed: Speed,
    place: Place,
    strategy: Strategy,
) -> pl.Trainer:
    every = settings.validate_every
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        precision=precision(settings),
        gradient_clip_val=settings.grad_clip,
        accumulate_grad_batches=settings.accumulate,
        val_check_interval=every and every * settings.accumulate,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        limit_val_batches=None if every else 0,
        callbacks=callbacks,
        profiler=speed.loader,
        **together(place, strategy),
    )


def _take_over(
    model: VisionLanguageModel, trained: VisionLanguageModel, weights: dict[str, Any]
) -> None:
    """Give the model the components of one without weights, and these the weights."""
    found = {name.removeprefix("objective.model."): each for name, each in weights.items()}
    for name, parameter in trained.named_parameters():
        parameter.data = found.pop(name)
    trained.load_state_dict(found, strict=False)  # buffers
    for role in COMPONENT_ROLES:
        setattr(model, role, getattr(trained, role))
