"""The typed configuration of a run, and the hash that is its identity."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass, field
from typing import Any, Literal

NOT_IN_IDENTITY: dict[str, Any] = {"identity": False}
IN_IDENTITY_IF_SET: dict[str, Any] = {"identity": "if set"}
"""Of a field whose default is what was done before it existed: older runs keep their identity."""


class Policy(enum.Enum):
    """What training does with a component's parameters."""

    train = "train"
    freeze = "freeze"
    lora = "lora"


@dataclass
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): W x + (alpha / r) B A x.

    ``dropout`` is on the adapters' input; ``targets`` are the last parts of the names of linear
    layers (``in_proj``); without any, all of them, see ``ablate.models.lora.add_adapters``.
    """

    r: int = 16
    alpha: int = 32
    dropout: float = 0.0
    targets: list[str] = field(default_factory=list)


@dataclass
class ComponentConfig:
    """A component by registered name or ``package.module:Class``, its arguments and its policy.

    ``args`` may be incomplete in a file; in a planned run every argument is filled in.
    ``lora`` goes with ``policy: lora``, which has its defaults if it is not given.
    """

    name: str
    args: dict[str, Any] = field(default_factory=dict)
    policy: Policy = Policy.train
    lora: LoraConfig | None = field(default=None, metadata=IN_IDENTITY_IF_SET)


@dataclass
class PretrainConfig:
    """Stage 0: an encoder learns to classify labelled images, once for all cells and seeds.

    ``data``: a data set with labelled images, ``args``: its arguments; ``threads``: CPU threads,
    part of the identity.
    """

    data: str = "easy-vqa"
    args: dict[str, Any] = field(default_factory=dict)
    steps: int = 400
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    seed: int = 0
    threads: int = 2


@dataclass
class EncoderConfig(ComponentConfig):
    """An encoder, and how it is pretrained here (None: it is not).

    ``pretrain_parts`` is for ``fused``: one stage 0 for each of its encoders, in their order.

    With ``policy: freeze``, its features of each image are computed once for all cells, unless
    ``cache_features`` is off; the results are the same. ``feature_precision: bfloat16`` halves the
    room they take by rounding them, which changes results (also those without the cache).
    """

    pretrain: PretrainConfig | None = None
    pretrain_parts: list[PretrainConfig] | None = field(default=None, metadata=IN_IDENTITY_IF_SET)
    cache_features: bool = field(default=True, metadata=NOT_IN_IDENTITY)
    feature_precision: Literal["exact", "bfloat16"] = field(
        default="exact", metadata=IN_IDENTITY_IF_SET
    )


@dataclass
class DataConfig:
    """The training data. ``max_length``: text tokens a sample, longer ones are cut; with ``auto``,
    one in a thousand of the training conversations is.

    ``too_long``: what becomes of a conversation whose first question leaves no room for any answer:
    the run is refused, the conversation is left out (``skip``), or the question loses its end
    (``truncate``), so that its answer, or ``max_length / 2`` tokens of it, have room.

    ``prompts: drop`` trains on the answer alone, right after the image: the stage that aligns
    images with captions. Evaluation and chat prompt as ever. ``parse_special_tokens``: the name of
    a special token in a question or an answer means that token; by default it is text.

    ``pack``: the conversations of a batch share rows of so many positions, of text and images, and
    none sees another; of equal images, one is encoded. The gradients are those of a row for each,
    which is the default, but for rounding.
    """

    name: str = "easy-vqa"
    args: dict[str, Any] = field(default_factory=dict)
    max_length: int | Literal["auto"] = 256
    too_long: Literal["refuse", "skip", "truncate"] = field(
        default="refuse", metadata=IN_IDENTITY_IF_SET
    )
    prompts: Literal["keep", "drop"] = field(default="keep", metadata=IN_IDENTITY_IF_SET)
    parse_special_tokens: bool = field(default=False, metadata=IN_IDENTITY_IF_SET)
    pack: int | None = field(default=None, metadata=IN_IDENTITY_IF_SET)
    num_workers: int = field(default=0, metadata=NOT_IN_IDENTITY)


@dataclass
class TrainConfig:
    """Optimisation: AdamW, linear warm-up, cosine decay to zero.

    ``epochs`` or ``max_steps``, whichever ends first; ``warmup`` is a fraction of all steps;
    ``precision: auto`` is bf16 on a device that has it and float32 elsewhere; ``threads`` is the
    CPU threads of one cell (part of the identity: it changes the order of sums).

    ``batch_size`` is samples an optimiser step; ``accumulate`` splits it into so many parts, whose
    gradients are summed. ``activation_checkpointing`` keeps only the inputs of each layer for the
    backward pass and computes the rest again: the same results from less memory and more time.
    ``capture`` replays whole optimiser steps from CUDA graphs, the same numbers but for rounding;
    ``auto`` does so for small models on a GPU, see ``ablate.training.captured``.

    ``devices`` is the GPUs that one training runs on, or without a GPU its processes. They share
    each part of a step, so that the results are the same within rounding, but for what dropout
    draws. With ``strategy: ddp`` each has a whole copy of the model; with ``fsdp`` they share the
    weights that are trained, their gradients and moments too; ``auto`` is the first that fits.

    The trained model is kept with the run, as the artifact folder ``model``, where its weights take
    at most ``save_below_mb`` (10^6 bytes), and beyond that if ``save`` says so; a run that is done
    already is not done again for it.

    Its state is saved every ``checkpoint_minutes`` and every ``checkpoint_steps`` (None: not so)
    until it is done, so that a training that was cut off goes on from there to the same numbers.
    """

    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 64
    accumulate: int = field(default=1, metadata=IN_IDENTITY_IF_SET)
    activation_checkpointing: bool = field(default=False, metadata=NOT_IN_IDENTITY)
    devices: int = field(default=1, metadata=NOT_IN_IDENTITY)
    strategy: Literal["auto", "ddp", "fsdp"] = field(default="auto", metadata=NOT_IN_IDENTITY)
    capture: bool | Literal["auto"] = field(default="auto", metadata=NOT_IN_IDENTITY)
    lr: float = 1e-3
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: float = 0.03
    grad_clip: float = 1.0
    precision: Literal["auto", "32", "bf16"] = "auto"
    threads: int = 1
    log_every: int = field(default=20, metadata=NOT_IN_IDENTITY)
    validate_every: int | None = field(default=None, metadata=NOT_IN_IDENTITY)
    validate_samples: int = field(default=512, metadata=NOT_IN_IDENTITY)
    save: bool = field(default=False, metadata=NOT_IN_IDENTITY)
    save_below_mb: int = field(default=64, metadata=NOT_IN_IDENTITY)
    checkpoint_minutes: float | None = field(default=10.0, metadata=NOT_IN_IDENTITY)
    checkpoint_steps: int | None = field(default=None, metadata=NOT_IN_IDENTITY)


@dataclass
class BenchmarkConfig:
    """A benchmark by registered name or ``package.module:Class``, and its arguments."""

    name: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass
class EvaluateConfig:
    """The benchmarks a trained cell is scored on; ``limit``: a fixed subset of so many items.

    A file lists each as a name or as ``label: {name, args}``, the label being what its results are
    called and by default its name; ``definitions`` has the latter by label.

    ``split``: ``test`` is what is reported, always a benchmark's whole official set. Studies use
    ``validation``. Where that is a part of ``test``, ``rest`` is the other part, for what a study
    has chosen; elsewhere it is ``test``.
    """

    benchmarks: list[str] = field(default_factory=lambda: ["easy-vqa"])
    definitions: dict[str, BenchmarkConfig] = field(
        default_factory=dict, metadata=IN_IDENTITY_IF_SET
    )
    split: Literal["validation", "test", "rest"] = "test"
    limit: int | None = None
    batch_size: int = field(default=256, metadata=NOT_IN_IDENTITY)


@dataclass
class MeasureConfig:
    """Efficiency, measured alone on the machine after training; no part of the identity.

    ``batch_size`` is the larger of the two decode batches (the smaller is 1); ``prompt_tokens``
    are text tokens after the image; ``repeats`` timings follow ``warmup`` untimed ones.
    """

    what: list[str] = field(default_factory=lambda: ["train", "prefill", "decode"])
    batch_size: int = 16
    prompt_tokens: int = 16
    new_tokens: int = 32
    warmup: int = 1
    repeats: int = 5


@dataclass
class RunConfig:
    """All that one cell needs: with the same machine, the same config gives the same numbers.

    ``start_from``: a path, of a saved model (``train.save``) whose components the run starts from
    instead of its own, or of ML-Mamba's release, which has no encoder.

    ``stages``: trainings one after the other, in a sweep: each is a name (the run as it is) or
    ``name: {diff}`` from the run. Each starts from what the one before has trained; the last is the
    one that is evaluated and measured, and the first starts from ``start_from``.
    """

    encoder: EncoderConfig
    connector: ComponentConfig
    backbone: ComponentConfig
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    measure: MeasureConfig = field(default_factory=MeasureConfig, metadata=NOT_IN_IDENTITY)
    seed: int = 0
    start_from: str | None = field(default=None, metadata=IN_IDENTITY_IF_SET)
    stages: list[Any] | None = field(default=None, metadata=IN_IDENTITY_IF_SET)


MEASURES = ("train", "prefill", "decode")
COMPONENT_ROLES = ("encoder", "connector", "backbone")
ROLES = (*COMPONENT_ROLES, "data")
SECTIONS = tuple(f.name for f in dataclasses.fields(RunConfig))
