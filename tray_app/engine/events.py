"""Typed events in one order, and the stream that carries them.

Every event gets a sequence number. A listener that falls behind, or joins with an old
number, receives `Missed` and asks for a snapshot instead of guessing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .app_update.values import AppUpdateStatus
from .downloads.values import Download
from .values import GatewayStatus, Job, ModelStatus, Notice, RequestRecord, RuntimeStatus


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """One model moved to another state, or its request counts changed."""

    status: ModelStatus


@dataclass(frozen=True, slots=True)
class ActiveModelChanged:
    """`default` now goes to another model (None: to nothing)."""

    model_id: str | None


@dataclass(frozen=True, slots=True)
class LibraryChanged:
    """Models or folders were added, removed or read further: ask for a snapshot."""

    model_count: int
    scanning: bool


@dataclass(frozen=True, slots=True)
class RuntimeChanged:
    status: RuntimeStatus


@dataclass(frozen=True, slots=True)
class GatewayChanged:
    status: GatewayStatus


@dataclass(frozen=True, slots=True)
class JobChanged:
    """A job moved on; at most about 5 a second for each job."""

    job: Job


@dataclass(frozen=True, slots=True)
class DownloadChanged:
    """A download moved on, or to another place; at most about 5 a second for each download."""

    download: Download
    removed: bool = False  # it is no longer in the list


@dataclass(frozen=True, slots=True)
class AppUpdateChanged:
    status: AppUpdateStatus


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NoticesChanged:
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class RequestFinished:
    """The gateway answered a request."""

    record: RequestRecord


@dataclass(frozen=True, slots=True)
class WindowRequested:
    """A second start, or a link, asks the tray to show its window on this page."""

    page: str = "models"
    reference: str = ""  # of a model to ask about there: it only ever prefills a dialog


@dataclass(frozen=True, slots=True)
class EngineStopping:
    """The engine process ends now."""


@dataclass(frozen=True, slots=True)
class Missed:
    """Events were dropped for this listener: ask for a snapshot."""


Event = (
    ModelChanged
    | ActiveModelChanged
    | LibraryChanged
    | RuntimeChanged
    | GatewayChanged
    | JobChanged
    | DownloadChanged
    | AppUpdateChanged
    | SettingsChanged
    | NoticesChanged
    | RequestFinished
    | WindowRequested
    | EngineStopping
    | Missed
)


class EventStream:
    """One ordered stream with many listeners; `publish` never blocks and is thread-safe."""

    def __init__(self, history: int = 512, clock: Callable[[], float] = time.monotonic) -> None:
        self._condition = threading.Condition()
        self._history: deque[tuple[int, Event]] = deque(maxlen=history)
        self._seq = 0
        self._clock = clock

    @property
    def seq(self) -> int:
        """The number of the last event."""
        with self._condition:
            return self._seq

    def publish(self, event: Event) -> int:
        """Append `event`, wake all listeners, return its number."""
        with self._condition:
            self._seq += 1
            self._history.append((self._seq, event))
            self._condition.notify_all()
            return self._seq

    def listen(
        self, after: int | None = None, heartbeat_s: float = 15.0
    ) -> Iterator[tuple[int, Event | None]]:
        """Yield events after number `after` (default: from now on), blocking between them.

        Yields `(seq, None)` each `heartbeat_s` seconds of silence, so that a caller can
        notice that its own listener has gone.
        """
        last = self.seq if after is None else after
        while True:
            batch = self._next_batch(last, heartbeat_s)
            if not batch:
                yield last, None
                continue
            if batch[0][0] > last + 1 or last > batch[-1][0]:
                last = batch[-1][0]
                yield last, Missed()
                continue
            for seq, event in batch:
                last = seq
                yield seq, event

    def _next_batch(self, last: int, timeout_s: float) -> list[tuple[int, Event]]:
        deadline = self._clock() + timeout_s
        with self._condition:
            if last > self._seq:  # a number from an earlier engine process
                return list(self._history)[-1:] or [(self._seq, Missed())]
            while self._seq <= last:
                left = deadline - self._clock()
                if left <= 0 or not self._condition.wait(left):
                    break
            return [item for item in self._history if item[0] > last]
