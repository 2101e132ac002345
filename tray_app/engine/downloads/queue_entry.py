"""One download inside the queue: its states, what is remembered of it, and who reports on it."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tray_app.engine.errors import Cancelled
from tray_app.engine.progress import ProgressMeter

from .values import Download, DownloadState

if TYPE_CHECKING:
    from .queue_ledger import Ledger

BACK_OFF_S = (30.0, 60.0, 300.0)  # between tries while the network is away
MOST_TITLE = 300  # characters
MOST_WARNINGS = 50
MOST_WARNING = 1000  # characters

ALLOWED: dict[DownloadState, frozenset[DownloadState]] = {
    DownloadState.QUEUED: frozenset(
        {DownloadState.RUNNING, DownloadState.PAUSED, DownloadState.CANCELLED}
    ),
    DownloadState.RUNNING: frozenset(
        {
            DownloadState.DONE,
            DownloadState.FAILED,
            DownloadState.CANCELLED,
            DownloadState.PAUSED,
            DownloadState.WAITING,
            DownloadState.QUEUED,  # the engine ends, or it was paused and resumed at once
        }
    ),
    DownloadState.PAUSED: frozenset({DownloadState.QUEUED, DownloadState.CANCELLED}),
    DownloadState.WAITING: frozenset(
        {DownloadState.QUEUED, DownloadState.PAUSED, DownloadState.CANCELLED}
    ),
    DownloadState.DONE: frozenset(),
    DownloadState.FAILED: frozenset({DownloadState.QUEUED, DownloadState.CANCELLED}),
    DownloadState.CANCELLED: frozenset({DownloadState.QUEUED}),
}


class Reason(StrEnum):
    """Why a run is to end."""

    PAUSE = "pause"
    CANCEL = "cancel"
    CLOSE = "close"


@dataclass(slots=True, eq=False)
class Entry:
    """A download and what only the queue knows of it; the ledger's lock guards all of it.

    `download` is replaced, never changed.
    """

    download: Download
    kept: str = "{}"  # the work's memo, as JSON
    doomed: bool = False  # what it left on the disk is to be removed
    reporter: Reporter | None = None  # of the run in progress
    then: DownloadState | None = None  # what it becomes when the run ends, once that was asked for
    meter: ProgressMeter = field(default_factory=ProgressMeter)
    began_with_bytes: int = 0  # at the begin of the run
    waits: int = 0  # for the network, in a row, without a byte between
    retry_due: float = 0.0  # monotonic seconds, while WAITING
    reported_at: float = 0.0
    published_at: float = float("-inf")
    unpublished: bool = False
    saved_at: float = float("-inf")
    unsaved: bool = False
    urgent: bool = False  # it is saved at once, not with the next second
    kept_unsaved: bool = False


class Reporter:
    """What a running download is given. All methods are for any thread, and cheap but `keep`."""

    def __init__(self, ledger: Ledger, entry: Entry) -> None:
        self._ledger = ledger
        self._entry = entry
        self.cancel = threading.Event()
        self.reason: Reason | None = None  # set before `cancel` is

    def check(self) -> None:
        """Raises Cancelled once the run is to end."""
        if self.cancel.is_set():
            raise Cancelled

    def ask_to_end(self, reason: Reason) -> None:
        """The queue's: a pause or a cancel is not forgotten for a close."""
        if self.reason is None or reason is Reason.CANCEL:
            self.reason = reason
        self.cancel.set()

    def progress(
        self, done_bytes: int, total_bytes: int | None = None, step: str | None = None
    ) -> None:
        """Report a count; `None` keeps what was known. Never raises, never waits for a disk.

        A count below an earlier one is heard as the earlier one.
        """
        self._ledger.report(self._entry, self, done_bytes, total_bytes, step)

    def planned(
        self, title: str, total_bytes: int | None = None, warnings: tuple[str, ...] = ()
    ) -> None:
        """Say what the hub said of it. A total of `None` means that it is not known now."""
        shown = tuple(str(each)[:MOST_WARNING] for each in warnings[:MOST_WARNINGS])
        self._ledger.plan(self._entry, self, str(title)[:MOST_TITLE], total_bytes, shown)

    def keep(self, data: Mapping[str, object]) -> None:
        """Remember `data` with the download: the next run gets it, after a crash as well.

        It is on its way to the disk when this returns; blocks for one small write (up to 10 s
        when another process locks the database). Raises TypeError for what is not JSON.
        """
        self._ledger.keep(self._entry, self, json.dumps(dict(data)))

    @property
    def kept(self) -> dict[str, Any]:
        """What an earlier run, or this one, has kept; empty at first."""
        return memo_of(self._entry.kept)


def memo_of(text: str) -> dict[str, Any]:
    """A kept memo; an unreadable one is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
