"""What all cells share and is made once, before the first of them: data, encoders, features."""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from pathlib import Path

from ablate.cell import benchmark_named, data_set
from ablate.config import RunConfig
from ablate.errors import CellError, DataError
from ablate.executors import Kind, Message, Task, execute
from ablate.features import requests
from ablate.pretrain import folder, stages
from ablate.progress import Display


def prepare(configs: list[RunConfig], cache: Path, display: Display) -> None:
    """Convert data, pretrain encoders, store features: what these runs need and the cache lacks.

    Raises:
        DataError: a benchmark's files are not there, or are damaged.
        CellError: a stage 0 failed.
    """
    for config in {str((c.data, c.evaluate)): c for c in configs}.values():
        data_set(config).prepare(cache)
        for name in config.evaluate.benchmarks:
            try:
                benchmark_named(name).samples(cache, config.evaluate.split, 1)
            except (ValueError, OSError) as error:
                raise DataError("evaluate.benchmarks", name, str(error)) from error
    _pretrain(configs, cache, display)
    _store_features(configs, cache, display)


def _pretrain(configs: list[RunConfig], cache: Path, display: Display) -> None:
    wanted = {
        folder(stage, cache): replace(config, encoder=stage)
        for config in configs
        for stage in stages(config.encoder)
    }
    missing = [config for path, config in wanted.items() if not path.exists()]
    threads = [c.encoder.pretrain.threads for c in missing if c.encoder.pretrain is not None]
    _execute("pretrain", missing, threads, cache, display)


def _store_features(configs: list[RunConfig], cache: Path, display: Display) -> None:
    wanted = [r.config for r in requests(configs, cache, data_set) if r.is_worthwhile]
    _execute("features", wanted, [os.cpu_count() or 1] * len(wanted), cache, display)


def _execute(
    kind: Kind, configs: list[RunConfig], threads: list[int], cache: Path, display: Display
) -> None:
    """One task a config, one at a time."""
    if not configs:
        return
    display.phase(kind, len(configs), 1)

    def handle(task: Task, message: Message) -> None:
        name = f"encoder {task.config.encoder.name} {task.key}"
        match message:
            case ("started",):
                display.started(name)
            case ("progress", phase, fraction):
                display.progress(name, phase, fraction)
            case ("metrics", {"images": images, "GiB": size}, _):
                display.console.print(f"  {name}: {images:,} images, {size:.3g} GiB")
            case ("done",):
                display.ended(name)
            case ("failed", reason, trace) if kind == "pretrain":
                display.ended(name, reason)
                raise CellError(f"stage 0 of {name} failed: {reason}\n{trace}")
            case ("failed", reason, _):  # costs time alone
                display.ended(name, f"{reason}; its cells encode their images themselves")

    with tempfile.TemporaryDirectory(prefix="ablate-") as out:
        tasks = [
            Task(number, kind, config, cache, Path(out), count)
            for number, (config, count) in enumerate(zip(configs, threads, strict=True))
        ]
        execute(tasks, 1, handle)
