"""Whether prepared data have what a run trains and validates on, before it does."""

from __future__ import annotations

import logging
from pathlib import Path

from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.base import DataSet, Split
from ablate.data.lengths import NO_ROOM, question_reader
from ablate.errors import ConfigError
from ablate.training.fit import too_long, training_samples, validation_samples
from ablate.training.schedule import total_steps

logger = logging.getLogger(__name__)


def check_samples(where: str, config: RunConfig, cache: Path) -> None:
    """See that there is something to train and to validate on; tell what is too long for it.

    Args:
        where: the file, for messages.
        config: the run; its data are prepared.
        cache: folder of converted data.

    Raises:
        ConfigError: there is nothing, or a conversation is too long, which is to be refused.
    """
    dataset, every = data_set(config), config.train.validate_every
    try:
        _check_lengths(where, config, dataset, cache, "train")
        training = len(training_samples(config, dataset, cache))
    except ValueError as error:
        raise ConfigError(where, "data", str(error)) from error
    if not training:
        raise ConfigError(where, "data", "has no sample to train on")
    if every is None:
        return
    try:
        _check_lengths(where, config, dataset, cache, "validation")
        validation = len(validation_samples(config, dataset, cache))
    except ValueError as error:
        raise ConfigError(where, "train.validate_every", str(error)) from error
    if not validation:
        message = (
            f"data set {config.data.name!r} has no sample for validation; hold some out (llava: "
            "data.args.validation_every, ablate data convert: --validation-every), or do without"
        )
        raise ConfigError(where, "train.validate_every", message)
    if every > (steps := total_steps(config.train, training)):
        message = "%s: train.validate_every: never validates, as training ends after %d steps"
        logger.warning(message, where, steps)


def _check_lengths(
    where: str, config: RunConfig, dataset: DataSet, cache: Path, split: Split
) -> None:
    samples, choice, most = (
        dataset.split(cache, split),
        config.data.too_long,
        config.data.max_length,
    )
    read = question_reader(samples)
    if choice == "refuse" and read is None:
        return  # not cheap, as every image would be read; found when it is drawn
    found = too_long(config, dataset, cache, split)
    if not found:
        return
    first = (read or samples.__getitem__)(min(found)).id
    what = (
        f"{len(found)} of {len(samples)} {split} conversations have a first question that takes "
        f"all of {most} tokens; the first: {first!r}"
    )
    if choice == "refuse":
        remedy = "raise it, or set data.too_long to skip or truncate"
        raise ConfigError(where, "data.max_length", f"{what}; {remedy}")
    if choice == "truncate" and NO_ROOM in found.values():
        message = f"{most} tokens are less than the chat template takes by itself; raise it"
        raise ConfigError(where, "data.max_length", message)
    fate = {"skip": "left out", "truncate": "shortened"}[choice]
    logger.warning("%s: data.too_long: %s: %s", where, what, fate)
