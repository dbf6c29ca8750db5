"""Claims: each step has one owner, the dead lose theirs, and all may be deleted at any moment."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sql
from mlflow import MlflowClient

from ablate.analysis.connect import lacks_tables
from ablate.tracking.claims import CLAIMS, TABLE, Claims, claims_url
from ablate.tracking.provenance import this_process
from ablate.tracking.store import SILENT_SECONDS, Tracker
from tests.tracking.postgres import postgres
from tests.tracking.test_beats import elsewhere


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("claims")
    if request.param == "sqlite":
        yield f"sqlite:///{folder / 'claims.db'}"
        return
    with postgres() as server:
        yield server.url


@pytest.fixture(autouse=True)
def empty(url: str) -> None:
    Claims(url).claim([])
    engine = sql.create_engine(url)
    TABLE.metadata.drop_all(engine)
    engine.dispose()


def dead() -> str:
    """A process of this machine that is gone."""
    place, _, started = json.loads(this_process())
    return json.dumps([place, 2**22 + 1, started])


def change(url: str, statement: sql.Executable) -> None:
    engine = sql.create_engine(url)
    with engine.begin() as connection:
        connection.execute(statement)
    engine.dispose()


def silence(url: str, step: str) -> None:
    """As if who has claimed the step had not been heard of for too long."""
    late = sql.update(TABLE).where(TABLE.c.step == step)
    change(url, late.values(beat=TABLE.c.beat - SILENT_SECONDS - 5))


def test_a_step_has_one_owner(url: str) -> None:
    one, other = Claims(url, owner=elsewhere()), Claims(url)
    assert one.claim(["a", "b"])
    assert one.claim(["a", "b"])  # it has them
    assert not other.claim(["b", "c"])
    assert other.claim(["c"])  # nothing is kept of what could not be had whole
    one.release(["a", "b", "unknown"])
    assert other.claim(["b", "a"])
    assert other.owners() == dict.fromkeys("abc", this_process())


def test_the_dead_are_inherited_from_at_once(url: str) -> None:
    assert Claims(url, owner=dead()).claim(["a"])
    assert Claims(url).owners() == {}
    assert Claims(url).claim(["a"])


def test_who_is_silent_is_inherited_from_and_gives_up(url: str) -> None:
    away, here = Claims(url, owner=elsewhere()), Claims(url)
    assert away.claim(["a", "b"])
    assert not here.claim(["a"])
    silence(url, "a")
    assert here.claim(["a"])
    assert away.keep() == {"a"}
    assert away.mine == {"b"}
    away.release(["a"])  # of another by now
    assert here.keep() == set()


def test_a_beat_keeps_claims(url: str) -> None:
    away = Claims(url, owner=elsewhere())
    assert away.claim(["a"])
    silence(url, "a")
    assert away.keep() == set()
    assert not Claims(url).claim(["a"])


def test_claims_may_be_deleted(url: str) -> None:
    one, other = Claims(url, owner=elsewhere()), Claims(url)
    assert one.claim(["a", "b"])
    change(url, sql.delete(TABLE))
    assert other.claim(["a"])
    assert one.keep() == {"a"}
    engine = sql.create_engine(url)
    TABLE.metadata.drop_all(engine)
    engine.dispose()
    assert one.keep() == set()
    assert other.claim(["c"])


def test_claims_of_the_dead_are_cleared(url: str) -> None:
    away, gone, here = (Claims(url, owner=each) for each in (elsewhere(), dead(), None))
    assert away.claim(["a"])
    assert gone.claim(["b"])
    silence(url, "b")
    assert here.claim(["c"])
    here.clear()
    engine = sql.create_engine(url)
    with engine.connect() as connection:
        assert {row.step for row in connection.execute(sql.select(TABLE))} == {"a", "c"}
    engine.dispose()


def test_who_begins_at_once_shares(url: str) -> None:
    """The table is not there yet."""
    steps = [f"step {number}" for number in range(24)]
    begin = threading.Barrier(4)

    def claim_each(number: int) -> list[str]:
        claims = Claims(url, owner=elsewhere().replace("[1]", f"[{number}]"))
        begin.wait()
        return [step for step in steps if claims.claim([step])]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(claim_each, range(4)))
    assert Counter(step for each in found for step in each) == Counter(steps)


def test_mlflow_does_not_mind_the_table(url: str) -> None:
    Tracker(url)
    assert Claims(url).claim(["a"])
    assert MlflowClient(url).search_experiments()


def test_where_claims_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CLAIMS, raising=False)
    assert claims_url("sqlite:////x/mlflow.db", tmp_path) == "sqlite:////x/mlflow.db"
    assert claims_url("postgresql://host/x", tmp_path) == "postgresql://host/x"
    shared = f"sqlite:///{tmp_path / 'claims.db'}"
    for uri in ("http://host:5000", "file:/x", "sqlite:///:memory:"):
        assert claims_url(uri, tmp_path) == shared
    monkeypatch.setenv(CLAIMS, "postgresql://claims/x")
    assert claims_url("http://host:5000", tmp_path) == "postgresql://claims/x"


def test_who_begins_at_once_makes_one_store(url: str, tmp_path: Path) -> None:
    if url.startswith("sqlite"):
        fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    else:
        fresh = f"{url.rpartition('/')[0]}/fresh"
        engine = sql.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(sql.text("CREATE DATABASE fresh"))
        engine.dispose()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: Tracker(fresh).experiment("one"), range(4)))
    assert len(set(made)) == 1
    assert not lacks_tables(fresh)
