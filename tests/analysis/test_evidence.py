"""Results from the store, and predictions that were made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.analysis.conclusions import conclude
from ablate.analysis.evidence import Evidence, from_folder, from_store
from ablate.analysis.results import ResultsError
from tests.analysis.planted import drawn, plant, records


def write_files(folder: Path, scores: dict[str, np.ndarray], pattern: str) -> None:
    """A file per variant and seed, named as the pattern says."""
    for variant, held in scores.items():
        for seed, values in enumerate(held):
            path = folder / pattern.format(variant=variant, seed=seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [{k: r[k] for k in ("id", "image_id", "score")} for r in records(values)]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def differences(evidence: Evidence) -> list[tuple[Any, ...]]:
    (first, *_) = conclude(evidence).conclusions
    return [(c.variant, c.difference, c.low, c.high, c.verdict) for c in first.comparisons]


def test_files_of_predictions_get_the_same_analysis_as_a_sweep(tmp_path: Path) -> None:
    scores = drawn({"mlp": 0.6, "blind": 0.3, "msc": 0.7})
    uri = f"sqlite:///{tmp_path}/s.db"
    plant(uri, "s", {"easy-vqa": scores}, encoders={"blind": "blind"})
    stored = from_store(uri, "s")
    assert stored.apart == ("blind",)
    assert stored.variants == ["mlp", "blind", "msc"]
    expected = sorted(differences(stored))
    for number, pattern in enumerate(
        ["easy-vqa/{variant}/{seed}.jsonl", "{variant}-s{seed}.jsonl", "{variant}/{seed}.jsonl"]
    ):
        folder = tmp_path / f"files{number}" / "easy-vqa"
        write_files(folder, scores, pattern)
        read = from_folder(folder)
        assert read.benchmarks == ["easy-vqa"]
        assert read.apart == ("blind",)
        found = sorted(differences(read))
        base = conclude(read).base
        if base == "mlp":
            assert found == [
                (v, pytest.approx(d), pytest.approx(lo), pytest.approx(hi), verdict)
                for v, d, lo, hi, verdict in expected
            ]
        assert base == "mlp"


def test_a_row_may_name_itself_and_lack_a_score(tmp_path: Path) -> None:
    rows = [
        {"item": 7, "score": 1, "variant": "a b", "seed": 3, "benchmark": "x", "image": 4},
        {"item": 8, "score": None, "variant": "a b", "seed": 3, "benchmark": "x", "image": 4},
    ]
    (tmp_path / "all.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = from_folder(tmp_path).items
    assert items[["variant", "seed", "benchmark", "item", "image"]].to_numpy().tolist() == [
        ["a b", "3", "x", "7", "4"],
        ["a b", "3", "x", "8", "4"],
    ]
    assert items["score"].isna().to_list() == [False, True]


GOOD = {"item": "1", "score": 1.0}
MISTAKES: dict[str, tuple[str, Any, str]] = {
    "no file": ("a/0.txt", GOOD, "no .jsonl file in "),
    "no JSON": ("a/0.jsonl", "{", "0.jsonl, line 1: not valid JSON"),
    "no object": ("a/0.jsonl", [GOOD], "line 1: is not an object"),
    "no item": ("a/0.jsonl", {"score": 1}, "line 1: has no 'item' or 'id'"),
    "no score": ("a/0.jsonl", {"item": "1"}, "line 1: has no 'score'"),
    "text for a score": ("a/0.jsonl", {**GOOD, "score": "1"}, "score is no finite number but '1'"),
    "an infinite score": ("a/0.jsonl", '{"item": "1", "score": Infinity}', "no finite number"),
    "an item that is none": ("a/0.jsonl", {**GOOD, "item": [1]}, "item is neither text nor"),
    "no variant": ("0.jsonl", GOOD, "has no 'variant', and the file is not called"),
    "twice": ("a/0.jsonl", f"{json.dumps(GOOD)}\n{json.dumps(GOOD)}", "item '1' of .* twice for"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_in_files_name_the_line(mistake: str, tmp_path: Path) -> None:
    name, content, message = MISTAKES[mistake]
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ResultsError, match=message):
        from_folder(tmp_path)
