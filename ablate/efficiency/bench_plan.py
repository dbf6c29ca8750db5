"""A bench file -> the models it compares: each a run's configuration, built with random weights."""

from __future__ import annotations

import dataclasses
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ablate.components.registry import nearest
from ablate.config.compose import Layer, compose, expand
from ablate.config.documents import read_file
from ablate.config.schema import DataConfig, RunConfig
from ablate.efficiency.peers import PEERS
from ablate.errors import COMMAND_LINE, ConfigError, shortened


@dataclass
class BenchKeys:
    """What a bench file holds besides the sections of a run.

    Attributes:
        name: of the bench in MLflow; the file's if empty.
        models: name -> diff from the file's own sections.
        batch_sizes: rows decoded together.
        prompt_tokens: text tokens after the image; a model's image tokens come on top.
        new_tokens: tokens decoded after the prompt, 3 or more.
        dtype: of weights and activations.
        threads: CPU threads; None for as many as there are cores.
        vocabulary: tokens of a backbone that was not published with a vocabulary of its own.
        warmup: calls before the timed ones; what the first costs more is reported apart.
        repeats: timed calls.
        peers: other implementations to time beside ours on the same weights, see ``PEERS``.
        peer_points: where peers are timed, each [batch size, text tokens]; everywhere if empty.
        peer_repeats: timed calls of a peer, in turns with ours.
        faster: claims to judge: model -> those that it is said to generate faster than.
        compare: the published table to print beside the results.
    """

    name: str = ""
    models: dict[str, Any] = field(default_factory=dict)
    batch_sizes: list[int] = field(default_factory=lambda: [1])
    prompt_tokens: list[int] = field(default_factory=lambda: [32])
    new_tokens: int = 256
    dtype: Literal["float32", "bfloat16"] = "float32"
    threads: int | None = None
    vocabulary: int = 32000
    warmup: int = 1
    repeats: int = 5
    peers: list[str] = field(default_factory=list)
    peer_points: list[list[int]] = field(default_factory=list)
    peer_repeats: int = 5
    faster: dict[str, list[str]] = field(default_factory=dict)
    compare: str | None = None


@dataclass(frozen=True)
class BenchPlan:
    """A bench, ready to run: ``models`` are those chosen, ``keys`` what the file says of all."""

    source: str
    keys: BenchKeys
    models: dict[str, RunConfig]


def plan_bench(
    path: Path, items: list[str] | None = None, peers: list[str] | None = None
) -> BenchPlan:
    """Read a bench file, with ``key=value`` overrides; ``models=[a, b]`` chooses among its models.

    Args:
        path: the file.
        items: the overrides.
        peers: further peers.

    Raises:
        ConfigError: any mistake in the file, its bases or the overrides.
    """
    every = [f.name for f in dataclasses.fields(BenchKeys)]
    file = read_file(path, items or [], BenchKeys, every, aside=["models"])
    keys, source = file.keys, file.source
    for key, message in _problems(keys):
        raise ConfigError(file.source_of(key), key, message)
    for peer in peers or []:
        if peer not in PEERS:
            raise ConfigError(COMMAND_LINE, "--peer", _no_peer(peer))
    keys.peers = list(dict.fromkeys([*keys.peers, *(peers or [])]))
    # A bench reads no data, and need not have what a base's data set asks for.
    top = [*file.top, Layer(source, {"data": {"name": DataConfig.name}})]
    models = {}
    for name in _chosen(file.aside.get("models"), list(keys.models)):
        place = f"{source} (models.{shortened(name)})"
        diff = expand(keys.models[name], place)
        models[name] = compose([*file.layers, Layer(place, diff), *top])
    return BenchPlan(source, keys, models)


def _problems(keys: BenchKeys) -> Iterator[tuple[str, str]]:
    """Values that are of the right type and still cannot be: (key, message) pairs."""
    if not keys.models:
        yield "models", "names no model; give name: {diff} for each"
    for name, diff in keys.models.items():
        if not isinstance(diff, dict):
            given = reprlib.repr(diff)
            yield f"models.{name}", f"is a diff from the file's own sections, not {given}"
    single = ("new_tokens", "vocabulary", "warmup", "repeats", "peer_repeats")
    numbers = {key: [getattr(keys, key)] for key in single}
    numbers |= {"batch_sizes": keys.batch_sizes, "prompt_tokens": keys.prompt_tokens}
    numbers["threads"] = [1 if keys.threads is None else keys.threads]
    for key, values in numbers.items():
        if not values or len(set(values)) < len(values):
            yield key, f"must list different numbers, not {values}"
        least = 3 if key == "new_tokens" else 1
        for value in values:
            if value < least:
                yield key, f"must be {least} or more, not {value}"
    for peer in keys.peers:
        if peer not in PEERS:
            yield "peers", _no_peer(peer)
    for pair in keys.peer_points:
        if len(pair) != 2 or min(pair) < 1:
            yield "peer_points", f"a point is [batch size, text tokens], not {pair}"
    for fast, others in keys.faster.items():
        for model in (fast, *others):
            if model not in keys.models:
                yield "faster", f"no model {model!r} in this file; {nearest(model, [*keys.models])}"


def _no_peer(name: str) -> str:
    return f"no peer {name!r}; {nearest(name, list(PEERS))}"


def _chosen(chosen: Any, models: list[str]) -> list[str]:
    """The models that an override asks for, in the file's order; all without one."""
    if chosen is None:
        return models
    names = [chosen] if isinstance(chosen, str) else chosen
    if not isinstance(names, list) or not names:
        given = reprlib.repr(chosen)
        raise ConfigError(COMMAND_LINE, "models", f"is a list, models=[a, b], not {given}")
    for name in names:
        if name not in models:
            raise ConfigError(
                COMMAND_LINE, "models", f"no model {name!r}; {nearest(str(name), models)}"
            )
    return [name for name in models if name in names]
