"""Trainings one after the other: the stages of a run, each a small diff from it."""

from __future__ import annotations

import dataclasses
import reprlib
from typing import Any

from ablate.config.compose import Layer, compose, expand
from ablate.config.schema import COMPONENT_ROLES, EvaluateConfig, Policy, RunConfig
from ablate.errors import ConfigError, shortened

FIXED = ("stages", "seed", "evaluate", "measure", "start_from")
"""What a stage does not set: it is of the run as a whole."""
LORA = Policy.lora.name


def stage_configs(layers: list[Layer], config: RunConfig, source: str) -> dict[str, RunConfig]:
    """Stage -> its run, in order; empty for a run without stages.

    Args:
        layers: what the run is composed of.
        config: the run.
        source: its file, for messages.

    Raises:
        ConfigError: a mistake in ``stages``.
    """
    if config.stages is None:
        return {}
    found: dict[str, RunConfig] = {}
    if not config.stages:
        raise ConfigError(source, "stages", "is empty; name the stages, as in [align, finetune]")
    for number, given in enumerate(config.stages):
        name, diff = _stage(given, source)
        if name in found:
            raise ConfigError(source, "stages", f"lists {name!r} twice")
        place = f"{source} (stages.{shortened(name)})"
        expanded = expand(diff, place)
        for key in FIXED:
            if key in expanded:
                raise ConfigError(place, key, "is of the whole run, and not of a stage")
        for role in COMPONENT_ROLES:
            own = expanded.get(role)
            if isinstance(own, dict) and own.get("policy", LORA) != LORA:
                own.setdefault("lora", None)  # the run's adapters are not this stage's
        run = compose([*layers, Layer(place, expanded)])
        is_last = number == len(config.stages) - 1
        found[name] = dataclasses.replace(
            run,
            start_from=run.start_from if number == 0 else None,
            stages=config.stages if is_last and number > 0 else None,
            evaluate=run.evaluate if is_last else EvaluateConfig(benchmarks=[]),
        )
    return found


def _stage(given: Any, source: str) -> tuple[str, dict[str, Any]]:
    if isinstance(given, str):
        return given, {}
    if isinstance(given, dict) and len(given) == 1:
        name, diff = next(iter(given.items()))
        if diff is None or isinstance(diff, dict):
            return str(name), diff or {}
    message = f"a stage is a name or `name: {{diff}}`, not {reprlib.repr(given)}"
    raise ConfigError(source, "stages", message)
