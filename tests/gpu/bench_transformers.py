"""Times decoding and the reading of a prompt of Table 3's transformers, ours and the library's.

Weights are random, batch 1 after 759 positions. Run by transformer_decode.sh:
python3 tests/gpu/bench_transformers.py [--models phi-2 vicuna-7b] [--profile | --tiles | --reads]
The reading of a prompt also of its Mambas.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity

from ablate.components.backbones import BACKBONES, Likeliest
from ablate.components.backbones import captured as graphs
from ablate.components.backbones import transformer_fused as fused
from ablate.components.backbones.transformer_decode import CapturedTransformerStep, FixedState
from ablate.efficiency.floor import (
    Machine,
    count_work,
    decode_floor,
    measure_machine,
    prefill_floor,
)

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "phi-2": ("phi-2", {}),
    "mobilellama-1.4b": (
        "transformer",
        {
            "config": {
                "hidden_size": 2048,
                "intermediate_size": 5632,
                "num_hidden_layers": 24,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
            }
        },
    ),
    "mobilellama-2.7b": ("mobilellama-2.7b", {}),
    "vicuna-7b": ("vicuna-7b", {}),
    "tinyllama": ("tinyllama", {}),
    "mamba2-2.7b": ("mamba2-2.7b", {}),
    "mamba-2.8b": ("mamba-2.8b", {}),
}
PROMPT, NEW, VOCABULARY = 759, 256, 32000
# Rows, columns and warps of one program's tile.
TILES = [
    (1, 1024, 4), (2, 1024, 2), (4, 512, 2), (4, 1024, 4), (8, 512, 2), (8, 512, 4), (4, 2048, 4),
    (8, 1024, 4), (16, 512, 4), (2, 2048, 4), (16, 1024, 4), (8, 1024, 8), (16, 256, 4),
]  # fmt: skip


def build(name: str, layers: int | None = None) -> Any:
    """A backbone on the device in bfloat16; ``layers``: the first of them alone."""
    kind, args = MODELS[name]
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model: Any = BACKBONES.get(kind)(VOCABULARY, **args).eval()
    torch.set_default_dtype(torch.float32)
    if layers is not None:
        base = model.model.base_model
        base.layers = base.layers[:layers]
        base.config.num_hidden_layers = layers
    return model


def prefilled(model: Any) -> Any:
    state = model.init_state(1, PROMPT + NEW)
    ids = torch.arange(PROMPT, device="cuda")[None] % VOCABULARY
    model.prefill(model.embed(ids), state)
    return state


def captured(
    model: Any, of: Callable[[FixedState], Any], choose: Likeliest | None = None
) -> CapturedTransformerStep:
    """The step that ``of`` makes, as a graph at the end of the prompt."""
    state = prefilled(model)
    fixed = FixedState(state.cache, 1)
    return CapturedTransformerStep(of(fixed), fixed, choose).start(state)


def seconds(model: Any, decode: CapturedTransformerStep, steps: int = NEW) -> float:
    """The median time of a step."""
    found = []
    for _ in range(4):
        decode.start(prefilled(model))
        ids = torch.zeros(1, dtype=torch.long, device="cuda")
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(steps):
            ids = decode(ids)
        torch.cuda.synchronize()
        found.append((time.perf_counter() - start) / steps)
    return statistics.median(found[1:])


def difference(model: Any) -> float:
    """The largest relative difference between the logits of both steps."""
    one, other = captured(model, model._fused), captured(model, model._fixed)
    differences = []
    for token in range(8):
        ids = torch.full((1,), token, device="cuda")
        a, b = one(ids).float(), other(ids).float()
        differences.append(float((a - b).norm() / b.norm()))
    return max(differences)


def compare(name: str, machine: Machine) -> None:
    model = build(name)
    floor = decode_floor(count_work(model), machine, 1, PROMPT + NEW / 2).seconds
    print(f"{name}: limit {1 / floor:.1f} tokens/s; difference {difference(model):.2g}", flush=True)
    for what, of in (("library's", model._fixed), ("fused", model._fused)):
        took = seconds(model, captured(model, of, Likeliest(VOCABULARY)))
        print(
            f"{name}: {what} {1 / took:.1f} tokens/s, {1e6 * took:.0f} us a step, "
            f"{floor / took:.1%} of the limit",
            flush=True,
        )


def reads(name: str, machine: Machine) -> None:
    """How long a prompt takes by a graph, without one, and by the library."""
    model = build(name)
    floor = prefill_floor(count_work(model), machine, 1, PROMPT).seconds
    called = partial(patch.object, graphs, "read_first", lambda *_, **__: None)
    ways: dict[str, Callable[[], Any]] = {"called": called, "graph": nullcontext}
    if not name.startswith("mamba"):
        ways["library"] = partial(patch.object, model, "_is_known", lambda: False)
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(12):
        for way, chosen in ways.items():
            with chosen():
                torch.cuda.synchronize()
                start = time.perf_counter()
                prefilled(model)
                torch.cuda.synchronize()
                found[way].append(time.perf_counter() - start)
    for way, chosen in ways.items():
        with chosen(), torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as profiled:
            prefilled(model)
            torch.cuda.synchronize()
        kernels = [e for e in profiled.key_averages() if e.self_device_time_total]
        busy = sum(event.self_device_time_total for event in kernels)
        took = statistics.median(found[way][2:])
        print(
            f"{name}: {PROMPT} positions by {way}: {1e3 * took:.2f} ms, {took / floor:.2f} x the "
            f"floor; {sum(event.count for event in kernels)} kernels, {busy / 1e3:.2f} ms",
            flush=True,
        )


def profile(name: str) -> None:
    """The kernels of eight fused steps. Times overlap: each may start before the last has ended."""
    model = build(name)
    decode = captured(model, model._fused, Likeliest(VOCABULARY))
    ids = torch.zeros(1, dtype=torch.long, device="cuda")
    for _ in range(3):
        ids = decode(ids)
    torch.cuda.synchronize()
    steps = 8
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(steps):
            ids = decode(ids)
        torch.cuda.synchronize()
    print(f"{name}: kernel, a step, microseconds each, microseconds a step")
    rows = sorted(found.key_averages(), key=lambda e: -e.self_device_time_total)
    for event in rows[:14]:
        total, count = event.self_device_time_total / steps, event.count / steps
        if count:
            print(f"  {event.key[:60]:60} {count:6.1f} {total / count:8.2f} {total:9.1f}")
    for event in _second_layer(found):
        print(f"    {event}")


def _second_layer(found: Any) -> Iterator[str]:
    """Starts and lengths of the kernels around the middle of a step, as they came."""
    events = sorted(
        (e for e in found.events() if e.device_type == torch.autograd.DeviceType.CUDA),
        key=lambda e: e.time_range.start,
    )
    first = len(events) // 2
    for event in events[first : first + 12]:
        at = event.time_range.start - events[first].time_range.start
        yield f"{event.name[:40]:40} at {at:8.2f} us for {event.time_range.elapsed_us():7.2f}"


def tiles(name: str) -> None:
    """A step of six layers with other tiles for one product at a time."""
    model = build(name, layers=6)
    layer, usual = model.model.base_model.layers[0], fused._tile
    own, mlp, head = layer.self_attn, layer.mlp, model.model.get_output_embeddings()
    inner = [own.q_proj, own.k_proj, own.v_proj]
    phi = hasattr(mlp, "fc1")
    if phi:
        products = {"project": ([*inner, mlp.fc1], 1), "add": ([own.dense], 1)}
    else:
        products = {
            "project": (inner, 1),
            "out": ([own.o_proj], 1),
            "gated": ([mlp.gate_proj], 2),
            "down": ([mlp.down_proj], 1),
        }
    products["head"] = ([head], 1)
    choose = Likeliest(VOCABULARY)
    base = seconds(model, captured(model, model._fused, choose), 64)
    print(f"{name}, six layers: {1e6 * base:.1f} us", flush=True)
    for what, (layers, count) in products.items():
        key = sum(part.out_features for part in layers), layers[0].in_features, count
        found = []
        for rows, cols, warps in TILES:

            def chosen(
                *given: int, key: tuple[int, ...] = key, at: tuple[int, ...] = (rows, cols, warps)
            ) -> dict[str, int]:
                if given != key:
                    return usual(*given)
                return dict(zip(("BLOCK_N", "BLOCK_K", "num_warps"), at, strict=True))

            fused._tile = chosen
            took = seconds(model, captured(model, model._fused, choose), 64)
            found.append((took - base, (rows, cols, warps)))
        fused._tile = usual
        best = ", ".join(f"{at} {1e6 * more:+.1f}" for more, at in sorted(found))
        print(f"  {name} {what} {key}, now {usual(*key)}: {best}", flush=True)


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", nargs="+", default=[*MODELS][:4], choices=[*MODELS])
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument("--reads", action="store_true")
    options = parser.parse_args()
    print(torch.cuda.get_device_name(), torch.__version__)
    machine = None
    for name in options.models:
        if options.profile:
            profile(name)
        elif options.tiles:
            tiles(name)
        else:
            machine = machine or measure_machine(torch.device("cuda"), torch.bfloat16)
            (reads if options.reads else compare)(name, machine)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
