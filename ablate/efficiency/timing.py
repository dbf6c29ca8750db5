"""Timing one model: its parts, whole answers, and peers in turns with it.

Every clock reading waits for the device. Weights are random: speed does not depend on them.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ablate.config.schema import RunConfig
from ablate.efficiency.bench_plan import BenchKeys
from ablate.efficiency.peak_memory import MemoryMeter
from ablate.efficiency.peers import Peer
from ablate.efficiency.throughput import seconds_of, synthetic
from ablate.models.devices import synchronise
from ablate.models.generation import generate
from ablate.models.vlm import VisionLanguageModel


def spread(values: list[float]) -> dict[str, Any]:
    """Median, least and greatest of repeated measurements, and all of them in their order."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


class ModelTimer:
    """Times one model at any batch size and prompt length.

    Args:
        model: in evaluation mode.
        run: its configuration.
        keys: what is measured and how often.
        meter: of memory, made before the model.
    """

    def __init__(
        self, model: VisionLanguageModel, run: RunConfig, keys: BenchKeys, meter: MemoryMeter
    ) -> None:
        self.model = model
        self.run = run
        self.keys = keys
        self.meter = meter
        weight = next(model.backbone.parameters())
        self.device, self.dtype = weight.device, weight.dtype

    def context(self, prompt: int) -> int:
        """Positions of a prompt: the image's and ``prompt`` text tokens."""
        return self.model.connector.num_output_tokens + prompt

    @torch.inference_mode()
    def point(self, batch: int, prompt: int) -> dict[str, Any]:
        """All measures at one batch size and number of text tokens.

        Times of parts are of the part alone; ``total_s`` is of whole answers, from pixels on the
        device to the last token, which the decoding figures are of too.

        Returns:
            Each measure as a ``spread``; ``first_call_s``: what the first answer at this shape took
            longer than the others (tuning, capturing, compiling); ``peak_mib``.
        """
        self._forget(batch)
        self.meter.reset()
        pixels, ids = self._inputs(batch, prompt)
        count = self.keys.warmup + self.keys.repeats
        answers = [self._answer(pixels, ids) for _ in range(count)]
        timed = answers[self.keys.warmup :]
        totals = [a["total_s"] for a in timed]
        context, model = self.context(prompt), self.model
        features = model.encoder(pixels)
        embeds, _ = model.sequence(pixels, ids)
        prefills = self._milliseconds(lambda: self._prefill(embeds))
        rates = [a["decode_tokens_s"] for a in timed]
        return {
            "batch": batch,
            "prompt_tokens": prompt,
            "context": context,
            "encode_ms": spread(self._milliseconds(lambda: model.encoder(pixels))),
            "connect_ms": spread(self._milliseconds(lambda: model.connector(features))),
            "prefill_ms": spread(prefills),
            "prefill_tokens_s": spread([1e3 * batch * context / ms for ms in prefills]),
            "prepare_ms": spread([a["prepare_ms"] for a in timed]),
            "decode_tokens_s": spread(rates),
            "decode_tokens_s_row": spread([rate / batch for rate in rates]),
            "total_s": spread(totals),
            "eval_avg": spread([self.keys.new_tokens / total for total in totals]),
            "first_call_s": answers[0]["total_s"] - statistics.median(totals),
            "peak_mib": self.meter.peak_mib(),
        }

    @torch.inference_mode()
    def turns(self, peer: Peer, batch: int, prompt: int) -> dict[str, Any]:
        """Our backbone and a peer in turns, on prompts of as many text tokens as a prompt has.

        Returns:
            For ``ours`` and ``theirs``: seconds to read the prompt and generate all tokens, and one
            token alone; ``agreement``: the share of equal tokens.
        """
        vocabulary = self.model.backbone.vocab_size
        ids = torch.arange(batch * self.context(prompt), device=self.device) % vocabulary
        ids = ids.view(batch, -1)

        def ours(count: int) -> Tensor:
            embeds = self.model.backbone.embed(ids)
            return generate(self.model.backbone, embeds, max_new_tokens=count).tokens

        def theirs(count: int) -> Tensor:
            return peer.generate(ids, count)

        new = self.keys.new_tokens
        agreement = float((ours(new) == theirs(new)).float().mean())
        seconds: dict[str, list[float]] = {}
        for _ in range(self.keys.peer_repeats):
            for count in (new, 1):
                for who, work in (("ours", ours), ("theirs", theirs)):
                    taken = seconds_of(partial(work, count), self.device)
                    seconds.setdefault(f"{who}/{count}", []).append(taken)
        found = {
            who: {
                "generate_s": spread(seconds[f"{who}/{new}"]),
                "first_token_s": spread(seconds[f"{who}/1"]),
            }
            for who in ("ours", "theirs")
        }
        return {"batch": batch, "prompt_tokens": prompt, "agreement": agreement, **found}

    def _forget(self, batch: int) -> None:
        """Let a backbone on a GPU replace the captured step of the last point by a small one.

        Its buffers would count as this point's memory, and if it fitted this point too, the first
        call would not show what capturing costs.
        """
        if self.device.type == "cuda":
            ids = torch.zeros(2 if batch == 1 else 1, 1, dtype=torch.long, device=self.device)
            generate(self.model.backbone, self.model.backbone.embed(ids), max_new_tokens=2)

    def _inputs(self, batch: int, prompt: int) -> tuple[Any, Tensor]:
        """Images in the model's dtype and text of so many tokens."""
        measure = dataclasses.replace(self.run.measure, prompt_tokens=prompt)
        run = dataclasses.replace(self.run, measure=measure)
        made = synthetic(run, self.model, batch, self.device)
        pixels = made["pixels"]
        if isinstance(pixels, dict):
            return {k: v.to(self.dtype) for k, v in pixels.items()}, made["input_ids"]
        return pixels.to(self.dtype), made["input_ids"]

    def _answer(self, pixels: Any, ids: Tensor) -> dict[str, float]:
        """One answer: seconds in all, to make the decoder ready, and tokens/s after that."""
        marks: list[float] = []

        def mark(ids: Tensor) -> None:
            # Two looks alone: each makes the device wait for the host.
            if len(marks) < 2:
                synchronise(self.device)
                marks.append(time.perf_counter())

        synchronise(self.device)
        start = time.perf_counter()
        embeds, _ = self.model.sequence(pixels, ids)
        new = self.keys.new_tokens
        generate(self.model.backbone, embeds, max_new_tokens=new, on_tokens=mark)
        synchronise(self.device)
        end = time.perf_counter()
        return {
            "total_s": end - start,
            "prepare_ms": 1e3 * (marks[1] - marks[0]),
            "decode_tokens_s": len(ids) * (new - 2) / (end - marks[1]),
        }

    def _prefill(self, embeds: Tensor) -> None:
        backbone = self.model.backbone
        state = backbone.init_state(len(embeds), embeds.shape[1] + self.keys.new_tokens)
        backbone.prefill(embeds, state)

    def _milliseconds(self, work: Callable[[], Any]) -> list[float]:
        """Of the timed calls, after those to warm up."""
        count = self.keys.warmup + self.keys.repeats
        return [1e3 * seconds_of(work, self.device) for _ in range(count)][self.keys.warmup :]
