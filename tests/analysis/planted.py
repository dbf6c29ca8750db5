"""A store that holds a sweep whose results are known."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.entities import Metric, Param

from ablate.analysis.frames import measured
from ablate.analysis.held import EVALUATE, MEASURE, TRAIN
from ablate.data.benchmarks.base import mean_by_category
from ablate.tracking.store import Tracker

Items = Mapping[str, np.ndarray]
"""Variant -> scores of its items, a row per seed; a row of NaN is a cell that has not finished."""


def records(scores: np.ndarray, per_image: int = 2) -> list[dict[str, Any]]:
    """Records of one cell."""
    return [
        {
            "id": f"test-{k:04d}",
            "image_id": f"image-{k // per_image}",
            "question": f"what is {k}?",
            "answer": "red",
            "answers": ["red"],
            "category": ("shape", "colour")[k % 2],
            "prediction": "red" if score > 0.5 else "blue",
            "log_probability": float(np.log(0.05 + 0.9 * score)),
            "tokens": 2,
            "score": float(score),
        }
        for k, score in enumerate(scores)
    ]


def plant(
    uri: str,
    name: str,
    benchmarks: Mapping[str, Items],
    axes: Mapping[str, Sequence[str]] | None = None,
    metrics: Mapping[str, Mapping[str, Any]] | None = None,
    encoders: Mapping[str, str] | None = None,
    seeds: Sequence[int] | None = None,
    **plan: Any,
) -> str:
    """Write a finished sweep; returns its parent run's id.

    Args:
        uri: of the store.
        name: of the sweep.
        benchmarks: benchmark -> scores of all variants.
        axes: axis -> labels; a variant is called by its labels, joined by "-". By default one axis,
            ``connector``, of all variants.
        metrics: variant -> further metrics; a list's values are its history.
        encoders: variant -> the encoder it has.
        seeds: of the rows.
        plan: what else the plan says: ``margin``, ``baseline``, ...
    """
    tracker = Tracker(uri)
    parent, _ = tracker.parent("sweep", name)
    first = next(iter(benchmarks.values()))
    axes = axes or {"connector": list(first)}
    labels = {"-".join(pair): pair for pair in _product(list(axes.values()))}
    cells = []
    for variant in first:
        for row, seed in enumerate(seeds or range(len(first[variant]))):
            cell = f"{variant}-s{seed}"
            identity = f"{name}/{cell}"
            own = dict(zip(axes, labels[variant], strict=True))
            told = (metrics or {}).get(variant, {})
            machines = {found[0] for name in told if (found := measured(name)) is not None}
            names = [TRAIN, *(EVALUATE + b for b in benchmarks), *(MEASURE + m for m in machines)]
            steps = {step: f"{identity}/{step}" for step in names}
            cells.append({"name": cell, "steps": steps, "labels": own, "seed": seed})
            scores = {benchmark: held[variant] for benchmark, held in benchmarks.items()}
            here = {b: rows[row] for b, rows in scores.items() if row < len(rows)}
            if here and not all(np.isnan(values).all() for values in here.values()):
                encoder = (encoders or {}).get(variant, "timm")
                run_id = _cell(tracker, parent, cell, here, told, encoder, seed)
                for step, identity in steps.items():
                    if step.removeprefix(EVALUATE) in here or not step.startswith(EVALUATE):
                        tracker.hold(run_id, step, identity)
    about = {"name": name, "axes": axes, "cells": cells, "compare": None, **plan}
    tracker.client.log_dict(parent, about, "plan.json")
    tracker.end(parent, "FINISHED")
    return parent


def _product(values: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    pairs: list[tuple[str, ...]] = [()]
    for labels in values:
        pairs = [(*pair, label) for pair in pairs for label in labels]
    return pairs


def _cell(
    tracker: Tracker,
    parent: str,
    name: str,
    scores: Mapping[str, np.ndarray],
    metrics: Mapping[str, Any],
    encoder: str,
    seed: int,
) -> str:
    client = tracker.client
    experiment = client.get_run(parent).info.experiment_id
    said = {"kind": "cell", "name": name}
    tags = {f"ablate.{key}": value for key, value in said.items()}
    tags["mlflow.parentRunId"] = parent
    run_id = client.create_run(experiment, tags=tags, run_name=name).info.run_id
    params = {"encoder": encoder, "connector": name, "seed": str(seed), "evaluate.split": "test"}
    client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])
    history = {
        key: [value] if np.isscalar(value) else list(value) for key, value in metrics.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        for benchmark, values in scores.items():
            kept = records(values)
            path = Path(folder) / f"{benchmark}.parquet"
            pd.DataFrame(kept).to_parquet(path, index=False)
            client.log_artifact(run_id, str(path), "predictions")
            figures = mean_by_category(kept, "accuracy")
            history |= {f"{benchmark}/{key}": [value] for key, value in figures.items()}
            history[f"chance/{benchmark}"] = [0.25]
    points = [
        Metric(key, float(value), time, 0)
        for key, values in history.items()
        for time, value in enumerate(values)
    ]
    client.log_batch(run_id, metrics=points)
    client.set_terminated(run_id, "FINISHED")
    return str(run_id)


def drawn(
    means: Mapping[str, float],
    seeds: int = 3,
    images: int = 100,
    per_image: int = 2,
    spread: float | Mapping[str, float] = 0.005,
    random: int = 0,
    binary: bool = True,
) -> dict[str, np.ndarray]:
    """Right or wrong answers of variants with these true means.

    Args:
        means: variant -> true mean.
        seeds: rows of each.
        images: that the items show.
        per_image: items of each.
        spread: sd of variant x seed.
        random: seed of the draws.
        binary: scores 0 or 1; else continuous.
    """
    draw = np.random.default_rng(random)
    n = images * per_image
    hardness = draw.normal(size=images).repeat(per_image) + draw.normal(size=n)
    order = hardness.argsort().argsort() / n  # uniform, alike for all
    made = {}
    for variant, mean in means.items():
        sd = spread if np.isscalar(spread) else spread[variant]  # type: ignore[index]
        level = mean + float(sd) * draw.normal(size=(seeds, 1))  # type: ignore[arg-type]
        noise = 0.08 * draw.normal(size=(seeds, n))
        made[variant] = (order + noise < level).astype(float) if binary else level + noise
    return made
