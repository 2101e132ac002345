"""One bandwidth limit that all downloads share."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

BURST_S = 0.1  # of unused rate that may be caught up with
LEAST_READ_BYTES = 16 * 1024
MOST_READ_BYTES = 1 << 20


class Limiter:
    """A token bucket in bytes a second; from any thread, changeable while others wait."""

    def __init__(
        self, bytes_per_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`None` or nothing above 0 means no limit."""
        self._clock = clock
        self._changed = threading.Condition()
        self._rate = _positive(bytes_per_s)
        self._granted = 0.0  # bytes allowed since the start
        self._taken = 0.0
        self._seen = clock()

    @property
    def bytes_per_s(self) -> float | None:
        """The limit in force; None without one."""
        return self._rate

    def set(self, bytes_per_s: float | None) -> None:
        """Another limit, for those who wait as well."""
        with self._changed:
            self._accrue()
            self._rate = _positive(bytes_per_s)
            self._changed.notify_all()

    @property
    def read_bytes(self) -> int:
        """How much to read at once, so that a slow limit gives a steady trickle, not bursts."""
        rate = self._rate
        if rate is None:
            return MOST_READ_BYTES
        return int(min(max(rate / 16, LEAST_READ_BYTES), MOST_READ_BYTES))

    def take(self, count: int, stop: threading.Event) -> None:
        """Account for `count` bytes read; block until the limit allows the next, or `stop`."""
        if self._rate is None:
            return
        with self._changed:
            self._accrue()
            self._taken += count
            mine = self._taken
            while not stop.is_set():
                self._accrue()
                if self._rate is None or self._granted >= mine:
                    return
                wait_s = (mine - self._granted) / self._rate
                self._changed.wait(min(wait_s, 0.1))  # `stop` wakes nobody here

    def _accrue(self) -> None:
        now = self._clock()
        elapsed, self._seen = now - self._seen, now
        if self._rate is None:
            self._granted = self._taken
            return
        self._granted += elapsed * self._rate
        self._granted = min(self._granted, self._taken + BURST_S * self._rate)


def _positive(bytes_per_s: float | None) -> float | None:
    return bytes_per_s if bytes_per_s is not None and bytes_per_s > 0 else None
