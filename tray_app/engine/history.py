"""Requests the gateway answered, kept for the Server page: the last ones, bounded."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import threading
import time
from collections import deque

from .state import REQUESTS_KEPT, StateDb
from .usage import usage
from .values import RequestRecord, Usage

log = logging.getLogger(__name__)

_COLUMNS = tuple(field.name for field in dataclasses.fields(RequestRecord))
BATCH_S = 1.0


class RequestHistory:
    """`add` never blocks (the gateway's loop calls it): a thread writes once a second at most."""

    def __init__(self, db: StateDb) -> None:
        self._db = db
        self._queue: deque[RequestRecord] = deque()  # appending and popping are atomic
        self._wanted = threading.Event()
        self.total = 0
        self.last: RequestRecord | None = None
        self._writing = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._write, name="history", daemon=True)
        self._thread.start()

    def add(self, record: RequestRecord) -> None:
        """Count a request and queue it for the disk."""
        self.total += 1
        self.last = record
        self._queue.append(record)
        self._wanted.set()

    def recent(self, limit: int = 50) -> list[RequestRecord]:
        """The newest requests first, those of earlier runs included."""
        limit = max(1, min(limit, 500))
        self._write_queued()
        with self._db.reading() as db:
            rows = db.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM requests ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [RequestRecord(*row) for row in rows]

    def usage(self, model_id: str | None, days: int) -> Usage:
        """How much and how fast models answered in the last days, from the kept requests."""
        self._write_queued()
        with self._db.reading() as db:
            return usage(db, time.time(), model_id, days)

    def close(self) -> None:
        """Write what is queued."""
        self._closed.set()
        self._wanted.set()
        self._thread.join(5)

    def _write(self) -> None:
        while True:
            self._wanted.wait()
            self._closed.wait(BATCH_S)
            self._wanted.clear()
            self._write_queued()
            if self._closed.is_set():
                return

    def _write_queued(self) -> None:
        """Any thread, one at a time."""
        with self._writing:
            rows = []
            while self._queue:
                rows.append(dataclasses.astuple(self._queue.popleft()))
            if not rows:
                return
            try:
                self._insert(rows)
            except sqlite3.Error:
                log.exception("%d requests could not be recorded", len(rows))

    def _insert(self, rows: list[tuple[object, ...]]) -> None:
        marks = ", ".join("?" * len(_COLUMNS))
        with self._db.transaction() as db:
            db.executemany(f"INSERT INTO requests ({', '.join(_COLUMNS)}) VALUES ({marks})", rows)
            db.execute(
                "DELETE FROM requests WHERE id <= (SELECT MAX(id) FROM requests) - ?",
                (REQUESTS_KEPT,),
            )
