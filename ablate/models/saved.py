"""A whole vision-language model on disk: safetensors a component, and the run that made it.

A directory holds ``encoder.safetensors``, ``connector.safetensors`` and ``backbone.safetensors``,
with adapters merged into the weights that they change, and ``config.json``, written last: the run's
config, the tokenizer's size, and how to build a backbone that was read from files without them.
"""

from __future__ import annotations

import copy as copying
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from ablate.components.backbones import Backbone
from ablate.components.checkpoints import (
    CheckpointError,
    copy,
    load_ml_mamba,
    matched,
    read_json,
    read_tensors,
)
from ablate.components.registry import arguments
from ablate.config.compose import Layer, compose
from ablate.config.identity import to_dict
from ablate.config.registries import registry
from ablate.config.schema import COMPONENT_ROLES, RunConfig
from ablate.errors import ConfigError
from ablate.models.lora import merged
from ablate.models.vlm import IncompatibleError, VisionLanguageModel, apply_policies, assemble

MODEL = "model"
"""The artifact folder of a run that holds its saved model."""

CONFIG = "config.json"
FORMAT = "ablate-1"
PARTS = "parts"


def save(
    model: VisionLanguageModel,
    config: RunConfig,
    folder: Path,
    roles: Sequence[str] = COMPONENT_ROLES,
) -> None:
    """Write a model, or some of its components, and its run into ``folder``, over what is there.

    An interrupted write leaves no ``config.json``, and so nothing that would load.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)
    components = components_of(model)
    for role in roles:
        save_file(merged(components[role]), _weights(folder, role))
    values = {
        "format": FORMAT,
        "vocab_size": model.vocab_size,
        "run": to_dict(config),
        PARTS: list(roles),
        "backbone": model.backbone.blueprint(),
    }
    unfinished = folder / f"{CONFIG}.part"
    unfinished.write_text(json.dumps(values, indent=2))
    unfinished.replace(folder / CONFIG)


def load(folder: Path) -> tuple[VisionLanguageModel, RunConfig]:
    """The model that ``save`` wrote, and its run; adapters, if the run has any, start anew.

    Raises:
        CheckpointError: the directory is not one of ours, is damaged, or is of another version.
    """
    config, vocab_size = saved_run(folder)
    if (parts := saved_parts(folder)) != COMPONENT_ROLES:
        message = f"holds {', '.join(parts)} alone, of an earlier stage; give a whole model"
        raise CheckpointError(folder / CONFIG, message)
    blank = _without_weights(config)
    blueprint = _saved_blueprint(folder)
    if blueprint is not None:
        blank.backbone.name, blank.backbone.args = blueprint
    try:
        model = assemble(blank, vocab_size)
        _load(components_of(model), folder)
        apply_policies(model, blank)
    except IncompatibleError as error:
        raise CheckpointError(folder / CONFIG, f"its model cannot be built: {error}") from error
    return model, config


def components_of(model: VisionLanguageModel) -> dict[str, nn.Module]:
    """The model's components by role."""
    return {role: getattr(model, role) for role in COMPONENT_ROLES}


def start_from(components: Mapping[str, nn.Module], config: RunConfig, path: Path) -> None:
    """Start from trained components, as fine-tuning does from alignment; all of them or none.

    Args:
        components: the new run's, by role; those given are started. ML-Mamba's release has no
            encoder, and leaves a given one as it is; so does an earlier stage with what it froze.
        config: the new run.
        path: a directory written by ``save``, or the file of ML-Mamba's release (for the
            ``msc-code`` connector and a ``mamba2`` backbone).

    Raises:
        CheckpointError: damaged weights, another component, or other arguments of it.
    """
    path = path.expanduser()
    if path.is_file():
        if {"connector", "backbone"} <= components.keys():
            load_ml_mamba(path, components["connector"], components["backbone"])
        return
    saved, _ = saved_run(path)
    parts = saved_parts(path)
    components = {role: each for role, each in components.items() if role in parts}
    for role in components:
        old, new = getattr(saved, role).name, getattr(config, role).name
        if old != new:
            raise CheckpointError(
                path / CONFIG,
                f"run.{role}.name is {old!r} and this run's {role} is {new!r}; choose the same "
                f"{role}, or start from other weights",
            )
    if "backbone" in components:
        _check_settings(components["backbone"], path)
    _load(components, path)


def saved_run(folder: Path) -> tuple[RunConfig, int]:
    """The run of a saved model, and its tokenizer's size.

    Raises:
        CheckpointError: see ``load``.
    """
    path = folder / CONFIG
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise CheckpointError(
            path,
            f"format is {values.get('format')!r} and must be {FORMAT!r}; give a directory that "
            "ablate saved",
        )
    run, vocab_size = values.get("run"), values.get("vocab_size")
    if not isinstance(run, dict) or not isinstance(vocab_size, int):
        raise CheckpointError(path, "needs the keys run and vocab_size; save the model again")
    try:
        return compose([Layer(str(path), run)]), vocab_size
    except ConfigError as error:
        raise CheckpointError(path, f"run is no config of this version: {error}") from error


def saved_parts(folder: Path) -> tuple[str, ...]:
    """The components whose weights a saved model holds."""
    return tuple(read_json(folder / CONFIG).get(PARTS, COMPONENT_ROLES))


def _weights(folder: Path, role: str) -> Path:
    return folder / f"{role}.safetensors"


def _saved_blueprint(folder: Path) -> tuple[str, dict[str, Any]] | None:
    """See ``Backbone.blueprint``."""
    blueprint = read_json(folder / CONFIG).get("backbone")
    if blueprint is None:
        return None
    if not isinstance(blueprint, list) or list(map(type, blueprint)) != [str, dict]:
        raise CheckpointError(
            folder / CONFIG,
            "backbone must be null or a name and its arguments; save the model again",
        )
    return blueprint[0], blueprint[1]


def _check_settings(backbone: nn.Module, folder: Path) -> None:
    """Refuse a backbone of other settings, some of which leave no trace in the weights."""
    assert isinstance(backbone, Backbone)
    saved, own = _saved_blueprint(folder), backbone.blueprint()
    if saved is None or own is None:
        return
    there, here = _flat(saved[1]), _flat(json.loads(json.dumps(own[1])))
    differences = [
        f"{key} is {there[key]!r} and this run's {here[key]!r}"
        for key in sorted(there.keys() & here.keys())  # versions of a library may add some
        if there[key] != here[key]
    ]
    if differences:
        raise CheckpointError(
            folder / CONFIG,
            f"the backbone's {'; '.join(differences)}. Nothing was loaded; give this run the "
            "arguments of the saved one (weights or path, config), or start from other weights",
        )


def _flat(args: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested arguments by dotted key."""
    found: dict[str, Any] = {}
    for key, value in args.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _load(components: Mapping[str, nn.Module], folder: Path) -> None:
    pairs = []
    for role, component in components.items():
        file = _weights(folder, role)
        pairs += matched(component, read_tensors(file), file)
    copy(pairs)


def _without_weights(config: RunConfig) -> RunConfig:
    """The run with components that start at random: what is saved comes over them anyway."""
    blank = copying.deepcopy(config)
    for role in COMPONENT_ROLES:
        component = getattr(blank, role)
        component.args = _blank(role, component.name, component.args)
    return blank


def _blank(role: str, name: str, args: dict[str, Any]) -> dict[str, Any]:
    known = arguments(registry(role).get(name))
    blank = {**args, "weights": "none"} if "weights" in known else dict(args)
    if "encoders" in known:  # a fused encoder's parts, each a name or a name with arguments
        parts: list[dict[str, Any]] = [
            {"name": p} if isinstance(p, str) else {**p} for p in args["encoders"]
        ]
        blank["encoders"] = [
            {**p, "args": _blank(role, p["name"], p.get("args") or {})} for p in parts
        ]
    return blank
