"""Scores of a file of predictions, apart from the model that made them.

A cell logs its predictions as the artifact ``predictions/BENCHMARK.parquet``, a row an item:

- ``id``, ``question``, ``answer``, ``answers`` (all references), ``category``: the item;
- ``prediction``: the generated text;
- ``choice_probabilities``: choice -> probability, where the benchmark has choices;
- ``score``: from 0 to 1, as the cell scored it.

The same rows may come as JSON lines or as a JSON list. So may the result files that the official
evaluations take, ``[{"question_id": ..., "answer": ...}]``: those are completed from the official
annotations, see `ablate data check`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.components.registry import UnknownComponentError, nearest
from ablate.config.registries import benchmark_named
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.benchmarks.annotations import OfficialBenchmark
from ablate.data.benchmarks.base import Benchmark, ItemRecord
from ablate.errors import ConfigError

ID_KEYS = ("id", "question_id", "questionId", "image")
PREDICTION_KEYS = ("prediction", "answer")
ITEM_KEYS = ("id", "prediction", "answer", "answers", "category")


def rescore(file: Path, benchmark: str | None, cache: Path) -> list[str]:
    """The lines to print for a file of predictions.

    Args:
        file: ``.parquet``, ``.jsonl`` or ``.json``.
        benchmark: its name; by default what the file is called.
        cache: the data folder, for official annotations.

    Raises:
        ConfigError: what the file says cannot be scored; names the row.
    """
    scorer = benchmark_of(file, benchmark)
    records = score_all(file, scorer, cache)
    lines = [f"{len(records)} predictions"]
    changed = [r["id"] for r in records if r["score"] != r.get("recorded", r["score"])]
    if changed:
        lines.append(f"{len(changed)} of them score otherwise than recorded, first {changed[0]}")
    figures = scorer.summarise(records)
    width = max(len(name) for name in figures)
    return lines + [f"{name:<{width}}  {value:.6f}" for name, value in figures.items()]


def score_all(file: Path, benchmark: Benchmark, cache: Path) -> list[ItemRecord]:
    """The records of a file with new scores; the old ones, if it has them, as ``recorded``.

    Raises:
        ConfigError: as ``rescore``.
    """
    rows = read_rows(file)
    if all(key in row for row in rows for key in ITEM_KEYS):
        records = [_checked(file, number, row) for number, row in enumerate(rows)]
    else:
        records = _completed(file, rows, benchmark, cache)
    (most, count), *_ = Counter(r["id"] for r in records).most_common(1)
    if count > 1:
        raise ConfigError(str(file), most, f"{count} predictions for the same item")
    for record in records:
        if "score" in record:
            record["recorded"] = record.pop("score")
        try:
            record["score"] = benchmark.score(record["prediction"], record)
        except ValueError as error:
            message = f"{error}; are these predictions of another benchmark?"
            raise ConfigError(str(file), record["id"], message) from error
    return records


def benchmark_of(file: Path, name: str | None) -> Benchmark:
    """The benchmark of a name, or of the file's.

    Raises:
        ConfigError: there is none, or the file is named after another one.
    """
    known = BENCHMARKS.names()
    if name is None and file.stem not in known:
        message = f"no benchmark is called {file.stem!r}: name it with --benchmark"
        raise ConfigError(str(file), "", f"{message}; {nearest(file.stem, known)}")
    if name is not None and file.stem in known and file.stem != name:
        message = f"the file holds predictions of {file.stem!r}, as its name says"
        raise ConfigError("score", "--benchmark", message)
    try:
        return benchmark_named(name or file.stem)
    except (UnknownComponentError, TypeError) as error:
        raise ConfigError("score", "--benchmark", str(error)) from error


def read_rows(file: Path) -> list[dict[str, Any]]:
    """The rows of a file, as they are.

    Raises:
        ConfigError: it is not there, cannot be read, or holds no rows.
    """
    try:
        rows = _parse(file)
    except (ValueError, OSError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(str(file), "", f"cannot be read: {reason}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(str(file), "", "must hold a list of objects, one a prediction")
    if not rows:
        raise ConfigError(str(file), "", "holds no prediction")
    return rows


def _parse(file: Path) -> Any:
    match file.suffix:
        case ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        case ".jsonl":
            lines = file.read_text("utf-8-sig").splitlines()
            return [json.loads(line) for line in lines if line.strip()]
        case ".json":
            return json.loads(file.read_text("utf-8-sig"))
    raise ValueError(f"predictions are .parquet, .jsonl or .json, not {file.suffix!r}")


def _checked(file: Path, number: int, row: dict[str, Any]) -> ItemRecord:
    """A row that is a record already.

    Raises:
        ConfigError: a field of another type than it should be.
    """
    place = f"row {number} ({row['id']!r})"
    for key in ("id", "prediction", "answer", "category"):
        if not isinstance(row[key], str):
            raise ConfigError(str(file), place, f"{key} is no text but {row[key]!r}")
    answers = row["answers"]
    if not isinstance(answers, list) or not all(isinstance(a, str) for a in answers):
        raise ConfigError(str(file), place, f"answers are no texts but {answers!r}")
    chances = row.get("choice_probabilities")
    if chances is not None and not _are_probabilities(chances):
        raise ConfigError(str(file), place, f"choice_probabilities are {chances!r}")
    return dict(row)


def _are_probabilities(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(p, int | float) and math.isfinite(p) for p in values.values()
    )


def _completed(
    file: Path, rows: Sequence[dict[str, Any]], benchmark: Benchmark, cache: Path
) -> list[ItemRecord]:
    """Rows of an official result file with their items, every item of the benchmark once.

    Raises:
        ConfigError: the benchmark has no official files, these are not there, an id is none of
            theirs, or an item has no prediction.
    """
    if not isinstance(benchmark, OfficialBenchmark):
        lacking = next(key for key in ITEM_KEYS if any(key not in row for row in rows))
        message = f"a row has no {lacking!r}, and this benchmark has no official files to tell it"
        raise ConfigError(str(file), "", message)
    try:
        items = {item.id: item for item in benchmark.items(cache)}
    except (ValueError, OSError) as error:
        raise ConfigError(str(file), "", f"rows without references, and {error}") from error
    records = []
    for number, row in enumerate(rows):
        item_id, prediction = _result(file, number, row)
        if item_id not in items:
            message = f"{benchmark.name} has no item {item_id!r}"
            raise ConfigError(str(file), f"row {number}", message)
        item = items[item_id]
        answers = list(item.answers) or [item.answer]
        about = {"answer": item.answer, "answers": answers, "category": item.category}
        records.append({"id": item_id, "prediction": prediction, **about})
    missing = items.keys() - {record["id"] for record in records}
    if missing:
        message = f"{len(missing)} of {len(items)} items have no prediction, {min(missing)!r} first"
        raise ConfigError(str(file), "", message)
    return records


def _result(file: Path, number: int, row: dict[str, Any]) -> tuple[str, str]:
    """Id and prediction of a row of a result file.

    Raises:
        ConfigError: it has none.
    """
    item_id = next((row[key] for key in ID_KEYS if key in row), None)
    prediction = next((row[key] for key in PREDICTION_KEYS if key in row), None)
    if not isinstance(item_id, str | int) or not isinstance(prediction, str):
        message = f"has no id ({', '.join(ID_KEYS)}) or no text ({', '.join(PREDICTION_KEYS)})"
        raise ConfigError(str(file), f"row {number}", message)
    return (Path(str(item_id)).stem if "image" in row else str(item_id)), prediction
