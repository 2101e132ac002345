"""The queue's threads: one for each running download, one that looks after them, one that sweeps.

None of them exists while there is nothing to do. Each is a barrier: what a download raises
becomes its state.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tray_app.engine.errors import Cancelled, DownloadFailed, EngineError, ErrorView

from .queue_entry import BACK_OFF_S, Entry, Reason, Reporter, memo_of
from .queue_ledger import Ledger
from .values import Download, DownloadState

log = logging.getLogger(__name__)

Work = Callable[[Download, Reporter], str | None]
Discard = Callable[[Download, Mapping[str, Any]], object]

LOOK_ROUNDS = 10  # the network is looked at in each tenth round: every two seconds


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the queue is told from outside. None of these may block for long."""

    concurrent: Callable[[], int]
    online: Callable[[], bool]
    local: Callable[[str], bool]  # whether a reference needs no network
    discard: Discard


@dataclass(frozen=True, slots=True)
class _End:
    """How a run ended by itself."""

    state: DownloadState
    error: ErrorView | None = None
    model_path: str | None = None


class Crew:
    """Starts what may run and brings each run to its end. Thread-safe."""

    def __init__(self, ledger: Ledger, work: Work, around: Surroundings, pace_s: float) -> None:
        """Nothing runs before `open`."""
        self._ledger = ledger
        self._work = work
        self._around = around
        self._pace_s = pace_s
        self._threads: set[threading.Thread] = set()
        self._minder: threading.Thread | None = None
        self._sweeper: threading.Thread | None = None
        self._wake = threading.Event()
        self._open = False
        self.closing = False

    def open(self) -> None:
        """Begin with what is queued."""
        self._open = True
        self.go_on()

    def go_on(self) -> None:
        """Start what may run now, and tell and save what happened. Without the ledger's lock."""
        limit = self._around.concurrent()
        ledger = self._ledger
        with ledger.lock:
            if self._open and not self.closing:
                self._fill(limit)
                self._employ()
        ledger.tell()
        ledger.save(at_once=True)

    def ask_to_end(self, entry: Entry, reason: Reason, then: DownloadState) -> None:
        """End a run; it becomes `then`. The ledger's lock is the caller's."""
        assert entry.reporter is not None
        entry.then = then
        entry.reporter.ask_to_end(reason)

    def close(self, timeout_s: float) -> bool:
        """End all runs and wait for them; what ran will be QUEUED. False when one goes on."""
        with self._ledger.lock:
            self.closing = True
            for entry in self._ledger.in_state(DownloadState.RUNNING):
                self.ask_to_end(entry, Reason.CLOSE, entry.then or DownloadState.QUEUED)
            threads = list(self._threads)
        self._wake.set()
        deadline = time.monotonic() + timeout_s
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._ledger.tell()
        self._ledger.save(everything=True)
        return not any(thread.is_alive() for thread in threads)

    # -- starting (the ledger's lock is held)

    def _ready(self) -> list[Entry]:
        swept = {each.download.reference for each in self._ledger.sweep.values()}
        queued = self._ledger.in_state(DownloadState.QUEUED)
        return [each for each in queued if each.download.reference not in swept]

    def _fill(self, limit: int) -> None:
        running = len(self._ledger.in_state(DownloadState.RUNNING))
        for entry in self._ready()[: max(0, limit - running)]:
            reporter = Reporter(self._ledger, entry)
            if not self._start("download", functools.partial(self._run, entry, reporter)):
                return
            self._ledger.begin(entry, reporter)
            self._wake.set()

    def _employ(self) -> None:
        if self._minder is None and self._needs_minding():
            self._minder = self._start("downloads", self._mind)
        if self._sweeper is None and self._ledger.sweep:
            self._sweeper = self._start("downloads-sweep", self._sweep)

    def _start(self, name: str, body: Callable[[], None]) -> threading.Thread | None:
        """None when the system has no thread for us: it is tried again later."""

        def run() -> None:
            try:
                body()
            finally:
                with self._ledger.lock:
                    self._threads.discard(thread)

        thread = threading.Thread(target=run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            log.error("no thread for a download: %s", exc)
            return None
        self._threads.add(thread)
        return thread

    # -- one download, on its own thread

    def _run(self, entry: Entry, reporter: Reporter) -> None:
        with self._ledger.lock:  # whoever started this thread still writes down that it runs
            download = entry.download
        end = self._outcome(download, reporter)
        with self._ledger.lock:
            self._finish(entry, end)
        self.go_on()

    def _outcome(self, download: Download, reporter: Reporter) -> _End:
        """Do the work. This is the barrier: nothing it raises goes further."""
        try:
            reporter.check()
            path = self._work(download, reporter)
        except Cancelled:
            if reporter.reason is None:
                log.error("download %s stopped without being asked to", download.id)
            return _End(DownloadState.FAILED, _internal("Cancelled"))
        except EngineError as exc:
            log.warning("download %s failed: %s", download.reference, exc, exc_info=exc)
            return self._failed(download, exc, exc.view())
        except OSError as exc:
            log.error("download %s failed", download.reference, exc_info=exc)
            return self._failed(download, exc, _view_of(exc))
        except BaseException as exc:  # whatever it is, the run must come to an end
            log.error("download %s failed", download.reference, exc_info=exc)
            return _End(DownloadState.FAILED, _internal(type(exc).__name__))
        return _End(DownloadState.DONE, model_path=path)

    def _failed(self, download: Download, exc: Exception, view: ErrorView) -> _End:
        by_network = isinstance(exc, DownloadFailed | ConnectionError | TimeoutError)
        away = by_network and not self._around.local(download.reference)
        if away and not self._around.online():
            return _End(DownloadState.WAITING, view)
        return _End(DownloadState.FAILED, view)

    def _finish(self, entry: Entry, end: _End) -> None:
        """The wish of whoever asked it to end goes before an error, not before success."""
        ledger, then = self._ledger, entry.then
        entry.reporter = entry.then = None
        if end.state is DownloadState.DONE:
            entry.doomed = False
            ledger.move(entry, end.state, model_path=end.model_path)
        elif then is not None:
            ledger.move(entry, then)
            if entry.doomed:
                ledger.doom(entry)
                if then is not DownloadState.CANCELLED:  # cancelled, then asked for again
                    ledger.forget_progress(entry)
        elif end.state is DownloadState.WAITING:
            self._wait(entry, end)
        else:
            ledger.move(entry, end.state, error=end.error)

    def _wait(self, entry: Entry, end: _End) -> None:
        ledger = self._ledger
        if entry.download.done_bytes > entry.began_with_bytes:
            entry.waits = 0
        pause_s = BACK_OFF_S[min(entry.waits, len(BACK_OFF_S) - 1)]
        entry.waits += 1
        entry.retry_due = ledger.clock() + pause_s
        ledger.move(entry, end.state, error=end.error, retry_at=ledger.wall() + pause_s)

    # -- looking after them

    def _needs_minding(self) -> bool:
        states = {each.download.state for each in self._ledger.entries.values()}
        watched = {DownloadState.RUNNING, DownloadState.WAITING, DownloadState.QUEUED}
        return bool(states & watched) or self._ledger.unsaved

    def _mind(self) -> None:
        rounds = 0
        while True:
            with self._ledger.lock:
                if self.closing or not self._needs_minding():
                    self._minder = None
                    return
                busy = bool(self._ledger.in_state(DownloadState.RUNNING))
            self._wake.wait(self._pace_s if busy else self._pace_s * LOOK_ROUNDS)
            self._wake.clear()
            rounds += 1
            try:
                self._round(looks=not busy or rounds % LOOK_ROUNDS == 0)
            except Exception:
                log.exception("looking after the downloads failed")

    def _round(self, looks: bool) -> None:
        ledger = self._ledger
        ledger.pulse()
        with ledger.lock:
            waiting = bool(ledger.in_state(DownloadState.WAITING))
        back = waiting and looks and self._around.online()
        with ledger.lock:
            for entry in ledger.in_state(DownloadState.WAITING):
                if not self.closing and (back or entry.retry_due <= ledger.clock()):
                    ledger.move(entry, DownloadState.QUEUED)
        limit = self._around.concurrent()
        with ledger.lock:
            if not self.closing:
                self._fill(limit)
        ledger.tell()
        ledger.save()

    # -- removing what cancelled ones left

    def _sweep(self) -> None:
        ledger = self._ledger
        while True:
            with ledger.lock:
                entry = next(iter(ledger.sweep.values()), None)
                if entry is None or self.closing:
                    self._sweeper = None
                    return
                download, kept = entry.download, memo_of(entry.kept)
            try:
                self._around.discard(download, kept)
            except Exception:
                log.exception("what is left of download %s was not removed", download.reference)
            with ledger.lock:
                ledger.swept(entry)
            self.go_on()


def _internal(name: str) -> ErrorView:
    return ErrorView(
        "internal",
        f"Something unexpected went wrong ({name}).",
        "The engine's log has the details; please report it.",
    )


def _view_of(exc: OSError) -> ErrorView:
    """An operating system error in words."""
    where = f": {exc.filename}" if exc.filename else ""
    reason = os.strerror(exc.errno) if exc.errno else str(exc)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return ErrorView("not_enough_disk", f"{reason}{where}", "Free some disk space, then retry.")
    return ErrorView("os_error", f"{reason}{where}", "The engine's log has the details.")
