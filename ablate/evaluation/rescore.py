"""Scores of a file of predictions, apart from the model that made them.

A cell logs its predictions as records, see ``ablate.data.benchmarks.base``. The same rows may come
as JSON lines or as a JSON list. So may the result files that the official evaluations take,
``[{"question_id": ..., "answer": ...}]`` or, of POPE, ``{"question": ..., "answer": ...}`` in the
order of one setting's questions: those are completed from the official annotations, see `ablate
data check`.
"""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablate.components.registry import UnknownComponentError, arguments, nearest
from ablate.config.benchmarks import definition_file
from ablate.config.compose import read_definition
from ablate.config.registries import benchmark_named
from ablate.config.shipped import shipped_benchmarks
from ablate.data.benchmarks import BENCHMARKS
from ablate.data.benchmarks.annotations import Item, OfficialBenchmark
from ablate.data.benchmarks.base import Benchmark, ItemRecord
from ablate.data.json_lines import parse_json_lines
from ablate.errors import ConfigError

ID_KEYS = ("id", "question_id", "questionId", "image")
PREDICTION_KEYS = ("prediction", "answer")
ITEM_KEYS = ("id", "prediction", "answer", "answers", "category")
MEASURED_KEYS = ("choice_probabilities", "score")


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
    for number, row in enumerate(rows):
        _check_probabilities(file, number, row, benchmark)
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
    known = [*BENCHMARKS.names(), *shipped_benchmarks()]
    if name is None and file.stem not in known:
        message = f"no benchmark is called {file.stem!r}: name it with --benchmark"
        raise ConfigError(str(file), "", f"{message}; {nearest(file.stem, known)}")
    if name is not None and file.stem in known and file.stem != name:
        message = f"the file holds predictions of {file.stem!r}, as its name says"
        raise ConfigError("score", "--benchmark", message)
    try:
        return _scorer(name or file.stem)
    except (UnknownComponentError, TypeError) as error:
        raise ConfigError("score", "--benchmark", str(error)) from error


def _scorer(name: str) -> Benchmark:
    """A benchmark by name, or by the file that defines it; raises as ``benchmark_named``."""
    if definition_file(name) is None:
        return benchmark_named(name)
    cls, args = read_definition(name, {})
    # Where its questions are, which a shipped one lacks, is not asked: they are in the records.
    lacking = {k: "" for k, v in arguments(BENCHMARKS.get(cls)).items() if v.default is v.empty}
    return benchmark_named(cls, **{**lacking, **args})


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
        message = "must hold a list of objects, or lines of them, one for each prediction"
        raise ConfigError(str(file), "", message)
    if not rows:
        raise ConfigError(str(file), "", "holds no prediction")
    return rows


def _parse(file: Path) -> Any:
    match file.suffix:
        case ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(file).to_pylist()
        case ".json" | ".jsonl":  # POPE calls its lines .json
            content = file.read_bytes().removeprefix(BOM_UTF8)
            if content.lstrip().startswith(b"["):
                return json.loads(content)
            return [row for _, row in parse_json_lines(content)]
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
    return dict(row)


def _check_probabilities(
    file: Path, number: int, row: dict[str, Any], benchmark: Benchmark
) -> None:
    """Check the probabilities of a row's choices, if it has them.

    Raises:
        ConfigError: they are none, or the benchmark has no choices.
    """
    chances = row.get("choice_probabilities")
    if chances is None:
        return
    place = f"row {number}"
    if isinstance(chances, dict):  # a table of questions with fewer options has empty places
        chances = row["choice_probabilities"] = {k: v for k, v in chances.items() if v is not None}
    if not isinstance(chances, dict) or not all(map(_is_probability, chances.values())):
        raise ConfigError(str(file), place, f"choice_probabilities are {chances!r}")
    if benchmark.choices is None and not benchmark.by_likelihood:
        message = "choice_probabilities do not score this benchmark; are they of another one?"
        raise ConfigError(str(file), place, message)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and 0 <= value <= 1


def _completed(
    file: Path, rows: Sequence[dict[str, Any]], benchmark: Benchmark, cache: Path
) -> list[ItemRecord]:
    """Rows of an official result file with their items.

    Raises:
        ConfigError: the benchmark has no official files, these are not there, or the rows are not
            answers to its items, each once.
    """
    if not isinstance(benchmark, OfficialBenchmark):
        lacking = next(key for key in ITEM_KEYS if any(key not in row for row in rows))
        message = f"a row has no {lacking!r}, and this benchmark has no official files to tell it"
        raise ConfigError(str(file), "", message)
    try:
        items = benchmark.items(cache)
    except (ValueError, OSError) as error:
        raise ConfigError(str(file), "", f"rows without references, and {error}") from error
    ordered = benchmark.answers_in_order and not any(key in row for row in rows for key in ID_KEYS)
    match = _in_order if ordered else _by_id
    return [
        {
            "id": item.id,
            "prediction": _text(file, number, row),
            "answer": item.answer,
            "answers": list(item.answers) or [item.answer],
            "category": item.category,
            **{key: row[key] for key in MEASURED_KEYS if key in row},
        }
        for number, (row, item) in enumerate(
            zip(rows, match(file, rows, benchmark.name, items), strict=True)
        )
    ]


def _by_id(
    file: Path, rows: Sequence[dict[str, Any]], name: str, items: Sequence[Item]
) -> list[Item]:
    """The items that rows answer, by their ids.

    Raises:
        ConfigError: a row has no id or that of no item, or an item has no row.
    """
    by_id = {item.id: item for item in items}
    found = []
    for number, row in enumerate(rows):
        item_id = next((row[key] for key in ID_KEYS if key in row), None)
        if not isinstance(item_id, str | int):
            raise ConfigError(str(file), f"row {number}", f"has no id ({', '.join(ID_KEYS)})")
        item_id = Path(str(item_id)).stem if "image" in row else str(item_id)
        if item_id not in by_id:
            raise ConfigError(str(file), f"row {number}", f"{name} has no item {item_id!r}")
        found.append(by_id[item_id])
    missing = by_id.keys() - {item.id for item in found}
    if missing:
        message = f"{len(missing)} of {len(items)} items have no prediction, {min(missing)!r} first"
        raise ConfigError(str(file), "", message)
    return found


def _in_order(
    file: Path, rows: Sequence[dict[str, Any]], name: str, items: Sequence[Item]
) -> list[Item]:
    """The items that rows without ids answer: all of one category, in the official order.

    Raises:
        ConfigError: a row has no question, or the questions are not those of one category.
    """
    for number, row in enumerate(rows):
        if not isinstance(row.get("question"), str):
            message = f"has neither an id ({', '.join(ID_KEYS)}) nor a question"
            raise ConfigError(str(file), f"row {number}", message)
    categories: dict[str, list[Item]] = {}
    for item in items:
        categories.setdefault(item.category, []).append(item)
    same_length = {c: group for c, group in categories.items() if len(group) == len(rows)}
    if not same_length:
        sizes = ", ".join(f"{len(group)} of {c}" for c, group in categories.items())
        message = f"{len(rows)} answers without ids; {name} has questions in order: {sizes}"
        raise ConfigError(str(file), "", message)
    others = {c: _first_other(rows, group) for c, group in same_length.items()}
    fitting = [c for c, other in others.items() if other == len(rows)]
    if len(fitting) > 1:
        message = f"answers without ids, and {' and '.join(fitting)} ask the same: give ids"
        raise ConfigError(str(file), "", message)
    if not fitting:
        closest, number = max(others.items(), key=lambda other: other[1])
        official = _asked(same_length[closest][number])
        message = f"asks {rows[number]['question']!r}, and {closest} has {official!r} there"
        raise ConfigError(str(file), f"row {number}", message)
    return categories[fitting[0]]


def _first_other(rows: Sequence[dict[str, Any]], items: Sequence[Item]) -> int:
    """The number of the first row that asks something else than its item; of none, their count."""
    pairs = enumerate(zip(rows, items, strict=True))
    unlike = (n for n, (row, item) in pairs if _asked(item).lower() not in row["question"].lower())
    return next(unlike, len(rows))


def _asked(item: Item) -> str:
    """The official question, without what a prompt adds in lines of its own."""
    return item.question.partition("\n")[0]


def _text(file: Path, number: int, row: dict[str, Any]) -> str:
    """The prediction of a row of a result file.

    Raises:
        ConfigError: it has none.
    """
    prediction = next((row[key] for key in PREDICTION_KEYS if key in row), None)
    if not isinstance(prediction, str):
        raise ConfigError(str(file), f"row {number}", f"has no text ({', '.join(PREDICTION_KEYS)})")
    return prediction
