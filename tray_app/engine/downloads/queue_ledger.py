"""The list behind the queue: each download's state, who hears of it, and what is on the disk."""

from __future__ import annotations

import dataclasses
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tray_app.engine.errors import NotFound
from tray_app.engine.events import DownloadChanged, Event
from tray_app.engine.progress import ProgressMeter, Reading

from .queue_entry import ALLOWED, BACK_OFF_S, Entry, Reporter
from .queue_store import DownloadStore, Row
from .values import DownloadState

log = logging.getLogger(__name__)

PUBLISH_S = 0.2  # at most five events a second for each download
SAVE_S = 1.0  # progress is saved once a second at most for each download
SAVE_AGAIN_S = 5.0  # after a save that failed: a full disk is not tried five times a second
SILENCE_S = 1.0  # without a report for so long, a rate begins to fall
LEAST_RATE = 1.0  # bytes/s: what falls below stands still
KEPT = 200  # finished downloads remembered


class Ledger:
    """Thread-safe. `lock` is held for moments only: never for the disk, never while others hear.

    Whoever changed something under the lock calls `tell` after it, and `save` if it should be
    on the disk by then.
    """

    def __init__(
        self,
        store: DownloadStore,
        publish: Callable[[Event], object],
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """Reads the table. Raises OSError."""
        self.lock = threading.RLock()
        self.clock = clock
        self.wall = wall
        self.entries: dict[str, Entry] = {}
        self.sweep: dict[str, Entry] = {}  # whose files are to be removed, some not in the list
        self._store = store
        self._publish = publish
        self._outbox: deque[Event] = deque()
        self._telling = threading.Lock()
        self._saving = threading.Lock()
        self._gone: set[str] = set()
        self._save_after = float("-inf")
        self._load()

    # -- looking (the lock is the caller's)

    def find(self, download_id: str) -> Entry:
        """Raises NotFound."""
        entry = self.entries.get(download_id)
        if entry is None:
            raise NotFound(
                f"There is no download {download_id[:80]}.", "Look at the list of downloads."
            )
        return entry

    def unfinished(self) -> list[Entry]:
        """In queue order."""
        left = [each for each in self.entries.values() if each.download.state.unfinished]
        return sorted(left, key=lambda each: each.download.order)

    def finished(self) -> list[Entry]:
        """The newest first."""
        ended = [each for each in self.entries.values() if not each.download.state.unfinished]
        return sorted(ended, key=_when_finished, reverse=True)

    def in_state(self, state: DownloadState) -> list[Entry]:
        """In queue order."""
        found = [each for each in self.entries.values() if each.download.state is state]
        return sorted(found, key=lambda each: each.download.order)

    def of_reference(self, reference: str) -> Entry | None:
        """The unfinished download of a reference, else the newest one that may begin anew."""
        for entry in (*self.unfinished(), *self.finished()):
            if entry.download.reference == reference and ALLOWED[entry.download.state]:
                return entry
        return None

    @property
    def unsaved(self) -> bool:
        """Whether the disk knows less than we do."""
        with self.lock:
            return bool(self._gone) or any(entry.unsaved for entry in self._all())

    # -- changing (the lock is the caller's)

    def add(self, entry: Entry) -> None:
        """A new one."""
        self.entries[entry.download.id] = entry
        self.change(entry)

    def move(self, entry: Entry, state: DownloadState, **fields: Any) -> None:
        """The only place where a download changes state."""
        before = entry.download.state
        if state not in ALLOWED[before]:
            raise RuntimeError(f"a download cannot go from {before} to {state}")
        fields = {"error": None, "retry_at": None, "finished_at": None, **fields}
        if state is not DownloadState.RUNNING:
            fields.update(rate_bytes_s=None, eta_s=None, step="")
        if not state.unfinished:
            fields["finished_at"] = self.wall()
        self.change(entry, state=state, **fields)
        if not state.unfinished:
            self._prune()

    def change(self, entry: Entry, **fields: Any) -> None:
        """Replace the download, and have that told and saved."""
        entry.download = dataclasses.replace(entry.download, **fields)
        entry.published_at, entry.unpublished = self.clock(), False
        entry.unsaved = entry.urgent = True
        self._outbox.append(DownloadChanged(entry.download))

    def put(self, entry: Entry, others: list[Entry], index: int) -> None:
        """Give `entry` the place before `others[index]`; `others` are the rest, in order."""
        low = others[index - 1].download.order if index else None
        high = others[index].download.order if index < len(others) else None
        order = _between(low, high)
        if order is not None:
            self.change(entry, order=order)
            return
        for number, each in enumerate([*others[:index], entry, *others[index:]]):
            self.change(each, order=float(number))

    def last_place(self) -> float:
        """Behind all unfinished ones."""
        return max((each.download.order for each in self.unfinished()), default=0.0) + 1.0

    def forget_progress(self, entry: Entry) -> None:
        """What it had is gone, so it begins at nothing: the one way in which a count goes back."""
        entry.waits = 0
        self.change(entry, done_bytes=0, total_bytes=None, warnings=())

    def doom(self, entry: Entry) -> None:
        """Have its files removed, by the thread that sweeps."""
        entry.doomed = entry.unsaved = entry.urgent = True
        self.sweep[entry.download.id] = entry

    def swept(self, entry: Entry) -> None:
        """Its files are gone."""
        del self.sweep[entry.download.id]
        entry.doomed, entry.kept = False, "{}"
        entry.kept_unsaved = entry.unsaved = entry.urgent = True
        if entry.download.id not in self.entries:
            self._gone.add(entry.download.id)

    def drop(self, entry: Entry) -> None:
        """Take it off the list. What a failed one left on the disk goes with it."""
        del self.entries[entry.download.id]
        self._outbox.append(DownloadChanged(entry.download, removed=True))
        if entry.download.state is DownloadState.FAILED:
            self.doom(entry)
        if entry.download.id not in self.sweep:
            self._gone.add(entry.download.id)

    def _prune(self) -> None:
        for entry in self.finished()[KEPT:]:
            self.drop(entry)

    # -- what a run reports

    def begin(self, entry: Entry, reporter: Reporter) -> None:
        """A run begins; the lock is the caller's."""
        entry.reporter, entry.then = reporter, None
        entry.meter = ProgressMeter()
        entry.began_with_bytes = entry.download.done_bytes
        entry.reported_at = self.clock()
        self._count(entry, entry.download.done_bytes, entry.download.total_bytes)
        self.move(entry, DownloadState.RUNNING, step="Starting")

    def report(
        self, entry: Entry, reporter: Reporter, done: int, total: int | None, step: str | None
    ) -> None:
        """Take a count."""
        with self.lock:
            if entry.reporter is not reporter:  # a late thread of a run that has ended
                return
            now = entry.reported_at = self.clock()
            reading = self._count(entry, done, total)
            fields = _fields(reading)
            if step is not None and entry.then is None:
                fields["step"] = step
            entry.download = dataclasses.replace(entry.download, **fields)
            entry.unsaved = entry.unpublished = True
            self._publish_progress(entry, now)
        self.tell()

    def plan(
        self,
        entry: Entry,
        reporter: Reporter,
        title: str,
        total: int | None,
        warnings: tuple[str, ...],
    ) -> None:
        """Take what the hub says."""
        with self.lock:
            if entry.reporter is not reporter:
                return
            if total is None:  # the meter would go on with the total of an earlier plan
                entry.meter = ProgressMeter()
            reading = self._count(entry, entry.download.done_bytes, total)
            title = title or entry.download.title
            self.change(entry, title=title, warnings=warnings, **_fields(reading))
        self.tell()

    def keep(self, entry: Entry, reporter: Reporter, memo: str) -> None:
        """Take the work's memo to the disk."""
        with self.lock:
            if entry.reporter is not reporter or entry.kept == memo:
                return
            entry.kept = memo
            entry.kept_unsaved = entry.unsaved = entry.urgent = True
        self.save(at_once=True)

    def pulse(self) -> None:
        """What is due by now: the last count before a silence, and a rate that falls in one."""
        with self.lock:
            now = self.clock()
            for entry in self.in_state(DownloadState.RUNNING):
                download = entry.download
                if now - entry.reported_at >= SILENCE_S and download.rate_bytes_s:
                    reading = self._count(entry, download.done_bytes, None)
                    entry.download = dataclasses.replace(download, **_fields(reading))
                    entry.unpublished = True
                self._publish_progress(entry, now)
        self.tell()

    def _count(self, entry: Entry, done: int, total: int | None) -> Reading:
        """The meter began with what was there, and never goes back."""
        return entry.meter.update(int(done), total, "bytes", self.clock())

    def _publish_progress(self, entry: Entry, now: float) -> None:
        if entry.unpublished and now - entry.published_at >= PUBLISH_S:
            entry.published_at, entry.unpublished = now, False
            self._outbox.append(DownloadChanged(entry.download))

    # -- telling and saving (without the lock)

    def tell(self) -> None:
        """Publish what happened, in its order. A listener that raises is logged, no more."""
        while self._outbox and self._telling.acquire(blocking=False):
            try:
                while self._outbox:
                    event = self._outbox.popleft()
                    try:
                        self._publish(event)
                    except Exception:
                        log.exception("a download's change could not be published")
            finally:
                self._telling.release()

    def save(self, *, at_once: bool = False, everything: bool = False) -> None:
        """Write what is due; never raises. What could not be written stays due.

        Blocks for a small write, up to 10 s while another process locks the database.
        `at_once` tries even shortly after a failure; `everything` writes progress too.
        """
        with self._saving:  # one at a time, so that a later row never loses to an earlier one
            with self.lock:
                now = self.clock()
                if now < self._save_after and not (at_once or everything):
                    return
                batch = [each for each in self._all() if everything or _is_due(each, now)]
                batch = [each for each in batch if each.unsaved]
                memos = [each.kept_unsaved for each in batch]
                rows = [_row(each) for each in batch]
                gone, self._gone = self._gone, set()
                for entry in batch:
                    entry.unsaved = entry.urgent = entry.kept_unsaved = False
                    entry.saved_at = now
            if not rows and not gone:
                return
            try:
                self._store.save(rows, gone)
                self._save_after = float("-inf")
            except sqlite3.ProgrammingError as exc:  # the engine has closed the database
                log.error("downloads are no longer saved: %s", exc)
            except sqlite3.Error as exc:
                log.error("downloads could not be saved: %s", exc)
                self._save_after = now + SAVE_AGAIN_S
                self._keep_due(batch, memos, gone)

    def _keep_due(self, batch: list[Entry], memos: list[bool], gone: set[str]) -> None:
        with self.lock:
            self._gone |= gone
            for entry, memo in zip(batch, memos, strict=True):
                entry.unsaved = entry.urgent = True
                entry.kept_unsaved |= memo

    def _all(self) -> list[Entry]:
        removed = [each for key, each in self.sweep.items() if key not in self.entries]
        return [*self.entries.values(), *removed]

    def _load(self) -> None:
        for row in self._store.load():
            download = row.download
            fields: dict[str, Any] = {}
            if download.state is DownloadState.RUNNING:  # the engine died, or was killed
                fields["state"] = DownloadState.QUEUED
            if not download.state.unfinished and download.finished_at is None:
                fields["finished_at"] = self.wall()
            if row.doomed and download.state.unfinished:
                fields.update(done_bytes=0, total_bytes=None)
            entry = Entry(dataclasses.replace(download, step="", **fields), row.kept or "{}")
            if download.state is DownloadState.WAITING:  # clocks may have been set meanwhile
                left_s = min((download.retry_at or 0.0) - self.wall(), BACK_OFF_S[-1])
                entry.retry_due = self.clock() + left_s
                entry.download = dataclasses.replace(entry.download, retry_at=self.wall() + left_s)
            self.entries[download.id] = entry
            if row.doomed:
                self.doom(entry)
        self._prune()
        self._outbox.clear()  # whoever listens has asked for a snapshot first


def _when_finished(entry: Entry) -> tuple[float, float]:
    return entry.download.finished_at or 0.0, entry.download.order


def _fields(reading: Reading) -> dict[str, Any]:
    rate, eta_s = reading.rate_per_s, reading.eta_s
    if rate is not None and rate < LEAST_RATE:
        rate, eta_s = 0.0, None
    return {
        "done_bytes": reading.done,
        "total_bytes": reading.total,
        "rate_bytes_s": rate,
        "eta_s": eta_s,
    }


def _row(entry: Entry) -> Row:
    """As the next engine should find it: a wish that is not yet fulfilled counts as fulfilled."""
    download = entry.download
    if entry.then is not None:
        download = dataclasses.replace(download, state=entry.then)
    return Row(download, entry.doomed, entry.kept if entry.kept_unsaved else None)


def _is_due(entry: Entry, now: float) -> bool:
    return entry.unsaved and (entry.urgent or now - entry.saved_at >= SAVE_S)


def _between(low: float | None, high: float | None) -> float | None:
    """A number between two; None when there is no room for one."""
    if high is None:
        return (low or 0.0) + 1.0
    if low is None:
        return high - 1.0
    middle = low + (high - low) / 2
    return middle if low < middle < high else None
