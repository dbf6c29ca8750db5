"""Whole optimiser steps of a small model as CUDA graphs, so that the host never holds the GPU up.

A step of a small model is hundreds of kernels of microseconds, which a host cannot launch as fast
as they end. Forward, loss, backward, clipping and AdamW are captured once for each shape of a batch
and replayed. Batches are padded to a few shapes: on the right, where no token of a row sees it and
no label is, and by rows without a label. So the sums are of the same terms, and zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ablate.config.schema import COMPONENT_ROLES, Policy, RunConfig, TrainConfig
from ablate.data.text import IGNORE_INDEX
from ablate.errors import CellError
from ablate.models.devices import autocast, device_here
from ablate.models.vlm import VisionLanguageModel

SMALL = 30_000_000
"""Trained parameters up to which ``capture: auto`` captures: kernels of larger models take as long
as their launches, and what a graph keeps is needed for activations."""

DIRECT = 2
"""Calls before a function is captured: libraries allocate and kernels are compiled in them."""

LENGTHS = 32
"""Text is padded to multiples of it, or of about a fourth of its length where that is more."""


class Taken(NamedTuple):
    """What an optimiser step gives, overwritten by the next one of its shape."""

    loss: Tensor
    gradient_norm: Tensor
    """Of all gradients, before clipping."""


class StepGraph:
    """A function without arguments, replayed from a CUDA graph from its third call on.

    Its first calls run it as it is, as all do on other devices: every call does the same.

    Args:
        function: reads and writes tensors that stay in their places, and asks the device nothing.
        device: where they are.
    """

    def __init__(self, function: Callable[[], Taken], device: torch.device) -> None:
        self.function = function
        self.calls = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._taken: Taken | None = None

    def __call__(self) -> Taken:
        self.calls += 1
        if self._stream is None:
            return self.function()
        if self.calls <= DIRECT:
            return self._directly(self._stream)
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            # Of this thread alone: one that pins a loader's batches may go on.
            mode = "thread_local"
            with torch.cuda.graph(self.graph, stream=self._stream, capture_error_mode=mode):
                self._taken = self.function()
        assert self._taken is not None
        self.graph.replay()
        return self._taken

    def _directly(self, stream: torch.cuda.Stream) -> Taken:
        """Where it will be captured: what libraries set up is for each stream."""
        here = torch.cuda.current_stream()
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            taken = self.function()
        here.wait_stream(stream)
        return taken


class _Buffers(NamedTuple):
    """A batch in its place: images for every row, and text padded on the right."""

    pixels: Any
    input_ids: Tensor
    labels: Tensor
    places: Tensor
    """All of the text's, as though every token were supervised: what is not has no label."""


class CapturedSteps:
    """Optimiser steps on batches of ``TrainCollator``, each as one graph.

    Args:
        model: on its device, in training mode.
        config: how it is trained; every step is one batch.
        optimizer: AdamW of what is trained. Its learning rates are read anew in every step.
    """

    def __init__(
        self, model: VisionLanguageModel, config: TrainConfig, optimizer: torch.optim.Optimizer
    ) -> None:
        self.model, self.config, self.optimizer = model, config, optimizer
        self.device = next(model.parameters()).device
        self.trained = [p for group in optimizer.param_groups for p in group["params"]]
        self.rate = torch.zeros((), device=self.device)
        self.steps: dict[Any, tuple[_Buffers, StepGraph]] = {}

    def fits(self, batch: dict[str, Any]) -> bool:
        """Whether each row of a batch is one image and the text after it.

        ``batch``: with ``ablate.models.flops.counted``.
        """
        apart = batch.get("placed") is None and batch.get("documents") is None
        rows = len(batch["input_ids"])
        return apart and batch["images"] == rows and rows <= self.config.batch_size

    def __call__(self, batch: dict[str, Any]) -> Taken:
        """Take a step on a batch that fits."""
        buffers, graph = self._of(batch)
        _fill(buffers.pixels, batch["pixels"])
        _fill_text(buffers.input_ids, batch["input_ids"], 0)
        _fill_text(buffers.labels, batch["labels"], IGNORE_INDEX)
        # By value, as the schedule is the host's: a number that a kernel is launched with.
        self.rate.fill_(self.optimizer.param_groups[0]["lr"])
        return graph()

    def _of(self, batch: dict[str, Any]) -> tuple[_Buffers, StepGraph]:
        length = padded_length(batch["input_ids"].shape[1])
        key = (length, _shapes(batch["pixels"]))
        if key not in self.steps:
            buffers = self._buffers(batch["pixels"], length)
            self.steps[key] = buffers, StepGraph(lambda: self._take(buffers), self.device)
        return self.steps[key]

    def _buffers(self, pixels: Any, length: int) -> _Buffers:
        rows = self.config.batch_size
        text = torch.zeros(2, rows, length, dtype=torch.long, device=self.device)
        places = torch.arange(rows * length, device=self.device)
        return _Buffers(_empty_like(pixels, rows), text[0], text[1], places)

    def _take(self, buffers: _Buffers) -> Taken:
        self.optimizer.zero_grad()
        pixels, ids, labels, places = buffers
        with autocast(self.config, self.device):
            loss, _ = self.model.loss(pixels, ids, labels, supervised=places)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip)
        with _rate_of(self.optimizer, self.rate):
            self.optimizer.step()
        return Taken(loss.detach(), norm)


@contextmanager
def _rate_of(optimizer: torch.optim.Optimizer, rate: Tensor) -> Iterator[None]:
    """Let the optimiser read its learning rate from a tensor, and count steps on the device.

    Outside, and in checkpoints, it is as ever, so that other steps may come between.
    """
    groups = optimizer.param_groups
    before = [(group["lr"], group["capturable"]) for group in groups]
    for group in groups:
        group["lr"], group["capturable"] = rate, rate.is_cuda
    try:
        yield
    finally:
        for group, (lr, capturable) in zip(groups, before, strict=True):
            group["lr"], group["capturable"] = lr, capturable


def padded_length(length: int) -> int:
    """A text's length rounded up to one of a few.

    >>> [padded_length(n) for n in (1, 32, 33, 100, 600)]
    [32, 32, 64, 128, 640]
    """
    multiple = max(LENGTHS, 1 << length.bit_length() >> 3)
    return -(-length // multiple) * multiple


def _parts(pixels: Any) -> dict[str, Tensor]:
    return pixels if isinstance(pixels, dict) else {"": pixels}


def _shapes(pixels: Any) -> tuple[Any, ...]:
    """Of one image."""
    return tuple((key, each.shape[1:], each.dtype) for key, each in _parts(pixels).items())


def _empty_like(pixels: Any, rows: int) -> Any:
    made = {key: each.new_zeros(rows, *each.shape[1:]) for key, each in _parts(pixels).items()}
    return made if isinstance(pixels, dict) else made[""]


def _fill(buffers: Any, pixels: Any) -> None:
    """Rows beyond the batch keep the images of an earlier one."""
    for key, each in _parts(pixels).items():
        _parts(buffers)[key][: len(each)].copy_(each)


def _fill_text(buffer: Tensor, text: Tensor, padding: int) -> None:
    rows, length = text.shape
    if text.shape != buffer.shape:
        buffer.fill_(padding)
    buffer[:rows, :length].copy_(text)


def captures(config: RunConfig, model: VisionLanguageModel, stored: bool) -> tuple[bool, str]:
    """Whether a run's optimiser steps are captured, and why not.

    Args:
        config: the run.
        model: as it is trained.
        stored: whether the encoder's features are stored, so that it does not run.

    Raises:
        CellError: ``train.capture`` is true and it cannot be.
    """
    chosen = config.train.capture
    if chosen is False:
        return False, "train.capture is false"
    why = _obstacle(config, model, stored)
    if why and chosen is True:
        raise CellError(f"train.capture is true, but {why}; set it to auto or change that")
    if not why and chosen == "auto":
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        if device_here().type != "cuda":
            why = "there is no CUDA device"
        elif trained > SMALL:
            why = f"{trained:,} parameters are trained, more than {SMALL:,}"
    return not why, why


def _obstacle(config: RunConfig, model: VisionLanguageModel, stored: bool) -> str:
    """What of a run cannot be captured; "" for nothing."""
    if config.train.devices > 1:
        return "several devices share a step (train.devices)"
    if config.train.accumulate > 1:
        return "a step has several parts (train.accumulate)"
    if config.train.activation_checkpointing:
        return "activations are computed again (train.activation_checkpointing)"
    if config.data.pack:
        return "conversations share rows (data.pack)"
    for role in COMPONENT_ROLES:
        if role == "encoder" and stored:
            continue
        component, given = getattr(model, role), getattr(config, role)
        if given.policy is Policy.lora:
            return f"the {role} has adapters"
        if not component.capturable:
            return f"the {role} {given.name!r} does not say that it can be captured"
        if given.policy is Policy.train and (part := _feels_padding(component)):
            return f"the {role} {given.name!r} has {part}, which padding would change"
    return ""


def _feels_padding(component: nn.Module) -> str:
    """What in a component in training gives a row other values where the batch has more; or ""."""
    for module in component.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            return "batch norm"
        rates = (getattr(module, name, 0) for name in ("p", "drop_prob", "attention_dropout"))
        if any(isinstance(rate, float) and rate > 0 for rate in rates):
            return "dropout"
    return ""
