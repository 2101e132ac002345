"""The queue's table in state.db. A row that cannot be read costs at most itself."""

from __future__ import annotations

import dataclasses
import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from tray_app.engine.errors import ErrorView
from tray_app.engine.state import StateDb

from .values import Download, DownloadState

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS downloads (
    id TEXT PRIMARY KEY, place REAL NOT NULL, reference TEXT NOT NULL, state TEXT NOT NULL,
    doomed INTEGER NOT NULL, download TEXT NOT NULL, kept TEXT NOT NULL)
"""
_SAVE = """
INSERT INTO downloads (id, place, reference, state, doomed, download, kept)
    VALUES (:id, :place, :reference, :state, :doomed, :download, COALESCE(:kept, '{}'))
ON CONFLICT (id) DO UPDATE SET place = excluded.place, reference = excluded.reference,
    state = excluded.state, doomed = excluded.doomed, download = excluded.download,
    kept = COALESCE(:kept, downloads.kept)
"""
# SQLite keeps any type and any bytes in any column, so each is cast to what it should be; a text
# that is no UTF-8 would otherwise make the whole list unreadable.
_LOAD = """
SELECT rowid, CAST(id AS BLOB), CAST(place AS REAL), CAST(reference AS BLOB),
    CAST(state AS BLOB), CAST(doomed AS INTEGER), CAST(download AS BLOB), CAST(kept AS BLOB)
FROM downloads ORDER BY place, rowid
"""
MOST_NUMBER = 1e300
_TEXTS = ("title", "step")
_MAYBE_NUMBERS = ("finished_at", "retry_at")


@dataclass(frozen=True, slots=True)
class Row:
    """A download as it is on the disk. `kept` None: as it was."""

    download: Download
    doomed: bool = False
    kept: str | None = None


class DownloadStore:
    """All methods block for the disk, up to 10 s while another process locks the database."""

    def __init__(self, db: StateDb) -> None:
        """Creates the table. Raises OSError when the database cannot be used."""
        self._db = db
        try:
            with db.transaction() as connection:
                connection.execute(_SCHEMA)
        except sqlite3.Error as exc:
            raise OSError(f"the list of downloads cannot be used: {exc}") from exc

    def load(self) -> list[Row]:
        """Every download, in queue order. Raises OSError.

        Of a row whose value is broken the reference is enough to begin anew; one that has not
        even that is removed.
        """
        try:
            with self._db.reading() as db:
                found = db.execute(_LOAD).fetchall()
        except sqlite3.Error as exc:
            raise OSError(f"the list of downloads cannot be read: {exc}") from exc
        rows, lost = [], []
        for number, *values in found:
            try:
                rows.append(_from_row(*values))
            except ValueError as exc:
                log.warning("a row of the list of downloads is beyond use: %s", exc)
                lost.append((number,))
        self._forget(lost)
        return rows

    def save(self, rows: Sequence[Row], gone: Iterable[str] = ()) -> None:
        """Write rows and forget others, all or none. Raises sqlite3.Error."""
        with self._db.transaction() as db:
            db.executemany(_SAVE, [_to_row(row) for row in rows])
            db.executemany("DELETE FROM downloads WHERE id = ?", [(each,) for each in gone])

    def _forget(self, lost: list[tuple[int]]) -> None:
        try:
            if lost:
                with self._db.transaction() as db:
                    db.executemany("DELETE FROM downloads WHERE rowid = ?", lost)
        except sqlite3.Error as exc:
            log.warning("broken rows stay in the list of downloads: %s", exc)


def _to_row(row: Row) -> dict[str, object]:
    download = row.download
    return {
        "id": download.id,
        "place": download.order,
        "reference": download.reference,
        "state": download.state.value,
        "doomed": row.doomed,
        "download": json.dumps(dataclasses.asdict(download)),
        "kept": row.kept,
    }


def _from_row(
    id_: bytes,
    place: float | None,
    reference: bytes,
    state: bytes,
    doomed: int,
    saved: bytes,
    kept: bytes,
) -> Row:
    """Raises ValueError when not even reference and state can be told."""
    plain = Download(
        id_.decode(), reference.decode(), reference.decode(), DownloadState(state.decode())
    )
    if not (plain.id and plain.reference):
        raise ValueError("it names nothing")
    order = place if _is_number(place) else 0.0
    try:
        plain = dataclasses.replace(plain, order=order, **_read(json.loads(saved)))
    except (ValueError, TypeError, RecursionError) as exc:
        log.warning("what was known of download %.80s cannot be read: %s", plain.id, exc)
        plain = dataclasses.replace(plain, order=order)
    return Row(plain, doomed=bool(doomed), kept=kept.decode("utf-8", "replace"))


def _read(saved: Any) -> dict[str, Any]:
    """The fields of a saved download that are what they should be. Raises ValueError."""
    if not isinstance(saved, dict):
        raise ValueError("it is no object")
    read: dict[str, Any] = {}
    for name in _TEXTS:
        if isinstance(saved.get(name), str):
            read[name] = saved[name]
    for name in _MAYBE_NUMBERS:
        if _is_number(saved.get(name)):
            read[name] = float(saved[name])
    if _is_number(saved.get("created_at")):
        read["created_at"] = float(saved["created_at"])
    for name in ("done_bytes", "total_bytes"):
        if type(saved.get(name)) is int and 0 <= saved[name] < MOST_NUMBER:
            read[name] = saved[name]
    if isinstance(saved.get("model_path"), str):
        read["model_path"] = saved["model_path"]
    warnings = saved.get("warnings")
    if isinstance(warnings, list):
        read["warnings"] = tuple(each for each in warnings if isinstance(each, str))
    error = saved.get("error")
    if isinstance(error, dict) and all(isinstance(each, str) for each in error.values()):
        read["error"] = ErrorView(**error)
    return read


def _is_number(value: Any) -> TypeGuard[float]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < MOST_NUMBER  # neither NaN nor infinite, and no integer beyond a float
