"""Item scores of one benchmark as an array, and what is done where some are missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

COLUMNS = ("variant", "seed", "item", "score")
LEAST_SHARE = 0.5
"""A cell that holds fewer of the items than this is left out, rather than the items it lacks."""


class ScoresError(ValueError):
    """Scores that cannot be analysed: one line that names the column and the remedy."""


@dataclass(frozen=True)
class Scores:
    """The scores of all variants and seeds on the same items.

    Missing scores (no row, or NaN) follow two rules: a cell that lacks more than half of the items
    is left out as failed; then an item that any other cell lacks is left out everywhere, since
    differences are only free of the items' own difficulty where both sides have answered them.

    Attributes:
        variants: T labels.
        seeds: R labels.
        values: (T, R, n), items of one cluster side by side; a cell left out is NaN throughout.
        starts: (C,), the place of each cluster's first item.
        notes: what was left out, for the reader.
    """

    variants: tuple[str, ...]
    seeds: tuple[Any, ...]
    values: np.ndarray
    starts: np.ndarray
    notes: tuple[str, ...] = ()

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> Scores:
        """Read a tidy frame: a row per variant, seed and item.

        Args:
            frame: columns ``variant``, ``seed``, ``item``, ``score`` and, where several items
                show one image, ``cluster``. Without it every item is its own cluster.

        Raises:
            ScoresError: a column is missing, a score is no finite number or NaN, an item is scored
                twice in a cell or belongs to two clusters, or nothing is left to analyse.
        """
        _check(frame)
        clusters = _clusters(frame)
        table = frame.pivot(index=["variant", "seed"], columns="item", values="score")
        table = table.astype(float)[sorted(table.columns, key=clusters.__getitem__)]
        variants = list(dict.fromkeys(frame["variant"]))
        seeds = list(dict.fromkeys(frame["seed"]))
        cells = pd.MultiIndex.from_product([variants, seeds])
        values = table.reindex(cells).to_numpy().reshape(len(variants), len(seeds), -1)
        codes = np.array([clusters[item] for item in table.columns])
        return cls._complete([str(v) for v in variants], seeds, values, codes)

    @classmethod
    def from_arrays(
        cls, scores: Mapping[str, np.ndarray], clusters: Iterable[Any] | None = None
    ) -> Scores:
        """Take an array (R, n) per variant; rows are the same seeds, columns the same items.

        Args:
            scores: variant -> scores; a variant with fewer rows lacks the last seeds.
            clusters: the cluster of each item, in any order; None if every item is its own.

        Raises:
            ScoresError: the variants have unequal numbers of items, or nothing is left to analyse.
        """
        arrays = {name: np.atleast_2d(np.asarray(a, float)) for name, a in scores.items()}
        items = {a.shape[1] for a in arrays.values()}
        if len(items) != 1:
            raise ScoresError(f"score: the variants have unequal numbers of items: {items}")
        n, rows = items.pop(), max(len(a) for a in arrays.values())
        values = np.full((len(arrays), rows, n), np.nan)
        for place, a in zip(values, arrays.values(), strict=True):
            place[: len(a)] = a
        codes = np.arange(n) if clusters is None else pd.factorize(np.asarray(list(clusters)))[0]
        order = np.argsort(codes, kind="stable")
        return cls._complete(list(arrays), list(range(rows)), values[..., order], codes[order])

    @classmethod
    def _complete(
        cls, variants: list[str], seeds: list[Any], values: np.ndarray, codes: np.ndarray
    ) -> Scores:
        """Apply the rules for missing scores; ``codes`` are the items' clusters, sorted."""
        if np.isinf(values).any():
            raise ScoresError("score: infinite; give a finite number, or NaN where there is none")
        notes = []
        held = (~np.isnan(values)).mean(2)
        failed = held < LEAST_SHARE
        if failed.any():
            names = ", ".join(f"{variants[t]} seed {seeds[r]}" for t, r in np.argwhere(failed))
            notes.append(f"left out, with fewer than half of the items scored: {names}")
        keep = ~np.isnan(values[~failed]).any(0)
        if failed.all() or not keep.any():
            raise ScoresError("score: no item is scored in every cell that has scores")
        if not keep.all():
            notes.append(f"{(~keep).sum()} of {keep.size} items left out: not scored in every cell")
        values = np.where(failed[..., None], np.nan, values)[..., keep]
        here, there = ~failed.all(1), ~failed.all(0)
        starts = np.flatnonzero(np.diff(codes[keep], prepend=-1))
        return cls(
            tuple(v for v, h in zip(variants, here, strict=True) if h),
            tuple(s for s, h in zip(seeds, there, strict=True) if h),
            values[here][:, there],
            starts,
            tuple(notes),
        )

    @property
    def means(self) -> np.ndarray:
        """(T, R), each cell's mean; NaN where the cell is left out."""
        return self.values.mean(2)

    @property
    def step(self) -> float:
        """The least by which two cells' means can differ; 0 if all scores are alike."""
        steps = np.diff(np.unique(self.values[~np.isnan(self.values)]))
        return float(steps.min()) / self.values.shape[2] if len(steps) else 0.0

    @property
    def paired(self) -> bool:
        """Whether any two variants share a seed; else each has seeds of its own."""
        return bool(((~np.isnan(self.means)).sum(0) > 1).any()) or len(self.variants) == 1

    def index(self, variant: str) -> int:
        """The place of a variant.

        Raises:
            ScoresError: there is none of that name.
        """
        if variant not in self.variants:
            raise ScoresError(f"variant: no {variant!r}; known: {', '.join(self.variants)}")
        return self.variants.index(variant)

    def of_seeds(self, seeds: Iterable[Any]) -> Scores:
        """The scores of some seeds, of all variants; those that are not there are left out."""
        wanted = set(seeds)
        there = [seed in wanted for seed in self.seeds]
        kept = tuple(seed for seed in self.seeds if seed in wanted)
        return replace(self, seeds=kept, values=self.values[:, there])

    def only(self, variants: Iterable[str]) -> Scores:
        """The scores of some variants, in the given order."""
        chosen = list(variants)
        values = self.values[[self.index(v) for v in chosen]]
        there = ~np.isnan(values[..., 0]).all(0)
        seeds = tuple(s for s, h in zip(self.seeds, there, strict=True) if h)
        return Scores(tuple(chosen), seeds, values[:, there], self.starts, self.notes)


def _check(frame: pd.DataFrame) -> None:
    """Raise a ScoresError for a frame that is not as ``Scores.from_frame`` describes."""
    for column in COLUMNS:
        if column not in frame:
            raise ScoresError(f"{column}: no such column; known: {', '.join(map(str, frame))}")
    for column in [c for c in (*COLUMNS[:3], "cluster") if c in frame]:
        if frame[column].isna().any():
            raise ScoresError(f"{column}: missing in {frame[column].isna().sum()} rows")
    if not pd.api.types.is_numeric_dtype(frame["score"]):
        raise ScoresError("score: not a number in every row")
    twice = frame.duplicated(list(COLUMNS[:3]))
    if twice.any():
        v, s, i = frame.loc[twice, list(COLUMNS[:3])].iloc[0]
        raise ScoresError(f"item: {i!r} is scored twice for variant {v!r}, seed {s}")


def _clusters(frame: pd.DataFrame) -> dict[Any, int]:
    """Item -> the number of its cluster."""
    if "cluster" not in frame:
        return {item: place for place, item in enumerate(frame["item"].unique())}
    pairs = frame[["item", "cluster"]].drop_duplicates()
    twice = pairs["item"].duplicated()
    if twice.any():
        raise ScoresError(f"cluster: item {pairs.loc[twice, 'item'].iloc[0]!r} is in two clusters")
    return dict(zip(pairs["item"], pd.factorize(pairs["cluster"])[0], strict=True))
