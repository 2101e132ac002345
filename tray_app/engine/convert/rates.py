"""How long conversions take on this computer: learnt from those before."""

from __future__ import annotations

import sqlite3

from tray_app.engine.state import StateDb

_CONVERT, _QUANTIZE = "convert.bytes_per_s", "convert.quantize_s_per_gb"
GB = 10**9
LEAST_BYTES = 20_000_000  # below that the start of Python is most of the time


class Rates:
    """Any thread. A database that cannot be written costs a forecast and no conversion."""

    def __init__(self, db: StateDb) -> None:
        self._db = db

    def converted(self, made_bytes: int, took_s: float) -> None:
        """A GGUF of so many bytes was written in so many seconds."""
        if made_bytes >= LEAST_BYTES and took_s > 0:
            self._keep(_CONVERT, made_bytes / took_s)

    def quantized(self, read_bytes: int, took_s: float) -> None:
        """A GGUF of so many bytes was read for one type in so many seconds."""
        if read_bytes >= LEAST_BYTES and took_s > 0:
            self._keep(_QUANTIZE, took_s / (read_bytes / GB))

    def convert_s(self, made_bytes: int | None) -> float | None:
        """Seconds to be expected; None when nothing was measured yet."""
        rate = self._known(_CONVERT)
        return made_bytes / rate if rate and made_bytes else None

    def quantize_s_per_gb(self) -> float | None:
        """Seconds for each 10^9 bytes and type; None when nothing was measured yet."""
        return self._known(_QUANTIZE)

    def _known(self, key: str) -> float | None:
        try:
            return float(self._db.recall(key) or 0) or None
        except (ValueError, sqlite3.Error):
            return None

    def _keep(self, key: str, value: float) -> None:
        before = self._known(key)
        try:
            self._db.remember({key: repr(value if before is None else (before + value) / 2)})
        except sqlite3.Error:
            return
