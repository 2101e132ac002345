"""state.db: what it remembers, and what happens when the file or the disk is bad."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from tray_app.engine.state import StateDb


def test_remembered_values_survive_a_restart(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    db.remember({"a": "1", "b": "2"})
    db.remember({"a": None, "b": "3"})
    db.close()
    db = StateDb(tmp_path / "state.db")
    assert (db.recall("a"), db.recall("b"), db.recall("c")) == (None, "3", None)
    assert db.broken_copy is None
    db.close()


def test_a_broken_file_is_kept_and_a_fresh_one_begun(tmp_path: Path) -> None:
    content = b"this is no database at all, but long enough" * 40
    path = tmp_path / "state.db"
    path.write_bytes(content)
    db = StateDb(path)
    assert db.broken_copy is not None
    assert db.broken_copy.read_bytes() == content
    db.remember({"a": "1"})
    assert db.recall("a") == "1"
    db.close()


def test_damage_inside_the_file_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    db = StateDb(path)
    db.remember({f"key{number}": "x" * 500 for number in range(200)})
    db.close()
    data = bytearray(path.read_bytes())
    data[8192:16384] = b"\xaa" * 8192
    path.write_bytes(data)
    db = StateDb(path)
    assert db.broken_copy is not None
    db.close()


def test_a_file_that_is_only_locked_is_not_called_broken(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.mkdir()  # cannot be opened, whoever asks
    with pytest.raises(OSError, match="cannot be used"):
        StateDb(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.db"]


def test_a_failed_transaction_leaves_nothing_and_blocks_nobody(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")

    def fail(*statements: str) -> None:
        with db.transaction() as connection:
            for statement in statements:
                connection.execute(statement)
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail("INSERT INTO remembered VALUES ('a', '1')")
    assert db.recall("a") is None
    with pytest.raises(sqlite3.IntegrityError):
        fail("INSERT INTO remembered VALUES ('a', NULL)")
    with pytest.raises(ValueError, match="no"):  # a full disk rolls back by itself
        fail("ROLLBACK")
    db.remember({"a": "2"})
    assert db.recall("a") == "2"
    db.close()


def test_threads_take_turns(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    db.remember({"count": "0"})

    def add() -> None:
        for _ in range(20):
            with db.transaction() as connection:
                row = connection.execute("SELECT value FROM remembered").fetchone()
                connection.execute("UPDATE remembered SET value = ?", (str(int(row[0]) + 1),))

    threads = [threading.Thread(target=add) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert db.recall("count") == "100"
    db.close()
