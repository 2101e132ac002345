"""What this machine computes with, remembered: read once, and anew when a driver or GPU changed."""

from __future__ import annotations

import dataclasses
import json
import logging
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from tray_app.engine.hardware.reading import change_mark, hardware_key, read_hardware
from tray_app.engine.state import StateDb

from .ladder import ladder
from .values import BACKENDS, Gpu, Hardware, Rung

log = logging.getLogger(__name__)

_KEY = "hardware"


class Machine:
    """Thread-safe; readings take turns."""

    def __init__(
        self,
        db: StateDb,
        read: Callable[[], Hardware] = read_hardware,
        mark: Callable[[], str] = change_mark,
    ) -> None:
        """Nothing is read yet."""
        self._db = db
        self._read = read
        self._mark = mark
        self._turn = threading.Lock()
        self._seen_mark = ""
        self._stale = True  # what is known comes from an earlier run
        self.hardware: Hardware | None = None
        self.rungs: tuple[Rung, ...] = ()
        self.key = ""

    def recall(self) -> bool:
        """Take what an earlier run read, if no driver has changed since. Blocks for 5 ms."""
        with self._turn:
            mark = self._mark()
            try:
                row = json.loads(self._db.recall(_KEY) or "{}")
                if row.get("mark") != mark:
                    return False
                self._take(_from_row(row["hardware"]), mark)
            except (ValueError, TypeError, KeyError, AttributeError, sqlite3.Error):
                return False
            return True

    def read(self) -> bool:
        """Read everything now; whether it differs from what was known. Blocks (0.1 to 10 s)."""
        with self._turn:
            before, mark = self.key, self._mark()
            hardware = self._read()
            self._take(hardware, mark)
            self._stale = False
            row = {"mark": mark, "hardware": dataclasses.asdict(hardware)}
            try:
                self._db.remember({_KEY: json.dumps(row)})
            except sqlite3.Error as exc:  # it is read again at the next start
                log.warning("the hardware could not be saved: %s", exc)
            return self.key != before

    def changed(self) -> bool:
        """Whether a driver or GPU came, went or changed since the last reading. Blocks for 5 ms."""
        return self._mark() != self._seen_mark

    @property
    def stale(self) -> bool:
        """Whether nothing was read in this run yet."""
        return self._stale

    def usable(self, wish: str | None = None) -> list[str]:
        """Backends to try here, the wished one first, then down the ladder."""
        found = [rung.backend for rung in self.rungs if rung.usable]
        return list(dict.fromkeys([wish, *found] if wish else found)) or ["cpu"]

    def rank(self, backend: str, wish: str | None = None) -> int:
        """The place of a backend here, lowest first; what cannot work here comes last."""
        usable = self.usable(wish)
        if backend in usable:
            return usable.index(backend)
        return len(BACKENDS) + (BACKENDS.index(backend) if backend in BACKENDS else len(BACKENDS))

    def _take(self, hardware: Hardware, mark: str) -> None:
        self.hardware, self.rungs = hardware, ladder(hardware)
        self.key, self._seen_mark = hardware_key(hardware), mark


def _from_row(row: dict[str, Any]) -> Hardware:
    for name in ("cpu_features", "problems"):
        row[name] = tuple(row[name])
    return Hardware(**{**row, "gpus": tuple(Gpu(**gpu) for gpu in row["gpus"])})
