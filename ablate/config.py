"""The typed configuration of a run, and the hash that is its identity."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
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
    layers (``in_proj``); without any, all of them, see ``ablate.lora.add_adapters``.
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
    """The training data. ``max_length``: text tokens a sample, longer ones are cut."""

    name: str = "easy-vqa"
    args: dict[str, Any] = field(default_factory=dict)
    max_length: int = 256
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

    ``save`` keeps the trained model with the run, as the artifact folder ``model``; a run that is
    done already is not done again for it.
    """

    epochs: int = 1
    max_steps: int | None = None
    batch_size: int = 64
    accumulate: int = field(default=1, metadata=IN_IDENTITY_IF_SET)
    activation_checkpointing: bool = field(default=False, metadata=NOT_IN_IDENTITY)
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


@dataclass
class EvaluateConfig:
    """The benchmarks a trained cell is scored on; ``limit``: a fixed subset of so many items."""

    benchmarks: list[str] = field(default_factory=lambda: ["easy-vqa"])
    split: Literal["validation", "test"] = "test"
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


MEASURES = ("train", "prefill", "decode")
COMPONENT_ROLES = ("encoder", "connector", "backbone")
ROLES = (*COMPONENT_ROLES, "data")
SECTIONS = tuple(f.name for f in dataclasses.fields(RunConfig))


def to_dict(config: Any, *, identity_only: bool = False) -> Any:
    """A config as plain JSON types: dataclasses to dicts, enums to names, tuples to lists.

    Args:
        config: a dataclass instance or any value inside one.
        identity_only: leave out the fields that do not affect a run's result.
    """
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {
            f.name: to_dict(getattr(config, f.name), identity_only=identity_only)
            for f in dataclasses.fields(config)
            if not identity_only or _in_identity(f, getattr(config, f.name))
        }
    if isinstance(config, enum.Enum):
        return config.name
    if isinstance(config, dict):
        return {k: to_dict(v, identity_only=identity_only) for k, v in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(v, identity_only=identity_only) for v in config]
    return config


def _in_identity(field: dataclasses.Field, value: Any) -> bool:
    if field.metadata == IN_IDENTITY_IF_SET:
        return value != field.default
    return field.metadata != NOT_IN_IDENTITY


def digest(fields: Any) -> str:
    """SHA-256 (hex) of plain JSON types, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def identity(config: RunConfig) -> str:
    """The run's identity: the hash over its result-affecting fields.

    The config must be a planned one, with every component argument filled in, so that a default
    written out and a default left out are the same run.
    """
    return digest(to_dict(config, identity_only=True))


def seedless_identity(config: RunConfig) -> str:
    """What the runs of one combination share: the identity without the seed."""
    fields = to_dict(config, identity_only=True)
    del fields["seed"]
    return digest(fields)


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts to dotted keys: ``{"train": {"lr": 1}}`` -> ``{"train.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{path}."))
        else:
            flat[path] = value
    return flat


def problems(config: RunConfig) -> list[tuple[str, str]]:
    """Values that are of the right type and still cannot be: (key, message) pairs."""
    t, e, m = config.train, config.evaluate, config.measure
    positive = {
        "train.epochs": t.epochs,
        "train.batch_size": t.batch_size,
        "train.accumulate": t.accumulate,
        "train.lr": t.lr,
        "train.grad_clip": t.grad_clip,
        "train.threads": t.threads,
        "train.log_every": t.log_every,
        "train.validate_samples": t.validate_samples,
        "data.max_length": config.data.max_length,
        "evaluate.batch_size": e.batch_size,
        "measure.batch_size": m.batch_size,
        "measure.prompt_tokens": m.prompt_tokens,
        "measure.new_tokens": m.new_tokens,
        "measure.repeats": m.repeats,
    }
    optional = {
        "train.max_steps": t.max_steps,
        "train.validate_every": t.validate_every,
        "evaluate.limit": e.limit,
    }
    for key, settings in stages_of(config.encoder):
        names = ("steps", "batch_size", "lr", "threads")
        positive |= {f"{key}.{name}": getattr(settings, name) for name in names}
    positive |= {k: v for k, v in optional.items() if v is not None}
    found = [(k, f"must be above 0, not {v}") for k, v in positive.items() if not v > 0]
    if not 0 <= t.warmup < 1:
        found.append(
            ("train.warmup", f"is a fraction of all steps, 0 <= warmup < 1, not {t.warmup}")
        )
    non_negative = {
        "seed": config.seed,
        "train.weight_decay": t.weight_decay,
        "data.num_workers": config.data.num_workers,
        "measure.warmup": m.warmup,
    }
    found += [(k, f"must be 0 or more, not {v}") for k, v in non_negative.items() if v < 0]
    found += [
        ("measure.what", f"unknown measure {w!r}; known: {', '.join(MEASURES)}")
        for w in m.what
        if w not in MEASURES
    ]
    if t.accumulate > 0 and t.batch_size % t.accumulate:
        message = f"must divide train.batch_size ({t.batch_size}), which {t.accumulate} does not"
        found.append(("train.accumulate", message))
    found += _pretrain_problems(config.encoder)
    if config.encoder.feature_precision != "exact" and config.encoder.policy is not Policy.freeze:
        message = "rounds the features of a frozen encoder; set encoder.policy: freeze"
        found.append(("encoder.feature_precision", message))
    for role in COMPONENT_ROLES:
        found += _lora_problems(role, getattr(config, role))
    return found


def stages_of(encoder: EncoderConfig) -> list[tuple[str, PretrainConfig]]:
    """The settings of each stage 0 of an encoder, and their key in the config."""
    whole = [] if encoder.pretrain is None else [("encoder.pretrain", encoder.pretrain)]
    return whole + [("encoder.pretrain_parts", p) for p in encoder.pretrain_parts or []]


def _pretrain_problems(encoder: EncoderConfig) -> list[tuple[str, str]]:
    if encoder.pretrain_parts is None:
        return []
    key, stages = "encoder.pretrain_parts", len(encoder.pretrain_parts)
    if encoder.pretrain is not None:
        return [(key, "stands beside encoder.pretrain; the whole is pretrained, or its parts are")]
    parts = encoder.args.get("encoders")
    if parts is None:
        return [(key, f"is for an encoder made of others; for {encoder.name} set encoder.pretrain")]
    if len(parts) != stages:
        return [(key, f"has {stages} stages for {len(parts)} encoders; give one for each")]
    return []


def _lora_problems(role: str, component: ComponentConfig) -> list[tuple[str, str]]:
    lora = component.lora
    if lora is None:
        return []
    key, found = f"{role}.lora", []
    if component.policy is not Policy.lora:
        message = f"has no effect with policy: {component.policy.name}; set {role}.policy: lora"
        found.append((key, message))
    if lora.r < 1:
        found.append((f"{key}.r", f"is a rank, 1 or more, not {lora.r}"))
    if not lora.alpha > 0:
        found.append((f"{key}.alpha", f"must be above 0, not {lora.alpha}"))
    if not 0 <= lora.dropout < 1:
        found.append((f"{key}.dropout", f"is a probability, 0 <= dropout < 1, not {lora.dropout}"))
    return found
