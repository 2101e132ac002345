"""How many faces listen, and since when nobody does: an engine without faces ends itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Faces:
    """Counts open event streams; thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._clock = clock
        self._count = 0
        self._since = clock()

    def enter(self, limit: int) -> bool:
        """A face came; False when `limit` are here already."""
        with self._lock:
            if self._count >= limit:
                return False
            self._count += 1
            return True

    def leave(self) -> None:
        """A face went."""
        with self._lock:
            self._count -= 1
            self._since = self._clock()

    def touch(self) -> None:
        """A face without a stream (the CLI) asked something."""
        with self._lock:
            self._since = self._clock()

    def alone_s(self) -> float:
        """Seconds since the last face went; 0 while one is here."""
        with self._lock:
            return 0.0 if self._count else self._clock() - self._since
