"""Turns raw counts into what a person reads: a bar that never goes back, a rate, an ETA."""

from __future__ import annotations

import math
from dataclasses import dataclass

RATE_TIME_S = 8.0  # the rate forgets with this time constant: steps differ in cost
SAMPLE_S = 0.25  # counts closer together say nothing about a rate
WARM_UP_S = 1.5  # no ETA before


@dataclass(frozen=True, slots=True)
class Reading:
    """Progress at one moment. `rate_per_s` is in units; None is not known."""

    done: int
    total: int | None
    unit: str
    rate_per_s: float | None
    eta_s: float | None


class ProgressMeter:
    """Counts of one job. A change of unit starts over; otherwise `done` only grows."""

    def __init__(self) -> None:
        self._unit = ""
        self._done = 0
        self._total: int | None = None
        self._started = 0.0
        self._begun = False
        self._sample: tuple[float, int] = (0.0, 0)
        self._rate: float | None = None

    def update(self, done: int, total: int | None, unit: str, now: float) -> Reading:
        """Take a new count at monotonic time `now`; what is known after it."""
        if unit != self._unit or not self._begun:
            self._begun = True
            self._unit, self._done, self._total = unit, done, total
            self._started, self._sample, self._rate = now, (now, done), None
        self._done = max(self._done, done)
        if total is not None:
            self._total = max(total, self._done)
        self._measure(now)
        return Reading(self._done, self._total, unit, self._rate, self._eta(now))

    def _measure(self, now: float) -> None:
        then, count = self._sample
        passed = now - then
        if passed < SAMPLE_S:
            return
        current = (self._done - count) / passed
        # A plain average at first, so that a burst at the start does not weigh for long.
        memory_s = min(RATE_TIME_S, now - self._started)
        weight = 1.0 - math.exp(-passed / memory_s)
        self._rate = current if self._rate is None else self._rate + weight * (current - self._rate)
        self._sample = (now, self._done)

    def _eta(self, now: float) -> float | None:
        if now - self._started < WARM_UP_S:
            return None
        if not self._rate or self._total is None:
            return None
        return (self._total - self._done) / self._rate
