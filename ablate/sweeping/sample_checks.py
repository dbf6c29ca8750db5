"""Whether prepared data have what a run trains and validates on, before it does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal

from ablate.config.registries import data_set
from ablate.config.schema import RunConfig
from ablate.data.base import DataSet, Split
from ablate.data.lengths import NO_ROOM, question_reader
from ablate.data.tokenizer import Tokenizer
from ablate.data.vocabulary import template_words
from ablate.errors import ConfigError, DataError
from ablate.sweeping.needed import making_tokenizer
from ablate.training.fit import too_long, training_samples, validation_samples
from ablate.training.lengths import max_length
from ablate.training.schedule import total_steps

logger = logging.getLogger(__name__)


def prepare_data(where: str, config: RunConfig, cache: Path) -> Tokenizer:
    """Prepare a run's data, unless they are; their tokenizer.

    Args:
        where: the file, for messages.
        config: the run.
        cache: folder of converted data.

    Raises:
        ConfigError: it refused its arguments.
        DataError: it cannot be prepared.
    """
    try:
        dataset = data_set(config)
    except ValueError as error:
        raise ConfigError(where, "data.args", str(error)) from error
    try:
        dataset.prepare(cache)
        tokenizer = dataset.tokenizer(cache)
        problem = template_words(dataset.template, tokenizer).problem()
    except (ValueError, OSError) as error:
        raise DataError(where, "data", f"{error}{_remedy(config)}") from error
    if problem:
        remedy = "data.args.template or data.args.tokenizer may be another's"
        logger.warning("%s: data: the tokenizer %s; %s", where, problem, remedy)
    return tokenizer


def _remedy(config: RunConfig) -> str:
    """How a tokenizer file that is not there is made."""
    given = config.data.args.get("tokenizer")
    if not given or Path(given).expanduser().is_file():
        return ""
    command = making_tokenizer(config, Path(given))
    return f"; {given}, which is missing, is made by `{command}`" if command else ""


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
    training = _usable(where, "data", config, dataset, cache, "train")
    if not training:
        raise ConfigError(where, "data", "has no sample to train on")
    if every is None:
        return
    validation = _usable(where, "train.validate_every", config, dataset, cache, "validation")
    if not validation:
        message = (
            f"data set {config.data.name!r} has no sample for validation; hold some out (llava: "
            "data.args.validation_every, ablate data convert: --validation-every), or do without"
        )
        raise ConfigError(where, "train.validate_every", message)
    if every > (steps := total_steps(config.train, training)):
        message = "%s: train.validate_every: never validates, as training ends after %d steps"
        logger.warning(message, where, steps)


def _usable(
    where: str,
    key: str,
    config: RunConfig,
    dataset: DataSet,
    cache: Path,
    split: Literal["train", "validation"],
) -> int:
    """How many samples of a split the run would use; ``key``: what asks for them."""
    used = {"train": training_samples, "validation": validation_samples}[split]
    try:
        _check_lengths(where, config, dataset, cache, split)
        return len(used(config, dataset, cache))
    except ValueError as error:
        raise ConfigError(where, key, str(error)) from error


def _check_lengths(
    where: str, config: RunConfig, dataset: DataSet, cache: Path, split: Split
) -> None:
    samples = dataset.split(cache, split)
    choice, read = config.data.too_long, question_reader(samples)
    if choice == "refuse" and read is None:
        return  # not cheap, as every image would be read; found when it is drawn
    found = too_long(config, dataset, cache, split)
    if not found:
        return
    most = max_length(config, dataset, cache)
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
