"""Times an optimiser step of ML-Mamba 2.7B and of mamba-ssm's own model, in turns, on a GPU.

Every step is whole: all parts forward and backward, clipping, and AdamW with float32 weights and
moments; products are bfloat16. Weights are random, images noise, tokens random, and all samples of
one length, so that no position is padding. See bench_training.sh.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import gc
import statistics
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablate.components.backbones import BACKBONES
from ablate.components.master_weights.weight_gradient import summing_in_place
from ablate.config.schema import ComponentConfig, EncoderConfig, Policy, RunConfig, TrainConfig
from ablate.data.features import FEATURES
from ablate.models.flops import Positions, training_flops
from ablate.models.vlm import build_model, supervised_tokens
from ablate.training.optimisation import activation_budget, parameter_groups
from tests.gpu.kernel_kinds import kernel_times, print_kinds

PEAK = 989e12
"""Dense bfloat16 operations per second of an H100 SXM, by its datasheet."""
IMAGE, TEXT, SUPERVISED = 729, 103, 51
"""Positions of a sample: its image, its text, and those of the text that are supervised."""
VOCABULARY = 50277
LR, WEIGHT_DECAY, CLIP = 2e-5, 0.1, 1.0


class Trained(ABC):
    """A model and its optimiser.

    Args:
        samples: of an optimiser step.
        parts: in which the step does them.
    """

    name: str
    in_place = True
    image = IMAGE

    def __init__(self, samples: int, parts: int) -> None:
        self.samples, self.parts = samples, parts
        self.model = self.build().cuda()
        groups = parameter_groups(self.model, WEIGHT_DECAY)
        self.trained = [p for group in groups for p in group["params"]]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, fused=True)
        self.batch = self.inputs(samples // parts)

    @abstractmethod
    def build(self) -> nn.Module:
        """The model, on the device."""

    @abstractmethod
    def inputs(self, samples: int) -> Any:
        """What ``loss`` takes of one part."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The mean over supervised tokens."""

    @property
    def tokens(self) -> int:
        """Positions of a step."""
        return self.samples * (self.image + TEXT)

    def whole_flops(self) -> float | None:
        """Operations of a step by ``training_flops``; None for a language model alone."""
        return None

    def part(self) -> None:
        """One part of a step, forward and backward."""
        with torch.autocast("cuda", torch.bfloat16):
            loss = self.loss(self.batch) / self.parts
        with summing_in_place(self.in_place):
            loss.backward()

    def step(self) -> None:
        """A whole optimiser step."""
        for _ in range(self.parts):
            self.part()
        nn.utils.clip_grad_norm_(self.trained, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


class MLMamba(Trained):
    """The whole model: frozen encoder, connector and language model trained."""

    name = "ml-mamba, images encoded in the step"
    encoder = "dinosiglip-384"
    connector = ComponentConfig(name="msc-advanced", args={"scan": "bsm"})
    backbone = "mamba2-2.7b"
    stored = False

    def whole_flops(self) -> float:
        model: Any = self.model
        return training_flops(model, Positions(self.samples, self.tokens), self.stored)

    def build(self) -> nn.Module:
        config = RunConfig(
            encoder=EncoderConfig(
                name=self.encoder, args={"weights": "none"}, policy=Policy.freeze
            ),
            connector=self.connector,
            backbone=ComponentConfig(name=self.backbone),
            train=TrainConfig(activation_checkpointing=True, precision="bf16"),
        )
        model = build_model(config, VOCABULARY)
        model.encoder.eval()
        model.backbone.activation_budget = activation_budget(model)
        return model

    def inputs(self, samples: int) -> Any:
        encoder: Any = self.model.encoder
        parts = getattr(encoder, "parts", [encoder])
        found = [torch.randn(samples, 3, *[part.image_size] * 2, device="cuda") for part in parts]
        pixels = dict(zip(encoder.keys, found, strict=True)) if len(found) > 1 else found[0]
        ids = torch.randint(VOCABULARY, (samples, TEXT), device="cuda")
        labels = torch.full_like(ids, -100)
        labels[:, -SUPERVISED:] = ids[:, -SUPERVISED:]
        everyone = torch.ones(samples, dtype=torch.bool)
        return pixels, ids, labels, None, supervised_tokens(labels.cpu(), everyone).cuda()

    def loss(self, batch: Any) -> Tensor:
        return self.model.loss(*batch)[0]


class MLMambaFromFeatures(MLMamba):
    """The same, with the encoder's features of the images computed before, as a cache has them."""

    name = "ml-mamba, images encoded before"
    stored = True

    def inputs(self, samples: int) -> Any:
        pixels, *text = super().inputs(samples)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16):
            features = self.model.encoder(pixels)
        return {FEATURES: features}, *text


class Cobra(MLMamba):
    """Cobra: Mamba-1 2.8B."""

    name, connector, backbone = "cobra", ComponentConfig(name="mlp"), "mamba-2.8b"


class TinyLLaVA(MLMamba):
    """TinyLLaVA: CLIP and Phi-2."""

    name, encoder, backbone, image = "tinyllava", "clip-vit-l-336", "phi-2", 576
    connector = ComponentConfig(name="mlp", args={"depth": 2})


class MobileVLM(MLMamba):
    """MobileVLM v2: CLIP, 144 image tokens and MobileLLaMA 2.7B."""

    name, encoder, backbone, image = "mobilevlm-v2", "clip-vit-l-336", "mobilellama-2.7b", 144
    connector = ComponentConfig(name="ldpv2")


class Language(Trained):
    """A language model alone, on as many tokens; ``row_samples`` samples are one row."""

    row_samples = 1

    def inputs(self, samples: int) -> Any:
        rows, length = samples // self.row_samples, IMAGE + TEXT
        ids = torch.randint(VOCABULARY, (rows, self.row_samples * length), device="cuda")
        of_sample = torch.arange(ids.shape[1], device="cuda")
        documents = (of_sample // length + 1).expand(ids.shape)
        places = (of_sample % length >= length - SUPERVISED).nonzero().squeeze(1)
        return ids, documents if self.row_samples > 1 else None, places

    def loss(self, batch: Any) -> Tensor:
        ids, documents, places = batch
        logits = self.logits(ids, documents, places)
        return F.cross_entropy(logits.flatten(0, 1).float(), ids[:, places].flatten())

    @abstractmethod
    def logits(self, ids: Tensor, documents: Tensor | None, places: Tensor) -> Tensor:
        """Logits at some places."""


class OurLanguage(Language):
    """Our Mamba-2 2.7B."""

    name = "our mamba2-2.7b"

    def build(self) -> nn.Module:
        with torch.device("cuda"):
            return BACKBONES.get("mamba2-2.7b")(VOCABULARY)

    def logits(self, ids: Tensor, documents: Tensor | None, places: Tensor) -> Tensor:
        model: Any = self.model
        return model.head(model.hidden_states(model.embed(ids), documents)[:, places])


class OurPackedLanguage(OurLanguage):
    """The same with two samples in a row, which see nothing of each other."""

    name = "our mamba2-2.7b, 2 samples in a row"
    row_samples = 2


class TheirLanguage(Language):
    """mamba-ssm's own, with its fused kernels; of logits, only what the loss needs."""

    name = "mamba-ssm's mamba2-2.7b"
    in_place = False

    def build(self) -> nn.Module:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

        config = MambaConfig(
            d_model=2560,
            n_layer=64,
            vocab_size=VOCABULARY,
            ssm_cfg={"layer": "Mamba2"},
            pad_vocab_size_multiple=16,
        )
        return MambaLMHeadModel(config, device="cuda")

    def logits(self, ids: Tensor, documents: Tensor | None, places: Tensor) -> Tensor:
        model: Any = self.model
        return model.lm_head(model.backbone(ids)[:, places])


class TheirCheckpointedLanguage(TheirLanguage):
    """The same, keeping each block's input alone."""

    name = "mamba-ssm's mamba2-2.7b, checkpointed"

    def build(self) -> nn.Module:
        from torch.utils.checkpoint import checkpoint

        model: Any = super().build()
        for layer in model.backbone.layers:
            forward = layer.forward
            layer.forward = lambda *x, f=forward, **k: checkpoint(f, *x, use_reentrant=False)
        return model


MODELS: dict[str, Callable[[int, int], Trained]] = {
    "ml-mamba": MLMamba,
    "features": MLMambaFromFeatures,
    "cobra": Cobra,
    "tinyllava": TinyLLaVA,
    "mobilevlm": MobileVLM,
    "ours": OurLanguage,
    "packed": OurPackedLanguage,
    "theirs": TheirLanguage,
    "theirs-checkpointed": TheirCheckpointedLanguage,
}


def report(trained: Trained, repeats: int) -> None:
    """Print the median time of a step, and what follows from it."""
    torch.cuda.reset_peak_memory_stats()
    seconds = [seconds_of(trained.step) for _ in range(repeats + 1)][1:]
    language = getattr(trained.model, "backbone", trained.model)
    if isinstance(trained, Language):
        language = trained.model
    weights = sum(p.numel() for p in language.parameters())
    step, peak = statistics.median(seconds), torch.cuda.max_memory_allocated() / 2**30
    rate = trained.tokens / step
    whole = trained.whole_flops()
    also = f" ({whole / step / PEAK:.1%} with encoder and connector)" if whole else ""
    print(
        f"{trained.name}: {trained.parts} parts of {trained.tokens // trained.parts} positions, "
        f"{step:.3f} s a step ({min(seconds):.3f} to {max(seconds):.3f}), {rate:,.0f} tokens/s, "
        f"MFU 6 x {weights / 1e9:.3f}e9 x {rate:,.0f} / 989e12 = {6 * weights * rate / PEAK:.1%}"
        f"{also}, peak {peak:.1f} GiB",
        flush=True,
    )
    retries = torch.cuda.memory_stats()["num_alloc_retries"]
    if retries:
        print(f"  memory was short {retries} times")


def seconds_of(work: Callable[[], Any]) -> float:
    """Device time of one call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def runs(names: list[str]) -> Iterator[tuple[str, int]]:
    """``name:parts`` as both."""
    for name in names:
        model, _, parts = name.partition(":")
        yield model, int(parts or 8)


def main() -> None:
    """Time the models named, as often as asked, one after the other each time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help=f"NAME:PARTS of {', '.join(MODELS)}")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--profile", action="store_true", help="kernels of a step, by kind")
    given = parser.parse_args()
    names = given.models or [
        "ml-mamba:8",
        "features:8",
        "ours:8",
        "packed:8",
        "theirs:8",
        "theirs:16",
    ]
    print(torch.cuda.get_device_name(), torch.__version__, f"{given.samples} samples per step")
    for i in range(given.rounds):
        for name, parts in runs(names):
            try:
                trained = MODELS[name](given.samples, parts)
                report(trained, given.repeats)
                if given.profile and i == 0:
                    print_kinds(kernel_times(trained.step))
            except torch.OutOfMemoryError:
                print(f"{name}: {parts} parts do not fit", flush=True)
            trained = None  # type: ignore[assignment]
            gc.collect()
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
