"""What all cells share and is made once, before the first of them: data and stage-0 encoders."""

from __future__ import annotations

import tempfile
from pathlib import Path

from ablate.cell import benchmark_named, data_set
from ablate.config import RunConfig
from ablate.errors import CellError
from ablate.executors import Message, Task, execute
from ablate.pretrain import folder
from ablate.progress import Display


def prepare(configs: list[RunConfig], cache: Path, display: Display) -> None:
    """Convert the data and pretrain the encoders that these runs need and the cache lacks.

    Raises:
        CellError: a stage 0 failed.
    """
    for config in {str((c.data, c.evaluate)): c for c in configs}.values():
        data_set(config).prepare(cache)
        for name in config.evaluate.benchmarks:
            benchmark_named(name).samples(cache, config.evaluate.split, 1)
    stages = {folder(c.encoder, cache): c for c in configs if c.encoder.pretrain is not None}
    missing = {path: config for path, config in stages.items() if not path.exists()}
    if not missing:
        return
    display.phase("pretrain", len(missing), 1)

    def handle(task: Task, message: Message) -> None:
        name = f"encoder {task.config.encoder.name} {task.key}"
        match message:
            case ("started",):
                display.started(name)
            case ("progress", phase, fraction):
                display.progress(name, phase, fraction)
            case ("done",):
                display.ended(name)
            case ("failed", reason, trace):
                display.ended(name, reason)
                raise CellError(f"stage 0 of {name} failed: {reason}\n{trace}")

    with tempfile.TemporaryDirectory(prefix="ablate-") as out:
        tasks = []
        for number, config in enumerate(missing.values()):
            assert config.encoder.pretrain is not None
            threads = config.encoder.pretrain.threads
            tasks.append(Task(number, "pretrain", config, cache, Path(out), threads))
        execute(tasks, 1, handle)
