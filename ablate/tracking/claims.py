"""Who does which step now: so that any number of processes, on any hosts, share a sweep.

One table (step, owner, beat) in the tracking store's database, and not Optuna's RDBStorage: there a
claim is a trial of a study, which keeps results, states and retries of its own beside MLflow's.

Claims are disposable. MLflow alone says what is done: who has claimed a step asks there before it
begins. Deleting all claims at any moment costs at most that a step which is running is begun once
more elsewhere, and the process whose claim is gone by then gives it up.

Times are the database's, so that the clocks of hosts need not agree.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import IntegrityError, OperationalError, ProgrammingError

from ablate.analysis.connect import home_expanded, is_database, refusals, sqlite_file
from ablate.config.identity import digest
from ablate.tracking.provenance import SILENT_SECONDS, is_dead, this_process

CLAIMS = "ABLATE_CLAIMS"
REMEDY = f"{CLAIMS} names a database that all processes of a sweep reach (sqlite:///claims.db)"
FILE = "claims.db"

Found = TypeVar("Found")

TABLE = sql.Table(
    "ablate_claims",
    sql.MetaData(),
    sql.Column("step", sql.String(64), primary_key=True),
    sql.Column("owner", sql.String(500), nullable=False),
    sql.Column("beat", sql.BigInteger, nullable=False),
)
NOW = {
    "sqlite": "CAST(strftime('%s', 'now') AS INTEGER)",
    "mysql": "UNIX_TIMESTAMP()",
    "mssql": "DATEDIFF_BIG(second, '1970-01-01', SYSUTCDATETIME())",
}
"""Seconds by the database's clock; PostgreSQL's is that of the standard."""
STANDARD_NOW = "CAST(EXTRACT(EPOCH FROM CURRENT_TIMESTAMP) AS BIGINT)"


def claims_url(tracking_uri: str, cache: Path) -> str:
    """``ABLATE_CLAIMS``; or the store, if it is a database; or a file in the cache folder.

    With a tracking server, the last is shared by the processes that share the cache folder alone.
    """
    if given := os.environ.get(CLAIMS):
        return home_expanded(given)
    served = is_database(tracking_uri) and not tracking_uri.startswith("sqlite")
    if served or sqlite_file(tracking_uri):
        return tracking_uri
    return f"sqlite:///{cache.absolute() / FILE}"


def claim_key(step: str, identity: str) -> str:
    """What a step is claimed by; a measurement's identity does not tell its machine."""
    return digest([step, identity])


class Claims:
    """The claims of one process.

    Args:
        url: of the database.
        wait: is given why the database does not do it; returns whether to ask it again.
        owner: who claims: this process.

    Raises:
        StoreError: the database cannot be reached.
    """

    def __init__(
        self,
        url: str,
        wait: Callable[[Exception], bool] = lambda error: False,
        owner: str | None = None,
    ) -> None:
        self.url = url
        self.owner = owner or this_process()
        self.mine: set[str] = set()
        self._wait = wait
        if file := sqlite_file(url):
            file.parent.mkdir(parents=True, exist_ok=True)
        with refusals(url, REMEDY):
            # No connection is kept: one that a signal or a restart cuts off would be half dead.
            waits = {"timeout": 60} if url.startswith("sqlite") else {}
            self._engine = sql.create_engine(url, poolclass=sql.NullPool, connect_args=waits)
            self._now: Any = sql.literal_column(NOW.get(self._engine.dialect.name, STANDARD_NOW))

    def claim(self, steps: Iterable[str]) -> bool:
        """Claim all of these steps, also from who is dead; or none of them, if one is another's.

        Args:
            steps: keys of up to 64 characters.
        """
        new: list[str] = []
        for step in sorted(set(steps) - self.mine):
            if not self._take(step):
                self.release(new)
                return False
            new.append(step)
            self.mine.add(step)
        return True

    def _take(self, step: str) -> bool:
        row = sql.insert(TABLE).values(step=step, owner=self.owner, beat=self._now)

        def insert(connection: sql.Connection) -> bool:
            return connection.execute(row).rowcount == 1

        def inherit(connection: sql.Connection) -> bool:
            found = connection.execute(
                sql.select(TABLE.c.owner, TABLE.c.beat, self._now).where(TABLE.c.step == step)
            ).first()
            if found is None:
                return False  # released just now: next time
            owner, beat, now = found
            if owner != self.owner and not is_dead(owner) and now - beat <= SILENT_SECONDS:
                return False
            same = (TABLE.c.step == step, TABLE.c.owner == owner, TABLE.c.beat == beat)
            taken = sql.update(TABLE).where(*same).values(owner=self.owner, beat=self._now)
            return connection.execute(taken).rowcount == 1

        return bool(self._do(insert) or self._do(inherit))

    def keep(self) -> set[str]:
        """Say that this process lives; the claims that it has lost to others meanwhile."""
        lost = {step for step in self.mine if not self._renew(step)}
        self.mine -= lost
        return lost

    def _renew(self, step: str) -> bool:
        own = (TABLE.c.step == step, TABLE.c.owner == self.owner)
        beat = sql.update(TABLE).where(*own).values(beat=self._now)
        return bool(self._do(lambda c: c.execute(beat).rowcount == 1)) or self._take(step)

    def release(self, steps: Iterable[str]) -> None:
        """Give steps up, done or not."""
        given = [step for step in steps if step in self.mine]
        self.mine -= set(given)
        own = (TABLE.c.step.in_(given), TABLE.c.owner == self.owner)
        if given:
            self._do(lambda connection: connection.execute(sql.delete(TABLE).where(*own)))

    @contextmanager
    def holding(self, step: str) -> Iterator[None]:
        """Have a step for a moment, once others have given it up."""
        while not self.claim([step]):
            time.sleep(0.2)
        try:
            yield
        finally:
            self.release([step])

    def owners(self) -> dict[str, str]:
        """Step -> who has claimed it, of those who live."""
        found = self._do(lambda c: c.execute(sql.select(TABLE, self._now)).all()) or []
        return {
            step: owner
            for step, owner, beat, now in found
            if not is_dead(owner) and now - beat <= SILENT_SECONDS
        }

    def clear(self) -> None:
        """Remove the claims of the dead: nobody may need their steps any more."""
        living = set(self.owners().values())
        dead = sql.delete(TABLE).where(TABLE.c.owner.not_in(living))
        silent = dead.where(TABLE.c.beat < self._now - SILENT_SECONDS)
        self._do(lambda connection: connection.execute(silent))

    def _do(self, work: Callable[[sql.Connection], Found]) -> Found | None:
        """Work in a transaction of its own; the table is made where it is not there.

        Returns:
            None where a row was there already.

        Raises:
            StoreError: the database is away for too long.
        """
        has_table = False
        with refusals(self.url, REMEDY):
            while True:
                try:
                    with self._engine.begin() as connection:
                        return work(connection)
                except IntegrityError:
                    return None
                except (OperationalError, ProgrammingError) as error:
                    had_table, has_table = has_table, self._has_table()
                    if (had_table or not has_table) and not self._wait(error):
                        raise

    def _has_table(self) -> bool:
        """Whether the table is there, once it is made where it was not."""
        with suppress(OperationalError, ProgrammingError, IntegrityError):
            TABLE.metadata.create_all(self._engine)  # but another process makes it just now
        try:
            return sql.inspect(self._engine).has_table(TABLE.name)
        except OperationalError:  # the database is away
            return False
