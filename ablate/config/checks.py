"""Values of the right type that still cannot be."""

from __future__ import annotations

from ablate.config.schema import (
    COMPONENT_ROLES,
    MEASURES,
    ComponentConfig,
    EncoderConfig,
    Policy,
    PretrainConfig,
    RunConfig,
)

LARGEST_SEED = 2**32 - 1
"""What NumPy's and Lightning's generators take."""


def problems(config: RunConfig) -> list[tuple[str, str]]:
    """Values that are of the right type and still cannot be: (key, message) pairs."""
    t, e, m = config.train, config.evaluate, config.measure
    positive = {
        "train.epochs": t.epochs,
        "train.batch_size": t.batch_size,
        "train.accumulate": t.accumulate,
        "train.devices": t.devices,
        "train.lr": t.lr,
        "train.grad_clip": t.grad_clip,
        "train.threads": t.threads,
        "train.log_every": t.log_every,
        "train.validate_samples": t.validate_samples,
        "evaluate.batch_size": e.batch_size,
        "measure.batch_size": m.batch_size,
        "measure.prompt_tokens": m.prompt_tokens,
        "measure.new_tokens": m.new_tokens,
        "measure.repeats": m.repeats,
    }
    optional = {
        "data.max_length": None if config.data.max_length == "auto" else config.data.max_length,
        "train.max_steps": t.max_steps,
        "train.validate_every": t.validate_every,
        "evaluate.limit": e.limit,
        "data.pack": config.data.pack,
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
    if not 0 <= config.seed <= LARGEST_SEED:
        found.append(("seed", f"is from 0 to {LARGEST_SEED}, not {config.seed}"))
    non_negative = {
        "train.weight_decay": t.weight_decay,
        "train.save_below_mb": t.save_below_mb,
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
    elif t.accumulate > 0 and t.devices > 0 and t.batch_size // t.accumulate % t.devices:
        part = f"train.batch_size / train.accumulate ({t.batch_size} / {t.accumulate})"
        found.append(("train.devices", f"must divide {part}, which {t.devices} does not"))
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
