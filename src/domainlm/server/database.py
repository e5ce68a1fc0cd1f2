"""The server's own SQLite file: sessions and jobs. Threads and worker processes share it."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from domainlm.artifacts import writing
from domainlm.errors import DataError

_BUSY_S = 30.0
_TABLES = """
CREATE TABLE IF NOT EXISTS browser_sessions (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, secret TEXT NOT NULL, expires REAL NOT NULL
) WITHOUT ROWID;
DROP TABLE IF EXISTS sessions;
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    status TEXT NOT NULL,
    by TEXT NOT NULL,
    config TEXT NOT NULL,
    created TEXT NOT NULL,
    started TEXT NOT NULL DEFAULT '',
    ended TEXT NOT NULL DEFAULT '',
    pid INTEGER NOT NULL DEFAULT 0,
    pid_born REAL NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    stage TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    note TEXT NOT NULL DEFAULT '',
    stages TEXT NOT NULL DEFAULT '[]',
    result TEXT NOT NULL DEFAULT 'null',
    error TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS losses (
    job TEXT NOT NULL, step INTEGER NOT NULL, loss REAL NOT NULL, PRIMARY KEY (job, step)
) WITHOUT ROWID;
"""


class Database:
    """One connection for each thread; every change is a transaction.

    Raises:
        DataError: the file is no database, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._own = threading.local()
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        with self.change() as db:
            db.executescript(_TABLES)
        path.chmod(0o600)

    @contextlib.contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """A transaction: all of it, or nothing if the block raises."""
        with self._sentences():
            db = self._connection()
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                if db.in_transaction:
                    db.execute("COMMIT")
            finally:
                if db.in_transaction:
                    db.execute("ROLLBACK")

    def one(self, query: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first row of a query."""
        with self._sentences():
            row: sqlite3.Row | None = self._connection().execute(query, values).fetchone()
            return row

    def all(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query."""
        with self._sentences():
            return self._connection().execute(query, values).fetchall()

    def _connection(self) -> sqlite3.Connection:
        found: sqlite3.Connection | None = getattr(self._own, "db", None)
        if found is None:
            found = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None)
            found.row_factory = sqlite3.Row
            found.execute("PRAGMA journal_mode = WAL")
            self._own.db = found
        return found

    @contextlib.contextmanager
    def _sentences(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path} cannot be used ({error}); check the disk, or move the file away: it "
                "holds sessions and jobs only"
            ) from None
