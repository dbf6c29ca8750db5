"""How large a plan's models are, and their vocabularies, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablate.config.registries import data_key, data_set
from ablate.data.tokenizer import Tokenizer
from ablate.errors import ConfigError
from ablate.models.sizes import ModelSize, planned_size
from ablate.models.vlm import IncompatibleError
from ablate.sweeping.cards import needed
from ablate.sweeping.plan import Plan
from ablate.sweeping.sample_checks import check_samples, prepare_data
from ablate.training.lengths import max_length


def vocabulary_sizes(plan: Plan, cache: Path) -> dict[str, int]:
    """The tokenizer's size by combination's identity; data that is not prepared yet is.

    Raises:
        ConfigError: a stage has another tokenizer than the one before.
        ConfigError, DataError: see ``prepare_data`` and ``check_samples``.
    """
    tokenizers: dict[str, Tokenizer] = {}
    found: dict[str, int] = {}
    uses: set[str] = set()
    for identity, cell in plan.combinations.items():
        key = data_key(cell.config)
        where = f"{plan.source} (cell {cell.combination})"
        if key not in tokenizers:
            tokenizers[key] = prepare_data(where, cell.config, cache)
        if cell.after is not None:
            before = tokenizers[data_key(cell.after.config)]
            if before.vocabulary != tokenizers[key].vocabulary:
                message = "has another tokenizer than the stage before; give both the same"
                raise ConfigError(where, "data", message)
        use = str((cell.config.data, cell.config.train))
        if use not in uses:
            uses.add(use)
            check_samples(where, cell.config, cache)
        found[identity] = tokenizers[key].vocab_size
    return found


def memory_needed(plan: Plan, sizes: dict[str, ModelSize], cache: Path) -> dict[str, int]:
    """The bytes of a GPU that a cell takes in training, by its combination's identity.

    Raises:
        ConfigError: a conversation that its template has no way to write.
    """
    found = {}
    for identity, cell in plan.combinations.items():
        try:
            text = max_length(cell.config, data_set(cell.config), cache)
        except ValueError as error:
            where = f"{plan.source} (cell {cell.combination})"
            raise ConfigError(where, "data", str(error)) from error
        found[identity] = needed(cell.config, sizes[identity], text)
    return found


def model_sizes(plan: Plan, vocabularies: dict[str, int]) -> dict[str, ModelSize]:
    """The size of each combination's model, by the combination's identity.

    Args:
        plan: the sweep.
        vocabularies: the tokenizer's size by combination's identity; a combination without one has
            the vocabulary that its backbone was published with, if any.

    Raises:
        ConfigError: components that do not fit each other.
    """
    sizes: dict[str, ModelSize] = {}
    built: dict[str, Any] = {}
    for identity, cell in plan.combinations.items():
        try:
            sizes[identity] = planned_size(cell.config, vocabularies.get(identity, 1), built)
        except IncompatibleError as error:
            where = f"{plan.source} (cell {cell.combination})"
            raise ConfigError(where, error.role, str(error)) from error
    return sizes
