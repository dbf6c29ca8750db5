"""Which files sweeps need, as their components, data sets and benchmarks say themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ablate.components.needed_files import NeededFile
from ablate.config.registries import (
    benchmark_key,
    construct,
    data_key,
    registry,
    run_benchmark,
)
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.errors import ConfigError
from ablate.sweeping.plan import Plan

Found = dict[str, list[NeededFile]]
"""What was found of a component with its arguments: each is looked through once."""


def needed_files(plans: Iterable[Plan], cache: Path) -> list[tuple[NeededFile, list[str]]]:
    """Every file that sweeps need, once, with the names of those that do.

    Args:
        plans: the sweeps.
        cache: folder of converted data and official files.

    Raises:
        ConfigError: something in a sweep cannot be built.
    """
    known: Found = {}
    rows: dict[Path, tuple[NeededFile, list[str]]] = {}
    for plan in plans:
        for cell in plan.whole.combinations.values():
            try:
                files = _of_run(cell.config, cache, known)
            except ValueError as error:
                where = f"{plan.source} (cell {cell.combination})"
                raise ConfigError(where, "", str(error)) from error
            for file in files:
                known_file, users = rows.get(file.path, (file, []))
                # A folder of images may be whole for one file of records and not for another.
                rows[file.path] = (known_file if known_file.problem else file, users)
                if plan.name not in users:
                    users.append(plan.name)
    return list(rows.values())


def _of_run(config: RunConfig, cache: Path, known: Found) -> list[NeededFile]:
    """What one run needs.

    Raises:
        ValueError: see ``construct``.
    """
    found: list[NeededFile] = []
    for key, files in _asked(config, cache):
        if key not in known:
            known[key] = files()
        found += known[key]
    if config.start_from is not None:
        found.append(NeededFile("start_from", Path(config.start_from).expanduser()))
    return [_with_command(file, config) for file in found]


def _asked(config: RunConfig, cache: Path) -> Iterator[tuple[str, Callable[[], list[NeededFile]]]]:
    """Everything that is asked for its files, each with a key that is equal for equals."""
    for role in COMPONENT_ROLES:
        part = getattr(config, role)
        cls = registry(role).get(part.name)
        yield str((role, part.name, part.args)), partial(cls.needed_files, part.args)
    for stage in (config.encoder.pretrain, *(config.encoder.pretrain_parts or [])):
        if stage is not None:
            yield str((stage.data, stage.args)), partial(_of_data, stage.data, stage.args)
    yield data_key(config), partial(_of_data, config.data.name, config.data.args)
    for name in config.evaluate.benchmarks:
        key = f"{benchmark_key(config, name)} {config.evaluate.split}"
        yield key, partial(_of_benchmark, config, name, cache)


def _of_data(name: str, args: dict[str, Any]) -> list[NeededFile]:
    found: list[NeededFile] = construct("data", name, **args).needed_files()
    return found


def _of_benchmark(config: RunConfig, name: str, cache: Path) -> list[NeededFile]:
    return run_benchmark(config, name).needed_files(cache, config.evaluate.split)


def _with_command(file: NeededFile, config: RunConfig) -> NeededFile:
    """A tokenizer comes from what the backbone's weights come with."""
    if file.what != "tokenizer" or file.origin:
        return file
    return replace(file, origin=making_tokenizer(config, file.path))


def making_tokenizer(config: RunConfig, path: Path) -> str:
    """The command that makes the backbone's tokenizer file; empty where its source is not known."""
    cls = registry("backbone").get(config.backbone.name)
    source = cls.tokenizer_source(config.backbone.args)
    return f"ablate data tokenizer {source} --out {path}" if source else ""
