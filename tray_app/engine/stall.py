"""Whether a loading child still does something: one that hangs would hold up all other loads."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

# Longer than any rest within a load, of a large model on a slow disk too.
STALLED_S = 120.0
# A load that goes on moves at least one of these. Our own questions for its health cost a child
# about 0.3 % of a core.
LEAST_RSS_BYTES = 1 << 20
LEAST_CPU_SHARE = 0.02
LOOK_S = 1.0
ASLEEP_S = 10.0  # between two looks: the machine slept, and so did the child


@dataclass(frozen=True, slots=True)
class _Signs:
    """What a child had done at one moment."""

    at: float
    log_bytes: int
    rss_bytes: int
    cpu_s: float


class StallWatch:
    """One child's signs of life while it loads: its log, its memory, its processor time."""

    def __init__(
        self,
        pid: int,
        log_path: Path,
        after_s: float = STALLED_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pid, self._log_path, self._after_s, self._clock = pid, log_path, after_s, clock
        self._every_s = min(LOOK_S, after_s / 4)
        self._last = self._signs()
        self._looked_at = clock()

    def stalled(self) -> bool:
        """Whether nothing at all has moved for `after_s`. Looks once a second (0.1 ms)."""
        now = self._clock()
        since_s = now - self._looked_at
        if since_s < self._every_s:
            return False
        self._looked_at = now
        signs = self._signs()
        if signs is None or self._last is None or since_s > ASLEEP_S:
            self._last = signs
            return False
        if self._moved(self._last, signs):
            self._last = signs
            return False
        return now - self._last.at >= self._after_s

    def _moved(self, before: _Signs, now: _Signs) -> bool:
        return (
            now.log_bytes != before.log_bytes
            or abs(now.rss_bytes - before.rss_bytes) >= LEAST_RSS_BYTES
            or now.cpu_s - before.cpu_s >= LEAST_CPU_SHARE * self._after_s
        )

    def _signs(self) -> _Signs | None:
        try:
            process = psutil.Process(self._pid)
            used = process.cpu_times()
            rss = int(process.memory_info().rss)
            log = self._log_path.stat().st_size if self._log_path.exists() else 0
        except (OSError, psutil.Error):
            return None  # it has ended: that is told elsewhere
        return _Signs(self._clock(), log, rss, used.user + used.system)
