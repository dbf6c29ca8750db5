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

from ablate.analysis.connect import tracking_uri
from ablate.analysis.held import EVALUATE, MEASURE, MEASURED, PREDICTIONS, records_file
from ablate.analysis.results import (
    OLDER,
    TEXT,
    ResultsError,
    SweepResults,
    load_sweep,
    open_store,
)

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
SPEED = "speed/"
"""Begins measurements of efficiency by older versions, which did not name the machine."""


class _Cell(NamedTuple):
    client: MlflowClient
    results: SweepResults
    place: dict[str, Any]
    row: dict[str, Any]

    @property
    def run_id(self) -> str:
        """Of the run that trained it."""
        return str(self.row["run_id"])

    def holder(self, benchmark: str) -> str:
        """Of the run that answered a benchmark."""
        held = self.results.runs[self.row["cell"]]
        return held.get(f"{EVALUATE}{benchmark}", self.run_id)

    @property
    def measured(self) -> list[tuple[str, str]]:
        """The machines that measured its efficiency, each with the id of the run that holds it."""
        held = self.results.runs[self.row["cell"]]
        if not held:  # an older version's, which kept all in one run
            return [(OLDER, self.run_id)]
        return [(s.removeprefix(MEASURE), r) for s, r in held.items() if s.startswith(MEASURE)]


class Loaded:
    """The finished cells of some sweeps, looked up once.

    Args:
        sweeps: their names.
        uris: of the stores.

    Attributes:
        sweeps: the results that they are of, one per sweep and store.

    Raises:
        ResultsError: no store, no such sweep in any of them, or no finished cell in it.
    """

    def __init__(self, sweeps: Sequence[str], uris: Sequence[str] = ()) -> None:
        self._names = sweeps
        self._cells = list(_cells(sweeps, uris))
        self.sweeps = list({id(c.results): c.results for c in self._cells}.values())

    def cells(self) -> pd.DataFrame:
        """See ``cells``."""
        rows: list[dict[str, Any]] = []
        for cell in self._cells:
            results = cell.results
            own = {key: value for key, value in cell.row.items() if is_own(key)}
            labels = {axis: cell.row[axis] for axis in results.axes}
            for score in results.scores:
                benchmark, _, metric = score.rpartition("/")
                chance = results.chance(score)
                found = {"benchmark": benchmark, "metric": metric, "score": cell.row.get(score)}
                guess = float("nan") if chance is None else chance
                known = {"chance": guess, "run_id": cell.run_id}
                rows.append(cell.place | found | known | labels | own)
        return pd.DataFrame(rows)

    def items(self, texts: bool = False) -> pd.DataFrame:
        """See ``items``."""
        found = []
        for cell in self._cells:
            for benchmark, file in _predictions(cell):
                records = read_records(file, texts)
                for column, value in reversed([*cell.place.items(), ("benchmark", benchmark)]):
                    records.insert(0, column, value)
                found.append(records)
        if not found:
            raise ResultsError(f"no predictions are kept of {', '.join(self._names)}")
        return pd.concat(found, ignore_index=True)

    def speeds(self) -> pd.DataFrame:
        """See ``speeds``."""
        rows = []
        for cell in self._cells:
            for machine, run_id in cell.measured:
                run = cell.client.get_run(run_id)
                for name in run.data.metrics:
                    found = measured(run.data.tags.get(TEXT + name, name))
                    if found is None or found[0] != machine:
                        continue
                    said = {"machine": machine, "metric": found[1]}
                    for point in cell.client.get_metric_history(run_id, name):
                        session = f"{run_id}/{point.step}"  # each repeat is a process of its own
                        rows.append(cell.place | said | {"value": point.value, "session": session})
        return pd.DataFrame(rows, columns=[*PLACE, "machine", "metric", "value", "session"])

    def parameters(self) -> pd.DataFrame:
        """See ``parameters``."""
        runs = [(cell.place, cell.client.get_run(cell.run_id)) for cell in self._cells]
        return pd.DataFrame([place | dict(run.data.params) for place, run in runs])

    def curves(self, metric: str = "train/loss") -> pd.DataFrame:
        """See ``curves``."""
        rows = [
            cell.place | {"step": point.step, "value": point.value}
            for cell in self._cells
            for point in cell.client.get_metric_history(cell.run_id, metric)
        ]
        return pd.DataFrame(rows, columns=[*PLACE, "step", "value"])


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
    return Loaded(sweeps, uris).cells()


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
    return Loaded(sweeps, uris).items(texts)


def speeds(*sweeps: str, uris: Sequence[str] = ()) -> pd.DataFrame:
    """A row per measurement of efficiency, repeats one by one where the store has them.

    Returns:
        Columns ``store``, ``sweep``, ``variant``, ``seed``, ``machine``, ``metric``, ``value`` and
        ``session``: what was measured in one process. Empty if nothing was measured.
    """
    return Loaded(sweeps, uris).speeds()


def parameters(*sweeps: str, uris: Sequence[str] = ()) -> pd.DataFrame:
    """A row per finished cell: its place and its config as flat parameters (``connector``)."""
    return Loaded(sweeps, uris).parameters()


def curves(*sweeps: str, uris: Sequence[str] = (), metric: str = "train/loss") -> pd.DataFrame:
    """A row per finished cell and logged step of its training.

    Returns:
        Columns ``store``, ``sweep``, ``variant``, ``seed``, ``step`` and ``value``; empty if the
        metric was not logged.
    """
    return Loaded(sweeps, uris).curves(metric)


def measured(name: str) -> tuple[str, str] | None:
    """Machine and metric of a metric of efficiency; None of any other."""
    if name.startswith(SPEED):
        return OLDER, name.removeprefix(SPEED)
    machine, _, metric = name.removeprefix(MEASURED).rpartition("/")
    return (machine, metric) if name.startswith(MEASURED) and machine else None


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
            path, run_id = f"{PREDICTIONS}/{records_file(benchmark)}", cell.holder(benchmark)
            if path in {each.path for each in cell.client.list_artifacts(run_id, PREDICTIONS)}:
                yield benchmark, Path(cell.client.download_artifacts(run_id, path, folder))
