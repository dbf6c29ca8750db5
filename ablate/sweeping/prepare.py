"""What all cells share and is made once, before the first of them: data, encoders, features."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from filelock import FileLock

from ablate.config.registries import data_set, run_benchmark
from ablate.config.schema import RunConfig
from ablate.cores import cores_here
from ablate.data.base import DataSet
from ablate.data.benchmarks.base import Benchmark
from ablate.data.text import encode_choices, encode_prompt
from ablate.errors import CellError, DataError
from ablate.processes.executors import MOST_LOSSES, Executor, Task, execute
from ablate.processes.messages import Done, Failed, Message, Metrics, Progress, Started
from ablate.sweeping.work import pretrain_encoder, store_features
from ablate.tracking.progress import Display
from ablate.training.feature_cache import requests
from ablate.training.stage0 import folder, stages


def prepare(
    configs: list[RunConfig], cache: Path, display: Display, executor: Executor | None = None
) -> None:
    """Convert data, pretrain encoders, store features: what these runs need and the cache lacks.

    Args:
        configs: of the runs.
        cache: the cache folder.
        display: shows progress.
        executor: where encoders are pretrained and features computed.

    Raises:
        DataError: see ``prepare_benchmarks``.
        CellError: a stage 0 failed.
    """
    for name in dict.fromkeys(config.data.name for config in configs):
        display.say(f"preparing data: {name}")
    prepare_benchmarks(configs, cache)
    _pretrain(configs, cache, display, executor)
    _store_features(configs, cache, display, executor)


def prepare_benchmarks(configs: list[RunConfig], cache: Path) -> None:
    """See that these runs' data, and the benchmarks that they answer, are there.

    Raises:
        DataError: of no benchmark of a run the files are there and whole, and its items can be put
            to a model by the data's template and tokenizer. One of several fails when it is asked.
    """
    for config in {str((c.data, c.evaluate)): c for c in configs}.values():
        dataset = data_set(config)
        dataset.prepare(cache)
        errors = {}
        for name in config.evaluate.benchmarks:
            try:
                _ask(run_benchmark(config, name), dataset, config, cache)
            except (ValueError, OSError) as error:
                errors[name] = error
        if errors and len(errors) == len(config.evaluate.benchmarks):
            name, refusal = next(iter(errors.items()))
            raise DataError("evaluate.benchmarks", name, str(refusal)) from refusal


def _ask(benchmark: Benchmark, dataset: DataSet, config: RunConfig, cache: Path) -> None:
    """Encode a benchmark's first item, as for the models later.

    Raises:
        ValueError, OSError: it is not there, or the template or the tokenizer will not do.
    """
    sample = benchmark.chosen(cache, config.evaluate.split, 1)[0]
    written = (dataset.template, dataset.tokenizer(cache))
    image = sample.image is not None
    if benchmark.choices:
        encode_choices(sample.turns, benchmark.choices, *written, image=image)
    else:
        encode_prompt(sample.turns, *written, image=image)


def _pretrain(
    configs: list[RunConfig], cache: Path, display: Display, executor: Executor | None
) -> None:
    wanted = {
        folder(stage, cache): replace(config, encoder=stage)
        for config in configs
        for stage in stages(config.encoder)
    }
    if all(path.exists() for path in wanted):
        return
    place = min(wanted).parent
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place / ".lock"):  # what another process is making is waited for
        missing = [config for path, config in wanted.items() if not path.exists()]
        threads = [c.encoder.pretrain.threads for c in missing if c.encoder.pretrain is not None]
        _execute("pretrain", missing, threads, cache, display, executor)


def _store_features(
    configs: list[RunConfig], cache: Path, display: Display, executor: Executor | None
) -> None:
    wanted = [r.config for r in requests(configs, cache, data_set) if r.is_worthwhile]
    threads = [cores_here()] * len(wanted)
    _execute("features", wanted, threads, cache, display, executor)


def _execute(
    kind: Literal["pretrain", "features"],
    configs: list[RunConfig],
    threads: list[int],
    cache: Path,
    display: Display,
    executor: Executor | None,
) -> None:
    """One task per config, one at a time; one that loses its machine is begun again."""
    if not configs:
        return
    display.phase(kind, len(configs), 1)
    losses: Counter[int] = Counter()

    def handle(task: Task, message: Message) -> bool:
        number, config = task.key
        name = f"encoder {config.encoder.name} {number}"
        match message:
            case Started():
                display.started(name)
            case Progress(phase, fraction):
                display.progress(name, phase, fraction)
            case Metrics({"images": images, "GiB": size}):
                display.say(f"  {name}: {images:,.0f} images, {size:.3g} GiB")
            case Done():
                display.ended(name)
            case Failed(reason, lost=True) if losses[number] < MOST_LOSSES - 1:
                losses[number] += 1
                tasks.append(task)
                display.set_back(name, f"{reason}; it is begun again")
            case Failed(reason, trace) if kind == "pretrain":
                display.ended(name, reason)
                trace = "" if message.disk else f"\n{trace}"
                raise CellError(f"stage 0 of {name} failed: {reason}{trace}")
            case Failed(reason):  # costs time alone
                display.ended(name, f"{reason}; its cells encode their images themselves")
        return True

    work = {"pretrain": pretrain_encoder, "features": store_features}[kind]
    tasks = [
        Task((number, config), work, (config, cache), count)
        for number, (config, count) in enumerate(zip(configs, threads, strict=True))
    ]
    execute(tasks, 1, handle, executor=executor)  # one at a time, so that one may be added
