"""Results as tidy frames, for a notebook and for all that is concluded.

    from ablate.analysis.frames import cells, items
    frame = items("connector", "encoder")
    frame.groupby(["benchmark", "variant"])["score"].mean()

Every function takes any number of sweeps by name, and any number of stores by tracking URI (without
any, the one that the command line would use here).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Run

from ablate.analysis.connect import tracking_uri
from ablate.analysis.held import EVALUATE, MEASURE, MEASURED
from ablate.analysis.results import OLDER, TEXT, ResultsError, SweepResults, load_sweep, open_store

PLACE = ["store", "sweep", "variant", "seed"]
RECORDED = {
    "id": "item",
    "image_id": "image",
    "category": "category",
    "score": "score",
    "log_probability": "log_probability",
    "tokens": "tokens",
}
"""A record's key -> its column."""
TEXTS = ("question", "answer", "answers", "prediction")
PREDICTIONS = "predictions"
SPEED = "speed/"
"""Begins measurements of efficiency of older versions, without the machine's name."""


class _Cell(NamedTuple):
    client: MlflowClient
    results: SweepResults
    place: dict[str, Any]
    row: dict[str, Any]

    @property
    def run_id(self) -> str:
        return str(self.row["run_id"])

    @property
    def holders(self) -> dict[str, str]:
        """Step -> the run that holds it, of steps that not all are the cell's own run's."""
        return self.results.holders.get(str(self.row["cell"]), {})


def cells(*sweeps: str, uris: Sequence[str] = ()) -> pd.DataFrame:
    """A row per finished cell and benchmark.

    Returns:
        Columns ``store``, ``sweep``, ``variant``, ``seed``, ``benchmark``, ``metric`` (what its
        headline score is called), ``score``, ``chance`` (the score of guesses; NaN if unknown),
        ``run_id``, a column for each axis, and the cell's own metrics (``parameters/total``,
        ``train/flops``, ``seconds/train``, ...).

    Raises:
        ResultsError: no store, no such sweep in any of them, or no finished cell in it.
    """
    rows: list[dict[str, Any]] = []
    for cell in _cells(sweeps, uris):
        results = cell.results
        own = {key: value for key, value in cell.row.items() if is_own(key)}
        labels = {axis: cell.row[axis] for axis in results.axes}
        for score in results.scores:
            benchmark, _, metric = score.rpartition("/")
            chance = results.chance(score)
            found = {"benchmark": benchmark, "metric": metric, "score": cell.row.get(score)}
            known = {"chance": float("nan") if chance is None else chance, "run_id": cell.run_id}
            rows.append(cell.place | found | known | labels | own)
    return pd.DataFrame(rows)


def items(*sweeps: str, uris: Sequence[str] = (), texts: bool = False) -> pd.DataFrame:
    """A row per finished cell, benchmark and item.

    Args:
        sweeps: their names.
        uris: of the stores.
        texts: with questions, references and answers, too.

    Returns:
        Columns ``store``, ``sweep``, ``variant``, ``seed``, ``benchmark``, ``item``, ``image``
        (what the items about one image share), ``category``, ``score``, ``log_probability`` (of the
        right answer) and ``tokens`` (how many it is the sum of); NaN where older records have none.

    Raises:
        ResultsError: as ``cells``, or no cell has kept its predictions.
    """
    found = []
    for cell in _cells(sweeps, uris):
        for benchmark, file in _predictions(cell):
            records = read_records(file, texts)
            for column, value in reversed([*cell.place.items(), ("benchmark", benchmark)]):
                records.insert(0, column, value)
            found.append(records)
    if not found:
        raise ResultsError(f"no predictions are kept of {', '.join(sweeps)}")
    return pd.concat(found, ignore_index=True)


def speeds(*sweeps: str, uris: Sequence[str] = ()) -> pd.DataFrame:
    """A row per measurement of efficiency, repeats one by one where the store has them.

    Returns:
        Columns ``store``, ``sweep``, ``variant``, ``seed``, ``machine``, ``metric``, ``value`` and
        ``session``: what was measured in one process. Empty if nothing was measured.
    """
    rows = []
    for cell in _cells(sweeps, uris):
        measurements = {
            s.removeprefix(MEASURE): i for s, i in cell.holders.items() if s.startswith(MEASURE)
        }
        for machine, run_id in (measurements or {OLDER: cell.run_id}).items():
            run = cell.client.get_run(run_id)
            said = cell.place | {"machine": machine, "session": run_id}
            for name in run.data.metrics:
                if (parts := measured(run.data.tags.get(TEXT + name, name))) is None:
                    continue
                where, metric = parts
                if where == machine:
                    history = cell.client.get_metric_history(run_id, name)
                    rows += [said | {"metric": metric, "value": each.value} for each in history]
    return pd.DataFrame(rows, columns=[*PLACE, "machine", "metric", "value", "session"])


def measured(name: str) -> tuple[str, str] | None:
    """Machine and metric of a metric of efficiency; None of any other."""
    if name.startswith(SPEED):
        return OLDER, name.removeprefix(SPEED)
    machine, _, metric = name.removeprefix(MEASURED).rpartition("/")
    return (machine, metric) if name.startswith(MEASURED) and machine else None


def parameters(*sweeps: str, uris: Sequence[str] = ()) -> pd.DataFrame:
    """A row per finished cell: its place and its config as flat parameters (``connector``)."""
    found = []
    for cell in _cells(sweeps, uris):
        run: Run = cell.client.get_run(cell.run_id)
        found.append(cell.place | dict(run.data.params))
    return pd.DataFrame(found)


def is_own(metric: str) -> bool:
    """Whether a column of a sweep's frame is a cell's own number and no benchmark's."""
    return metric.startswith(("parameters/", "train/", "seconds/", "data/"))


def read_records(file: Path, texts: bool = False) -> pd.DataFrame:
    """A benchmark's records with the columns of ``items``; what older ones lack is NaN."""
    import pyarrow.parquet

    there = pyarrow.parquet.read_schema(file).names
    wanted = [*RECORDED, *(TEXTS if texts else ())]
    records = pd.read_parquet(file, columns=[key for key in wanted if key in there])
    records = records.rename(columns=RECORDED)
    return records.reindex(columns=[RECORDED.get(key, key) for key in wanted])


def file_name(benchmark: str) -> str:
    """What a cell calls the file of a benchmark's records (``package.module:Class``)."""
    return f"{benchmark.replace(':', '.')}.parquet"


def _cells(sweeps: Sequence[str], uris: Sequence[str]) -> Iterator[_Cell]:
    """The finished cells of each sweep in each store that has it.

    Raises:
        ResultsError: a sweep is in no store, or has no finished cell.
    """
    stores = list(uris) or [tracking_uri()]
    for sweep in sweeps:
        refusals, found = [], 0
        for uri in stores:
            try:
                results = load_sweep(uri, sweep)
            except ResultsError as error:
                refusals.append(error)
                continue
            client = open_store(uri)
            mlflow.set_tracking_uri(uri)
            rows: Any = results.frame.to_dict("records")
            for row in rows:
                found += 1
                yield _Cell(client, results, _place(uri, results, row), row)
        if not found:
            raise refusals[0]


def _place(uri: str, results: SweepResults, row: dict[str, Any]) -> dict[str, Any]:
    variant = str(row["cell"]).removesuffix(f"-s{row['seed']}")
    return {"store": uri, "sweep": results.name, "variant": variant, "seed": row["seed"]}


def _predictions(cell: _Cell) -> Iterator[tuple[str, Path]]:
    """The benchmarks of a cell whose records are kept, with the file of each."""
    benchmarks = dict.fromkeys(score.rpartition("/")[0] for score in cell.results.scores)
    with tempfile.TemporaryDirectory() as folder:
        for benchmark in benchmarks:
            run_id = cell.holders.get(f"{EVALUATE}{benchmark}", cell.run_id)
            kept = {each.path for each in cell.client.list_artifacts(run_id, PREDICTIONS)}
            path = f"{PREDICTIONS}/{file_name(benchmark)}"
            if path in kept:
                yield benchmark, Path(cell.client.download_artifacts(run_id, path, folder))
