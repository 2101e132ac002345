"""The list of answered requests."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.unit.engine_kit import wait_until
from tray_app.engine import history as module
from tray_app.engine.history import RequestHistory
from tray_app.engine.state import StateDb
from tray_app.engine.values import RequestRecord


def record(number: int) -> RequestRecord:
    return RequestRecord("org/m:Q4", f"/v1/{number}", 200, float(number), 0.0, 0.1, 0.2, 3, 4, 5.0)


def test_the_newest_come_first_at_once_and_after_a_restart(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    history = RequestHistory(db)
    for number in range(5):
        history.add(record(number))
    assert [row.path for row in history.recent(2)] == ["/v1/4", "/v1/3"]
    assert (history.total, history.last) == (5, record(4))
    history.add(record(5))
    history.close()
    again = RequestHistory(db)
    assert again.recent(1) == [record(5)]
    assert again.total == 0
    again.close()
    db.close()


def test_it_is_written_by_itself_soon(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    history = RequestHistory(db)
    history.add(record(1))

    def rows() -> int:
        with db.transaction() as connection:
            return int(connection.execute("SELECT count(*) FROM requests").fetchone()[0])

    wait_until(lambda: rows() == 1, 5)
    history.close()
    db.close()


def test_only_the_last_ones_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REQUESTS_KEPT", 10)
    db = StateDb(tmp_path / "state.db")
    history = RequestHistory(db)
    for number in range(30):
        history.add(record(number))
    assert len(history.recent(500)) == 10
    assert len(history.recent(-4)) == 1
    history.close()
    db.close()


def test_a_database_that_is_gone_harms_nobody(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    history = RequestHistory(db)
    db.close()
    history.add(record(1))
    began = time.monotonic()
    history.close()
    assert time.monotonic() - began < 2
    assert history.total == 1
