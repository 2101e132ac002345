"""state.db: one SQLite file (WAL) for jobs, metadata caches, usage and small remembered values."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from .home import set_aside

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS remembered (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY, model_id TEXT NOT NULL, path TEXT NOT NULL, status INTEGER NOT NULL,
    started_at REAL NOT NULL, wait_s REAL NOT NULL, first_token_s REAL, duration_s REAL NOT NULL,
    prompt_tokens INTEGER, generated_tokens INTEGER, tokens_per_s REAL,
    prompt_tokens_per_s REAL, cached_tokens INTEGER);
CREATE INDEX IF NOT EXISTS requests_by_model ON requests (model_id, started_at);
"""
# Columns that came later, for databases made before; an older app reads and writes by name.
_ADDED = {"requests": {"prompt_tokens_per_s": "REAL", "cached_tokens": "INTEGER"}}
REQUESTS_KEPT = 10_000  # about 1 MB


class StateDb:
    """One connection shared by all threads; `transaction()` takes turns.

    A file that SQLite calls corrupt is set aside under a new name (`broken_copy`) and a
    fresh one is begun: everything in it can be rebuilt or is history.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError when the file cannot be opened, or its disk is full."""
        self._path = path
        self._lock = threading.RLock()
        self.broken_copy: Path | None = None
        try:
            self._connection = self._open()
        except sqlite3.OperationalError as error:  # full, read-only, locked: it is not broken
            raise OSError(f"{path} cannot be used: {error}") from error
        except sqlite3.DatabaseError as error:
            log.error("state.db is broken: %s", error)
            self.broken_copy = set_aside(path)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._connection = self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, check_same_thread=False, isolation_level=None, timeout=10
        )
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute("PRAGMA cache_size=-512")  # KiB: a small idle footprint
            connection.executescript(_SCHEMA)
            _add_columns(connection)
            if connection.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                raise sqlite3.DatabaseError("quick_check found damage")
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """The connection inside BEGIN IMMEDIATE ... COMMIT, rolled back if the block raises."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # a full disk has rolled back already
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection for a SELECT: no write lock is taken, so it competes with nobody."""
        with self._lock:
            yield self._connection

    def remember(self, values: Mapping[str, str | None]) -> None:
        """Keep small values across restarts, all or none; None forgets one."""
        with self.transaction() as db:
            for key, value in values.items():
                if value is None:
                    db.execute("DELETE FROM remembered WHERE key = ?", (key,))
                else:
                    db.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?)", (key, value))

    def recall(self, key: str) -> str | None:
        """A value kept by `remember`."""
        with self.reading() as db:
            row = db.execute("SELECT value FROM remembered WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def close(self) -> None:
        """Flush the WAL and close."""
        with self._lock:
            self._connection.close()


def _add_columns(connection: sqlite3.Connection) -> None:
    for table, columns in _ADDED.items():
        known = {row[1] for row in connection.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns.items():
            if name not in known:
                connection.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
