"""What has been read from GGUF headers, kept in SQLite so that a start need not read again."""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from .gguf import Header, from_record, to_record

# Raise it when Header or its meaning changes: rows of another schema are dropped.
SCHEMA = 1
BUSY_TIMEOUT_S = 5.0

T = TypeVar("T")

log = logging.getLogger(__name__)


class Keep(Enum):
    """How long what was found out about a file is believed."""

    FOREVER = "forever"  # until the file changes
    SESSION = "session"  # until the engine ends: the file may not be at fault
    SCAN = "scan"  # until the next scan: it could not be read just now


@dataclass(frozen=True, slots=True)
class FileKey:
    """The state of a file that a header was read from. `inode` is 0 when not known."""

    size_bytes: int
    mtime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Row:
    """All that is known about one file. Either `header` or `problem` is set, or both."""

    path: str
    key: FileKey
    device: int
    header: Header | None
    problem: str | None = None  # why it is left out
    model_id: str | None = None  # the id it was given, which it keeps
    keep: Keep = Keep.FOREVER


class MetadataCache:
    """The `gguf_cache` table. Thread-safe; blocks for a short transaction.

    SQLite errors are logged and otherwise mean an empty cache: everything in it can be read
    from the files again.
    """

    def __init__(self, db_path: Path) -> None:
        self._path = db_path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def load(self, pause: Callable[[], None] = lambda: None) -> dict[str, Row]:
        """Every row, by path. `pause` is called between rows, for other threads' sake."""
        with self._lock:
            try:
                found = self._open().execute(
                    "SELECT path, size_bytes, mtime_ns, inode, device, header, problem, model_id"
                    " FROM gguf_cache WHERE schema = ?",
                    (SCHEMA,),
                )
                rows = list(_paused(map(_to_row, found), pause))
            except (sqlite3.Error, ValueError, TypeError) as exc:
                self._drop_connection("load", exc)
                return {}
        return {row.path: row for row in rows}

    def store(
        self,
        rows: Iterable[Row],
        gone: Iterable[str] = (),
        pause: Callable[[], None] = lambda: None,
    ) -> None:
        """Write `rows` and forget the paths in `gone`, in one transaction."""
        lasting = (_to_values(row) for row in rows if row.keep is Keep.FOREVER)
        values = list(_paused(lasting, pause))
        paths = [(SCHEMA, os.fsencode(path)) for path in gone]
        if not values and not paths:
            return
        with self._lock:
            try:
                connection = self._open()
                with connection:
                    connection.executemany(
                        "DELETE FROM gguf_cache WHERE schema = ? AND path = ?", paths
                    )
                    connection.executemany(
                        "INSERT OR REPLACE INTO gguf_cache VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        values,
                    )
            except sqlite3.Error as exc:
                self._drop_connection("store", exc)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(
                self._path, timeout=BUSY_TIMEOUT_S, check_same_thread=False
            )
            self._connection = connection
            with connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS gguf_cache (schema INTEGER, path BLOB,"
                    " size_bytes INTEGER, mtime_ns INTEGER, inode TEXT, device TEXT,"
                    " header TEXT, problem TEXT, model_id TEXT, PRIMARY KEY (schema, path))"
                )
                connection.execute("DELETE FROM gguf_cache WHERE schema <> ?", (SCHEMA,))
        return self._connection

    def _drop_connection(self, what: str, exc: Exception) -> None:
        log.warning("GGUF cache: %s failed, headers are read again: %s", what, exc)
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _paused(items: Iterable[T], pause: Callable[[], None]) -> Iterator[T]:
    for item in items:
        yield item
        pause()


def _to_values(row: Row) -> tuple[Any, ...]:
    header = None if row.header is None else json.dumps(to_record(row.header))
    # Paths as bytes: a name need not be text. Inodes as text: they may pass 63 bits.
    return (
        SCHEMA,
        os.fsencode(row.path),
        row.key.size_bytes,
        row.key.mtime_ns,
        str(row.key.inode),
        str(row.device),
        header,
        row.problem,
        row.model_id,
    )


def _to_row(values: tuple[Any, ...]) -> Row:
    path, size, mtime_ns, inode, device, header, problem, model_id = values
    return Row(
        os.fsdecode(path),
        FileKey(size, mtime_ns, int(inode)),
        int(device),
        None if header is None else from_record(json.loads(header)),
        problem,
        model_id,
    )
