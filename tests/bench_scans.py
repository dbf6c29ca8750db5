"""Side by side: this project's Mamba layers and decoding, and those of other libraries, on a CPU.

    python tests/bench_scans.py [layers] [decode] [--threads 2] [--repeats 5] [--cpu-time]

Prints milliseconds (medians, the contestants taking turns so that a busy machine slows both) and
the ratio ours / theirs. On a machine that others keep busy, take ``--threads 1 --cpu-time``.
Mamba-1's rival is mambapy's parallel scan (``pip install mambapy``) if it can be imported;
Mamba-2's is transformers' chunked scan; decoding's are transformers' ``generate``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES, Backbone
from ablate.components.mixers import Mamba1, Mamba2

D_MODEL = 256
HEADS = 8
LENGTHS = (64, 256, 1024, 2048)


Clock = Callable[[], float]


def side_by_side(
    contestants: dict[str, Callable[[], Any]], repeats: int, clock: Clock
) -> dict[str, float]:
    """Median milliseconds of each contestant, taking turns, after one turn of warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            start = clock()
            run()
            if turn:
                times[name].append(1000 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def report(title: str, medians: dict[str, float]) -> None:
    first, *others = medians
    line = f"{title:34s} {first} {medians[first]:8.1f} ms"
    for other in others:
        ratio = medians[first] / medians[other]
        line += f" | {other} {medians[other]:8.1f} ms, ratio {ratio:.2f}"
    print(line, flush=True)  # noqa: T201


def train(layer: Callable[[Tensor], Tensor], hidden: Tensor) -> Callable[[], None]:
    return lambda: layer(hidden.requires_grad_()).sum().backward()


def infer(layer: Callable[[Tensor], Tensor], hidden: Tensor) -> Callable[[], Tensor]:
    return torch.no_grad()(lambda: layer(hidden))


def mamba1_rivals() -> dict[str, nn.Module]:
    try:
        from mambapy.mamba import MambaBlock, MambaConfig
    except ImportError:
        return {}
    return {"mambapy": MambaBlock(MambaConfig(d_model=D_MODEL, n_layers=1))}


def mamba2_rivals(groups: int) -> dict[str, nn.Module]:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    config = Mamba2Config(
        hidden_size=D_MODEL,
        num_heads=HEADS,
        head_dim=2 * D_MODEL // HEADS,
        state_size=128,
        n_groups=groups,
        chunk_size=64,
    )
    return {"transformers": Mamba2Mixer(config, layer_idx=0)}


def bench_layers(repeats: int, clock: Clock) -> None:
    layers: list[tuple[str, nn.Module, dict[str, nn.Module]]] = [
        ("mamba-1", Mamba1(D_MODEL), mamba1_rivals()),
        ("mamba-2", Mamba2(D_MODEL), mamba2_rivals(1)),
        ("mamba-2, 8 groups", Mamba2(D_MODEL, ngroups=8), mamba2_rivals(8)),
    ]
    for title, ours, rivals in layers:
        for length in LENGTHS:
            hidden = torch.randn(4, length, D_MODEL)
            contestants = {"ours": ours, **rivals}
            for what, make in (("forward", infer), ("forward+backward", train)):
                runs = {name: make(layer, hidden) for name, layer in contestants.items()}
                report(f"{title} L={length} {what}", side_by_side(runs, repeats, clock))


def generate(backbone: Backbone, ids: Tensor, new: int) -> Callable[[], Tensor]:
    @torch.no_grad()
    def run() -> Tensor:
        state = backbone.init_state(ids.shape[0], ids.shape[1] + new)
        tokens = [backbone.prefill(backbone.embed(ids), state).argmax(-1)]
        while len(tokens) < new:
            tokens.append(backbone.step(backbone.embed(tokens[-1]), state).argmax(-1))
        return torch.stack(tokens, dim=1)

    return run


def rival_generate(model: Any, ids: Tensor, new: int) -> Callable[[], Tensor]:
    settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    mask = torch.ones_like(ids)
    return torch.no_grad()(lambda: model.generate(ids, attention_mask=mask, **settings))


def bench_decode(repeats: int, clock: Clock) -> None:
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        Mamba2Config,
        Mamba2ForCausalLM,
        MambaConfig,
        MambaForCausalLM,
    )

    shared = {"vocab_size": 1024, "hidden_size": D_MODEL, "num_hidden_layers": 4}
    llama = {"intermediate_size": 688, "num_attention_heads": 4, **shared}
    mamba2 = Mamba2Config(num_heads=HEADS, head_dim=64, state_size=128, n_groups=1, **shared)
    size = {"d_model": D_MODEL, "n_layer": 4}
    settings = {k: v for k, v in llama.items() if k != "vocab_size"}
    pairs = [
        ("mamba-1", "mamba1", size, MambaForCausalLM(MambaConfig(**shared))),
        (
            "mamba-2",
            "mamba2",
            {"d_state": 128, "headdim": 64, **size},
            Mamba2ForCausalLM(mamba2),
        ),
        ("llama", "transformer", {"config": settings}, LlamaForCausalLM(LlamaConfig(**llama))),
    ]
    for title, name, arguments, rival in pairs:
        ours = BACKBONES.get(name)(1024, **arguments).eval()
        for batch in (1, 4):
            ids = torch.randint(3, 1024, (batch, 256))
            runs = {
                "ours": generate(ours, ids, 64),
                "transformers": rival_generate(rival.eval(), ids, 64),
            }
            report(f"{title} batch {batch}: 256 + 64 tokens", side_by_side(runs, repeats, clock))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="*", default=["layers", "decode"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--cpu-time", action="store_true", help="the process's time, not the wall's"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    if "layers" in options.what:
        bench_layers(options.repeats, clock)
    if "decode" in options.what:
        bench_decode(options.repeats, clock)


if __name__ == "__main__":
    main()
