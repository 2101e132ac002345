"""The tray's line to the engine: starts it, follows its events, and comes back when it dies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from .client import Client, ClientError, ensure_engine

log = logging.getLogger(__name__)

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# An engine that lived this long starts the back-off from the beginning.
SETTLED_S = 20.0
COALESCE_S = 0.05
# A snapshot of 5000 models takes about 0.1 s; fetching them may take this share of a core.
_REFRESH_SHARE = 0.1
# How often to look for an engine that someone else started after this one was stopped.
_LOOK_S = 5.0
# Progress alone changes a percentage in the menu: five snapshots a second would be for nothing.
_PROGRESS_S = 2.0
# Events that change nothing the tray shows.
_SILENT = frozenset({"Ping", "RequestFinished", "WindowRequested"})


class Phase(StrEnum):
    """How the tray stands with the engine."""

    STARTING = "starting"
    ONLINE = "online"
    LOST = "lost"  # it died or did not start; the next try comes by itself
    STOPPED = "stopped"  # someone ended it on purpose; it is not started again unasked


@dataclass(frozen=True, slots=True)
class View:
    """What the tray knows. `snapshot` is there only while ONLINE."""

    phase: Phase
    snapshot: Mapping[str, Any] | None = None
    problem: str = ""


class EngineLink:
    """Two threads: one reads events and reconnects, one fetches snapshots.

    `on_view(view)` and `on_event(name, values)` run on those threads.
    """

    def __init__(
        self,
        home: Path,
        on_view: Callable[[View], None],
        on_event: Callable[[str, Mapping[str, Any]], None],
        *,
        start_engine: Callable[[Path], Client] = ensure_engine,
        find_engine: Callable[[Path], Client] = Client.connect,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._on_view = on_view
        self._on_event = on_event
        self._start_engine = start_engine
        self._find_engine = find_engine
        self._clock = clock
        self._lock = threading.Lock()  # guards _client and the order of views
        self._client: Client | None = None
        self._downloads: dict[str, tuple[str, float]] = {}  # running ones: state, last shown
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._dirty = threading.Event()

    def start(self) -> None:
        """Begin; returns at once."""
        for target in (self._follow, self._refresh):
            threading.Thread(target=target, name=target.__name__.strip("_"), daemon=True).start()

    def stop(self) -> None:
        """Follow no longer, and do not restart what ends from now on."""
        self._stopping.set()
        self._wake.set()
        self._dirty.set()

    def retry(self) -> None:
        """Try again now instead of after the pause."""
        self._wake.set()

    def client_or_none(self) -> Client | None:
        """The connected client, if there is one."""
        with self._lock:
            return self._client

    def call(self, name: str, /, **args: Any) -> Any:
        """Run one command; blocks until the engine answers. Raises ClientError."""
        client = self.client_or_none()
        if client is None:
            raise ClientError(
                "engine_unreachable",
                "The engine is not running.",
                'Choose "Restart the engine" in the tray menu.',
            )
        return client.call(name, **args)

    def _follow(self) -> None:
        failures = 0
        connect: Callable[[Path], Client] = self._start_engine
        while not self._stopping.is_set():
            began = self._clock()
            try:
                on_purpose = self._session(connect(self._home))
            except ClientError as error:
                if connect is self._find_engine:
                    connect = self._start_engine if self._pause(_LOOK_S) else self._find_engine
                    continue
                on_purpose = False
                problem = error.message
                log.warning("the engine did not answer", extra={"code": error.code})
            else:
                problem = "The engine ended unexpectedly."
                failures = 0 if self._clock() - began > SETTLED_S else failures
            if on_purpose:
                self._show(View(Phase.STOPPED, problem="The engine was stopped."))
                failures = 0
                connect = self._start_engine if self._pause(_LOOK_S) else self._find_engine
                continue
            self._show(View(Phase.LOST, problem=problem))
            self._pause(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1
            connect = self._start_engine

    def _session(self, client: Client) -> bool:
        """Follow one engine to its end; True when it said that it ends."""
        try:
            snapshot = client.snapshot()
            with self._lock:
                self._client = client
                self._on_view(View(Phase.ONLINE, snapshot))
            for _, name, values in client.events(after=snapshot["seq"]):
                if self._stopping.is_set() or name == "EngineStopping":
                    return True
                if name not in _SILENT and not self._is_progress(name, values):
                    self._dirty.set()
                if name != "Ping":
                    self._on_event(name, values)
            return False
        finally:
            with self._lock:
                self._client = None

    def _is_progress(self, name: str, values: Mapping[str, Any]) -> bool:
        """Whether an event only tells a count, shortly after another one did."""
        download = values.get("download") if name == "DownloadChanged" else None
        if not download or values.get("removed"):
            return False
        download_id, state = str(download.get("id")), str(download.get("state"))
        before, since = self._downloads.get(download_id, ("", float("-inf")))
        if state == before and self._clock() - since < _PROGRESS_S:
            return True
        if state == "running":
            self._downloads[download_id] = (state, self._clock())
        else:
            self._downloads.pop(download_id, None)
        return False

    def _refresh(self) -> None:
        pause_s = COALESCE_S
        while not self._stopping.is_set():
            self._dirty.wait()
            # Not Event.wait on _dirty: more events must not end the pause.
            self._stopping.wait(pause_s)
            self._dirty.clear()
            with self._lock:
                client = self._client
            if client is None or self._stopping.is_set():
                continue
            began = self._clock()
            try:
                snapshot = client.snapshot()
            except ClientError:
                continue  # _follow sees the end of the events and says so
            pause_s = max(COALESCE_S, (self._clock() - began) / _REFRESH_SHARE)
            with self._lock:
                if client is self._client:
                    self._on_view(View(Phase.ONLINE, snapshot))

    def _show(self, view: View) -> None:
        if not self._stopping.is_set():
            self._on_view(view)

    def _pause(self, seconds: float) -> bool:
        """Wait; True when `retry` cut it short."""
        asked = self._wake.wait(seconds)
        self._wake.clear()
        return asked
