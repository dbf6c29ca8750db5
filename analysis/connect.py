"""Connecting to the store of runs; what it refuses, then or later, is one line with the remedy."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, cast

import requests
import sqlalchemy
from mlflow import MlflowClient
from mlflow.environment_variables import MLFLOW_HTTP_REQUEST_MAX_RETRIES
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE, ErrorCode
from mlflow.store.db.base_sql_model import Base
from mlflow.store.db.db_types import DATABASE_ENGINES
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from ablate.errors import LONGEST, StoreError, is_full

# A bar per file would fill a log, or a notebook.
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

_AT_HOME = re.compile(r"((?:sqlite:///|file:(?://)?)?)(~.*)", re.DOTALL)
REMEDY = "MLFLOW_TRACKING_URI names the store: a database (sqlite:///mlflow.db) or a running server"
_UNANSWERED = re.compile(r"API request to .* failed with (exception|timeout|error code 50[234])")
_REMARK = "(raised as a result of "
ARTIFACTS = "mlartifacts"
"""The folder of artifacts beside an SQLite store."""
REFUSALS = (MlflowException, SQLAlchemyError, OSError, ImportError, ValueError)
"""What MLflow, databases, their drivers, connections and folders of artifacts raise."""


def tracking_uri() -> str:
    """``MLFLOW_TRACKING_URI``, or a SQLite file in the working folder, by its absolute path.

    MLflow keeps one store per URI in a process, so that a relative one would go on pointing to the
    first folder it was used in. It is relative only in a folder whose name means something else
    in a URI (``my%20project``).
    """
    if given := os.environ.get("MLFLOW_TRACKING_URI"):
        return home_expanded(given)
    file = Path.cwd() / "mlflow.db"
    uri = f"sqlite:///{file}"
    return uri if sqlite_file(uri) == file else "sqlite:///mlflow.db"


def home_expanded(uri: str) -> str:
    """A store's address with ``~`` as the user's folder, if it is of files here."""
    local = _AT_HOME.fullmatch(uri)
    return uri if local is None else local[1] + str(Path(local[2]).expanduser())


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None of a server's, or of one that lives in memory."""
    if not uri.startswith("sqlite"):
        return None
    try:
        url = make_url(uri)
    except SQLAlchemyError:  # refused with its reason on connecting
        return None
    in_memory = url.database in (None, "", ":memory:")
    return None if in_memory or url.query else Path(str(url.database)).absolute()


def connect(uri: str) -> MlflowClient:
    """A client of the store, each of whose calls raises ``StoreError`` if the store refuses it.

    Raises:
        StoreError: the store cannot be reached, or is none.
    """
    # It would tell how it makes its tables, and of each error beside raising it.
    logging.getLogger("mlflow").setLevel(logging.CRITICAL)
    with refusals(uri), _few_tries():
        _open_database(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return cast(MlflowClient, _Told(client, uri))


@contextmanager
def refusals(uri: str, remedy: str = REMEDY, *own: type[Exception]) -> Iterator[None]:
    """Whatever a store refuses within, as a ``StoreError``.

    Args:
        uri: of the store.
        remedy: what a user can do about it.
        own: what it raises beside ``REFUSALS``.
    """
    errors: tuple[type[Exception], ...] = (*REFUSALS, *own)
    try:
        yield
    except errors as error:
        line = first_line(error)
        room = LONGEST - len(f"{uri}:  ... ; {remedy}")  # what is asked for, and why it cannot be
        if len(line) > room > 0:
            line = f"{line[: room * 3 // 4]} ... {line[-room // 4 :]}"
        raise StoreError(uri, "", f"{line}; {remedy}") from error


def first_line(error: Exception) -> str:
    """What an error says on one line, without the remark that SQLAlchemy may begin with."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.startswith(_REMARK)), repr(error))


def _open_database(uri: str) -> None:
    """Make a new SQLite store; raise at once what MLflow would try again for 100 seconds."""
    file = sqlite_file(uri)
    if file is not None and not file.exists():
        # By itself, MLflow writes the working folder's name into SQL, as it is.
        SqlAlchemyStore(uri, file.with_name(ARTIFACTS).as_uri())
        return
    if not is_database(uri):
        return
    engine = sqlalchemy.create_engine(uri)
    try:
        sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


def is_database(uri: str) -> bool:
    """Whether a store is a database, and not a server or a folder."""
    return uri.partition(":")[0].partition("+")[0] in DATABASE_ENGINES


def is_same_database(one: str, other: str) -> bool:
    """Whether two addresses are of one database, perhaps by different drivers."""
    try:
        urls = make_url(one), make_url(other)
    except SQLAlchemyError:
        return False
    first, second = ((u.get_backend_name(), u.host, u.port, u.database) for u in urls)
    return first == second


def lacks_tables(uri: str) -> bool:
    """Whether a store is a database that has not all of MLflow's tables.

    Raises:
        StoreError: it cannot be reached.
    """
    if not is_database(uri):
        return False
    with refusals(uri):
        engine = sqlalchemy.create_engine(uri)
        try:
            found = sqlalchemy.inspect(engine).get_table_names()
        finally:
            engine.dispose()
    return not set(Base.metadata.tables) <= set(found)


@contextmanager
def _few_tries() -> Iterator[None]:
    """Ask a server twice, where MLflow would ask for minutes."""
    given = MLFLOW_HTTP_REQUEST_MAX_RETRIES.is_set()
    if not given:
        MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(1)
    try:
        yield
    finally:
        if not given:
            MLFLOW_HTTP_REQUEST_MAX_RETRIES.unset()


class _Told:
    """A client whose refusals are told as ``StoreError``; see ``patient``."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self._client = client
        self._uri = uri
        self._wait: Callable[[Exception], bool] | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            while True:
                try:
                    with refusals(self._uri):
                        return method(*arguments, **options)
                except StoreError as error:
                    cause = error.__cause__
                    if self._wait is None or not isinstance(cause, Exception):
                        raise
                    if not is_away(cause) or not self._wait(cause):
                        raise

        return call


@contextmanager
def patient(client: MlflowClient, wait: Callable[[Exception], bool]) -> Iterator[None]:
    """Within, what a store cannot take because it is away is given to it again.

    Args:
        client: as ``connect`` gives it.
        wait: is given why it could not, before each further try; returns whether to make it.
    """
    told = cast(_Told, client)
    told._wait = wait
    try:
        with _few_tries():  # MLflow's own last for minutes, in which no signal would be heeded
            yield
    finally:
        told._wait = None


def is_away(error: BaseException | None) -> bool:
    """Whether a store may be back soon: a server that is silent, a database down, a disk full."""
    if isinstance(error, Exception) and is_full(error):
        return True
    if isinstance(error, MlflowException):
        passing = error.error_code == ErrorCode.Name(TEMPORARILY_UNAVAILABLE)
        return passing or _UNANSWERED.search(str(error)) is not None
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return error.response.status_code in (502, 503, 504)
    return isinstance(error, ConnectionError | OperationalError | requests.ConnectionError)
