"""The queue of downloads: ordered, a few at a time, kept in state.db across engine processes."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from tray_app.engine.errors import BadRequest, EngineError
from tray_app.engine.events import Event
from tray_app.engine.state import StateDb

from . import connectivity
from .queue_crew import Crew, Discard, Surroundings, Work
from .queue_entry import MOST_TITLE, Entry, Reason, Reporter
from .queue_ledger import Ledger
from .queue_store import DownloadStore
from .values import Download, DownloadState

__all__ = ["DownloadQueue", "Reporter"]

MOST_REFERENCE = 2000  # characters; a URL of a hub has some hundred
PACE_S = 0.2
QUEUED, RUNNING, PAUSED = DownloadState.QUEUED, DownloadState.RUNNING, DownloadState.PAUSED
WAITING, FAILED, CANCELLED = DownloadState.WAITING, DownloadState.FAILED, DownloadState.CANCELLED
STOPPABLE = (QUEUED, RUNNING, WAITING)


def _nothing_left(_download: Download, _kept: Mapping[str, Any]) -> None:
    """For work that leaves nothing on the disk."""


class DownloadQueue:
    """All commands are for any thread and never wait for a download.

    They are on the disk when they return; each blocks for one small write, up to 10 s while
    another process locks the database, and goes on in memory when that fails. Each but `remove`
    returns the download as it is after it.
    """

    def __init__(
        self,
        db: StateDb,
        work: Work,
        publish: Callable[[Event], object],
        *,
        concurrent: Callable[[], int] = lambda: 2,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        online: Callable[[], bool] = connectivity.online,
        local: Callable[[str], bool] = connectivity.is_local,
        discard: Discard = _nothing_left,
        pace_s: float = PACE_S,
    ) -> None:
        """Reads the list of earlier engines; nothing runs before `start`. Raises OSError.

        `work(download, reporter)` runs on a thread of its own and returns the model's path.
        `discard(download, kept)` removes what an unfinished one has left on the disk, on a thread
        too; nothing of the same reference runs meanwhile. `publish` must not block. `concurrent`
        is asked before each start: fewer end none, more begin within 2 s. `local(reference)`
        tells what needs no network. `pace_s` is how often what runs is looked after.
        """
        self._wall = wall
        self._ledger = Ledger(DownloadStore(db), publish, clock, wall)
        around = Surroundings(concurrent, online, local, discard)
        self._crew = Crew(self._ledger, work, around, pace_s)

    def start(self) -> None:
        """Go on where the last engine ended."""
        self._crew.open()

    # -- looking

    def list(self) -> tuple[Download, ...]:
        """The unfinished ones in queue order, then the finished ones, the newest first."""
        with self._ledger.lock:
            entries = [*self._ledger.unfinished(), *self._ledger.finished()]
            return tuple(entry.download for entry in entries)

    def get(self, download_id: str) -> Download:
        """Raises NotFound."""
        with self._ledger.lock:
            return self._ledger.find(download_id).download

    # -- commands

    def add(self, reference: str, title: str = "") -> Download:
        """Queue a reference; the download of the same one is joined, and goes on.

        A failed one begins anew with the bytes it has, a cancelled one at nothing, both at the
        end of the queue. Raises BadRequest, and EngineError while the engine ends.
        """
        reference = reference.strip()
        if not reference or len(reference) > MOST_REFERENCE or not reference.isprintable():
            raise BadRequest(
                f"{reference[:80]!r} names no model.",
                f"Give the name or address of one, of at most {MOST_REFERENCE} characters.",
            )
        ledger = self._ledger
        with ledger.lock:
            if self._crew.closing:
                raise EngineError("The engine is stopping.", "Start it again, then retry.")
            entry = ledger.of_reference(reference)
            if entry is None:
                entry = self._new(reference, title.strip()[:MOST_TITLE])
                ledger.add(entry)
            else:
                self._ask_again(entry)
        return self._done(entry)

    def pause(self, download_id: str) -> Download:
        """Stop it for as long as the user likes; a finished one stays as it is. Raises NotFound."""
        with self._ledger.lock:
            entry = self._ledger.find(download_id)
            self._pause(entry)
        return self._done(entry)

    def resume(self, download_id: str) -> Download:
        """Let a paused one go on, a waiting one now; others stay as they are. Raises NotFound."""
        with self._ledger.lock:
            entry = self._ledger.find(download_id)
            self._resume(entry)
        return self._done(entry)

    def retry(self, download_id: str) -> Download:
        """What `add` does for the reference of this one; nothing if it is done. Raises NotFound."""
        with self._ledger.lock:
            entry = self._ledger.find(download_id)
            self._ask_again(entry)
        return self._done(entry)

    def cancel(self, download_id: str) -> Download:
        """End it and remove what it left on the disk, of a failed one too. Raises NotFound."""
        with self._ledger.lock:
            entry = self._ledger.find(download_id)
            if entry.download.state is RUNNING:
                entry.doomed = True
                self._crew.ask_to_end(entry, Reason.CANCEL, CANCELLED)
                self._ledger.change(entry, step="Cancelling")
            elif entry.download.state not in (DownloadState.DONE, CANCELLED):
                self._ledger.move(entry, CANCELLED)
                self._ledger.doom(entry)
        return self._done(entry)

    def pause_all(self) -> tuple[Download, ...]:
        """Pause each that is not finished; later ones are not concerned."""
        with self._ledger.lock:
            for entry in self._ledger.unfinished():
                self._pause(entry)
        self._crew.go_on()
        return self.list()

    def resume_all(self) -> tuple[Download, ...]:
        """Resume each that is paused or waits."""
        with self._ledger.lock:
            for entry in self._ledger.unfinished():
                self._resume(entry)
        self._crew.go_on()
        return self.list()

    def move(self, download_id: str, before: str | None) -> Download:
        """Put an unfinished one before another, or at the end. Raises NotFound, BadRequest.

        What runs already is not interrupted by it.
        """
        with self._ledger.lock:
            entry = self._ledger.find(download_id)
            ahead = None if before is None else self._ledger.find(before)
            queue = self._ledger.unfinished()
            if entry not in queue or (ahead is not None and ahead not in queue):
                raise BadRequest(
                    "A finished download has no place in the queue.", "Look at the list again."
                )
            if ahead is not entry:
                queue.remove(entry)
                self._ledger.put(entry, queue, len(queue) if ahead is None else queue.index(ahead))
        return self._done(entry)

    def remove(self, download_id: str) -> None:
        """Take a finished one off the list, and what a failed one has left off the disk.

        Raises NotFound, and BadRequest when it is not finished.
        """
        with self._ledger.lock:
            entry = self._ledger.find(download_id)
            if entry.download.state.unfinished:
                raise BadRequest("That download is not finished.", "Cancel it first.")
            self._ledger.drop(entry)
        self._crew.go_on()

    def close(self, timeout_s: float = 15.0) -> bool:
        """End what runs, to go on with the next engine. False when one did not end in time."""
        return self._crew.close(timeout_s)

    # -- steps of commands; the ledger's lock is held

    def _new(self, reference: str, title: str) -> Entry:
        return Entry(
            Download(
                id=f"download-{secrets.token_hex(4)}",
                reference=reference,
                title=title or reference[:MOST_TITLE],
                created_at=self._wall(),
                order=self._ledger.last_place(),
            )
        )

    def _pause(self, entry: Entry) -> None:
        if entry.download.state is not RUNNING:
            if entry.download.state in STOPPABLE:
                self._ledger.move(entry, PAUSED)
        elif entry.then is not CANCELLED:
            self._crew.ask_to_end(entry, Reason.PAUSE, PAUSED)
            self._ledger.change(entry, step="Pausing")

    def _resume(self, entry: Entry) -> None:
        if entry.download.state in (PAUSED, WAITING):
            entry.waits = 0
            self._ledger.move(entry, QUEUED)
        elif entry.then is PAUSED:
            self._run_again(entry)

    def _run_again(self, entry: Entry) -> None:
        """Its run is told to end already: another follows."""
        entry.then = QUEUED
        self._ledger.change(entry, step="Starting again")

    def _ask_again(self, entry: Entry) -> None:
        state = entry.download.state
        if entry.then is CANCELLED:
            self._run_again(entry)
        elif state not in (FAILED, CANCELLED):
            self._resume(entry)
        else:
            entry.waits = 0
            self._ledger.change(entry, order=self._ledger.last_place())
            self._ledger.move(entry, QUEUED)
            if state is CANCELLED:
                self._ledger.forget_progress(entry)

    def _done(self, entry: Entry) -> Download:
        self._crew.go_on()
        with self._ledger.lock:
            return entry.download
