"""What happens in a process of a bench: the machine's rates are measured, or one model is timed."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.efficiency.bench_plan import BenchKeys
from ablate.efficiency.floor import (
    Machine,
    Work,
    count_work,
    decode_floor,
    measure_machine,
    prefill_floor,
)
from ablate.efficiency.peak_memory import MemoryMeter
from ablate.efficiency.peers import PEERS, NoPeerError
from ablate.efficiency.timing import ModelTimer
from ablate.errors import CellError
from ablate.models.devices import device_here, synchronise
from ablate.models.vlm import VisionLanguageModel, assemble, parameter_counts
from ablate.processes.messages import Reporter

FOLDER, FILE = "bench", "bench.json"
"""Where a process leaves its results, in its task's folder."""


@dataclass(frozen=True)
class ModelJob:
    """What the process that times a model is given."""

    name: str
    run: RunConfig
    keys: BenchKeys
    machine: Machine


def bench_machine(keys: BenchKeys, out: Path, reporter: Reporter) -> None:
    """Measure the machine's rates; they are left as JSON in ``out``."""
    _leave(asdict(measure_machine(device_here(), dtype_of(keys))), out)


def bench_model(job: ModelJob, out: Path, reporter: Reporter) -> None:
    """Time one model at every batch size and prompt length; one JSON document in ``out``.

    Raises:
        CellError: no point of the bench fits in the GPU's memory.
    """
    keys, device = job.keys, device_here()
    meter = MemoryMeter(device)
    started = time.perf_counter()
    model = build(job.run, keys, device)
    synchronise(device)
    result: dict[str, Any] = {
        "model": job.name,
        "components": {role: getattr(job.run, role).name for role in COMPONENT_ROLES},
        "protocol": protocol(keys, device),
        "parameters": parameter_counts(model),
        "image_tokens": model.connector.num_output_tokens,
        "build_s": time.perf_counter() - started,
    }
    timer = ModelTimer(model, job.run, keys, meter)
    grid = [(batch, prompt) for batch in keys.batch_sizes for prompt in keys.prompt_tokens]
    peer_grid = [(batch, prompt) for batch, prompt in keys.peer_points] or grid
    steps = len(grid) + len(keys.peers) * len(peer_grid)
    points: list[dict[str, Any]] = []
    for batch, prompt in grid:
        reporter.progress("ours", len(points) / steps)
        points.append(_or_too_large(timer.point, batch, prompt))
    if all("error" in point for point in points):
        raise CellError("its smallest batch and shortest prompt do not fit in the GPU's memory")
    # After the points, whose first calls it would spare their tuning.
    work = count_work(model.backbone)
    points = [p if "error" in p else p | floors(p, work, job.machine, keys) for p in points]
    found: list[dict[str, Any]] = []
    for done, peer in enumerate(keys.peers):
        reporter.progress(peer, (len(grid) + done * len(peer_grid)) / steps)
        found += _peer(peer, timer, peer_grid)
    result |= {"work": asdict(work), "machine": asdict(job.machine), "points": points}
    reporter.metrics({"build_s": result["build_s"]})
    for point in points:
        if "error" not in point:
            reporter.metrics(metrics(point), point["context"])
    _leave(result | {"peers": found}, out)
    reporter.keep(out / FOLDER)


def dtype_of(keys: BenchKeys) -> torch.dtype:
    """The bench's dtype as torch's."""
    return getattr(torch, keys.dtype)


def build(run: RunConfig, keys: BenchKeys, device: torch.device) -> VisionLanguageModel:
    """A model with random weights, made on the device and in the dtype that it runs in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype_of(keys))
    try:
        with device:
            model = assemble(run, keys.vocabulary)
    finally:
        torch.set_default_dtype(before)
    return model.eval()


def protocol(keys: BenchKeys, device: torch.device) -> dict[str, Any]:
    """What must be equal for two results to be compared."""
    gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if gpu else processor(),
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "dtype": keys.dtype,
        "new_tokens": keys.new_tokens,
    }


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def floors(point: dict[str, Any], work: Work, machine: Machine, keys: BenchKeys) -> dict[str, Any]:
    """The machine's limits at a point, and the fractions of them that were reached."""
    batch, context = point["batch"], point["context"]
    # Over all new tokens, the mean length is half of them past the prompt.
    decode = decode_floor(work, machine, batch, context + keys.new_tokens / 2)
    prefill = prefill_floor(work, machine, batch, context)
    rate = batch / decode.seconds
    return {
        "decode_limit_tokens_s": rate,
        "decode_bound": decode.bound,
        "decode_fraction": point["decode_tokens_s"]["median"] / rate,
        "prefill_limit_ms": 1e3 * prefill.seconds,
        "prefill_bound": prefill.bound,
        "prefill_fraction": 1e3 * prefill.seconds / point["prefill_ms"]["median"],
    }


def metrics(point: dict[str, Any]) -> dict[str, float]:
    """A point's figures as MLflow shows them, over the prompt's length: ``total_s/batch_1``."""
    medians = {k: v["median"] if isinstance(v, dict) else v for k, v in point.items()}
    unwanted = ("batch", "prompt_tokens", "context")
    return {
        f"{name}/batch_{point['batch']}": float(value)
        for name, value in medians.items()
        if name not in unwanted and not isinstance(value, str)
    }


def _or_too_large(measure: Callable[..., dict[str, Any]], *at: Any) -> dict[str, Any]:
    """What ``measure`` gives, or that the GPU's memory did not hold it: the next may need less."""
    try:
        return measure(*at)
    except torch.OutOfMemoryError:
        batch, prompt = at[-2:]
        return {"batch": batch, "prompt_tokens": prompt, "error": "out of memory"}


def _peer(name: str, timer: ModelTimer, grid: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    """A peer's results, or why there are none: it is others' code and must not cost us ours."""
    try:
        peer = PEERS[name](timer.model.backbone)
        for batch, prompt in grid:
            yield {"peer": name, **_or_too_large(timer.turns, peer, batch, prompt)}
    except NoPeerError as error:
        yield {"peer": name, "error": str(error)}
    except Exception as error:
        yield {"peer": name, "error": f"failed: {type(error).__name__}: {error}"}


def _leave(result: dict[str, Any], out: Path) -> None:
    folder = out / FOLDER
    folder.mkdir()
    (folder / FILE).write_text(json.dumps(result, indent=1))
