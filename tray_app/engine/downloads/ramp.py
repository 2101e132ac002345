"""How many connections a transfer uses: more only while that raises the rate."""

from __future__ import annotations

import time
from collections.abc import Callable

WINDOW_S = 0.3  # of measuring, once all connections deliver
GAIN = 0.2  # of what more connections would bring if each were as fast as those before
LOOK_AGAIN_S = 60.0  # lines change; a step that brought nothing is tried again after this
FIRST = 2


class Ramp:
    """Pure arithmetic on bytes and time; used by one thread."""

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.wanted = min(FIRST, most)
        self._most = most
        self._clock = clock
        self._window: tuple[float, int] | None = None  # began at, with so many bytes
        self._before: tuple[int, float] | None = None  # connections and rate before a step
        self._rest_until = 0.0

    def observe(self, received_bytes: int, delivering: bool) -> None:
        """What has come by now; `delivering` when each wanted connection brings bytes."""
        now = self._clock()
        if not delivering or self._window is None:
            self._window = (now, received_bytes)
            return
        began, bytes_then = self._window
        if now - began < WINDOW_S or received_bytes == bytes_then:
            return
        self._window = None
        self._judge((received_bytes - bytes_then) / (now - began), now)

    def refused(self) -> None:
        """The server wants fewer: one less, and no more for a while."""
        self.wanted = max(1, self.wanted - 1)
        self._before = self._window = None
        self._rest_until = self._clock() + LOOK_AGAIN_S

    def _judge(self, rate: float, now: float) -> None:
        if self._before is not None:
            connections, rate_before = self._before
            self._before = None
            if rate < rate_before * (1 + GAIN * (self.wanted / connections - 1)):
                self.wanted = connections
                self._rest_until = now + LOOK_AGAIN_S
                return
        if self.wanted < self._most and now >= self._rest_until:
            self._before = (self.wanted, rate)
            self.wanted = min(self._most, self.wanted * 2)
