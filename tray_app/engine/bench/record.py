"""Measurements in state.db: kept in their order, the newest 1,000 of all models."""

from __future__ import annotations

import dataclasses
import json
import logging
from typing import Any

from tray_app.engine.state import StateDb

from .values import BenchRun, BenchSettings, Speed

log = logging.getLogger(__name__)

KEPT = 1000  # about 0.7 MB
_SCHEMA = """
CREATE TABLE IF NOT EXISTS bench_runs (
    id INTEGER PRIMARY KEY, model_id TEXT NOT NULL, measured_at REAL NOT NULL, result TEXT NOT NULL)
"""


class BenchRecord:
    """Thread-safe; raises sqlite3.Error where the database cannot be used."""

    def __init__(self, db: StateDb, kept: int = KEPT) -> None:
        self._db = db
        self._kept = kept
        with db.transaction() as connection:
            connection.execute(_SCHEMA)

    def add(self, run: BenchRun) -> BenchRun:
        """Keep a measurement, whose id is given here; the oldest leaves when there are many."""
        row = dataclasses.asdict(run)
        del row["id"]
        with self._db.transaction() as db:
            added = db.execute(
                "INSERT INTO bench_runs (model_id, measured_at, result) VALUES (?, ?, ?)",
                (run.model_id, run.measured_at, json.dumps(row)),
            )
            db.execute(
                "DELETE FROM bench_runs WHERE id NOT IN"
                " (SELECT id FROM bench_runs ORDER BY id DESC LIMIT ?)",
                (self._kept,),
            )
        return dataclasses.replace(run, id=int(added.lastrowid or 0))

    def runs(self, model_id: str | None = None) -> tuple[BenchRun, ...]:
        """The newest first, of one model or of all. Takes 15 ms for a full table."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT id, result FROM bench_runs WHERE :id IS NULL OR model_id = :id"
                " ORDER BY id DESC LIMIT :most",
                {"id": model_id, "most": self._kept},
            ).fetchall()
        found = (_from_row(number, text) for number, text in rows)
        return tuple(run for run in found if run is not None)


def _from_row(number: int, text: str) -> BenchRun | None:
    """None for what another version wrote and this one cannot read."""
    try:
        row: dict[str, Any] = json.loads(text)
        known = {field.name for field in dataclasses.fields(BenchRun)}
        row = {key: value for key, value in row.items() if key in known}
        for key in ("prompt", "generation"):
            row[key] = None if row[key] is None else Speed(**row[key])
        row["settings"] = BenchSettings(**row["settings"])
        for key in ("in_memory", "left_out"):
            row[key] = tuple(row.get(key, ()))
        return BenchRun(**{**row, "id": number})
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        log.warning("a kept measurement cannot be read: %s", exc)
        return None
