"""Where a small cell's seconds go: steps plain and captured, loading, evaluation, measuring.

See small_cells.sh. Arguments: the cells' names, of sweeps/connector.yaml, and overrides of it; its
data, stage 0 and features are to be in the cache.
"""

# ruff: noqa: T201

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

BEGUN = time.perf_counter()

import pytorch_lightning as pl  # noqa: E402
import torch  # noqa: E402

from ablate.cli.common import cache_folder  # noqa: E402
from ablate.config.registries import data_set, run_benchmark  # noqa: E402
from ablate.config.schema import RunConfig  # noqa: E402
from ablate.evaluation.evaluate import evaluate  # noqa: E402
from ablate.models.devices import device_here, synchronise  # noqa: E402
from ablate.models.flops import counted  # noqa: E402
from ablate.models.vlm import apply_policies, supervised_tokens  # noqa: E402
from ablate.processes.messages import Reporter  # noqa: E402
from ablate.sweeping.plan import plan_sweep  # noqa: E402
from ablate.sweeping.work import assembled, features_of, measured  # noqa: E402
from ablate.training.captured import CapturedSteps  # noqa: E402
from ablate.training.fit import fit, training_loader  # noqa: E402
from ablate.training.optimisation import optimisation  # noqa: E402
from tests.training.step_cases import moved  # noqa: E402

CACHE, DEVICE = cache_folder(), device_here()


class Clock(Reporter):
    """When each logged step was reached, and what was said."""

    def __init__(self) -> None:
        self.marks: list[tuple[int, float]] = []
        self.last: dict[str, float] = {}

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        if step:
            self.marks.append((step, time.perf_counter()))
        self.last |= values

    def facts(self, values: dict[str, str]) -> None:
        say(f"    {values}")

    def steps_a_second(self) -> float:
        """From the third mark on: kernels are compiled and graphs are captured by then."""
        (first, begun), (last, ended) = self.marks[2], self.marks[-1]
        return (last - first) / (ended - begun)


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def timed(what: str) -> Iterator[None]:
    synchronise(DEVICE)
    begun = time.perf_counter()
    yield
    synchronise(DEVICE)
    say(f"  {what}: {time.perf_counter() - begun:.2f} s")


def model_of(config: RunConfig) -> tuple[Any, Path | None]:
    model, _ = assembled(config, CACHE, None)
    features = features_of(config, model, CACHE)
    apply_policies(model, config)
    return model, features


def train(config: RunConfig, capture: bool, steps: int) -> Any:
    run = replace(config, train=replace(config.train, capture=capture, max_steps=steps))
    with timed(f"build the model (capture {capture})"):
        model, features = model_of(run)
    pl.seed_everything(run.seed, verbose=False)
    clock = Clock()
    with timed(f"fit, {steps} steps"):
        fit(run, model, data_set(run), CACHE, clock, features)
    rates = {k: round(v, 3) for k, v in clock.last.items() if k.startswith(("speed", "train/loss"))}
    say(f"  {clock.steps_a_second():.1f} steps/s; {rates}")
    return model, features


def batch_of(config: RunConfig, model: Any, features: Path | None) -> tuple[list[Any], float]:
    """Three batches as the module gets them, and seconds of making one."""
    reading = (model.encoder.transform, features, model.connector.num_output_tokens)
    loader, _ = training_loader(config, data_set(config), CACHE, *reading)
    batches = iter(loader)
    next(batches)
    begun = time.perf_counter()
    made = [next(batches) for _ in range(20)]
    seconds = (time.perf_counter() - begun) / len(made)
    found = []
    for batch in made[:3]:
        if "supervised" not in batch:
            supervised = supervised_tokens(batch["labels"], batch["has_image"])
            batch = {**counted(batch), "supervised": supervised}
        found.append(moved(batch, DEVICE))
    return found, seconds


def profile(config: RunConfig) -> None:
    """The captured step alone: its time, its kernels."""
    model, features = model_of(config)
    model.to(DEVICE).train()
    model.encoder.eval()
    batches, seconds = batch_of(config, model, features)
    say(f"  a batch takes its loader {1e3 * seconds:.1f} ms; ids {batches[0]['input_ids'].shape}")
    optimizer = optimisation(model, config.train, 1000, config.train.betas)["optimizer"]
    steps = CapturedSteps(model, config.train, optimizer)
    batch = batches[0]
    for name in ("called", "called", "captured"):
        with timed(f"first steps: {name}"):
            steps(batch)
    synchronise(DEVICE)
    begun = time.perf_counter()
    for _ in range(200):
        steps(batch)
    queued = time.perf_counter() - begun
    synchronise(DEVICE)
    each = (time.perf_counter() - begun) / 200
    say(f"  a captured step: {1e3 * each:.3f} ms, of which the host {1e3 * queued / 200:.3f} ms")
    activities = [torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as found:
        for _ in range(10):
            steps(batch)
        synchronise(DEVICE)
    events = [e for e in found.key_averages() if e.self_device_time_total]
    events.sort(key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in events) / 10e3
    count = sum(e.count for e in events) / 10
    say(f"  kernels of a step: {count:.0f}, {total:.3f} ms; the longest:")
    for event in events[:25]:
        milliseconds = event.self_device_time_total / 10e3
        say(f"    {milliseconds:7.4f} ms {event.count / 10:6.1f} x  {event.key[:100]}")


def main(names: list[str]) -> None:
    say(f"imports: {time.perf_counter() - BEGUN:.1f} s")
    begun = time.perf_counter()
    torch.zeros(1, device=DEVICE)
    say(f"first use of the device: {time.perf_counter() - begun:.1f} s")
    overrides = [name for name in names if "=" in name]
    plan = plan_sweep(Path("sweeps/connector.yaml"), ["seeds=[0]", *overrides])
    for cell in plan.cells:
        if not any(cell.name.startswith(name) for name in names):
            continue
        config = cell.config
        say(f"{cell.name}:")
        try:
            profile(config)
        except Exception as error:  # the other figures are wanted all the same
            say(f"  no profile: {type(error).__name__}: {error}")
        model, features = train(config, True, config.train.max_steps)
        train(config, False, 160)
        for benchmark in config.evaluate.benchmarks:
            asked = run_benchmark(config, benchmark)
            given = (data_set(config), CACHE, asked, Clock(), features)
            with timed(f"evaluate {benchmark}"):
                records = evaluate(config, model, *given)
            score = sum(record["score"] for record in records) / len(records)
            say(f"  {len(records)} items, score {score:.3f}")
        with timed("measure"):
            figures = measured(config, CACHE)
        say(f"  { ({k: round(v, 2) for k, v in figures.items()}) }")
        with timed("measure again"):
            measured(config, CACHE)


if __name__ == "__main__":
    main(sys.argv[1:])
