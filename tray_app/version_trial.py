"""`version-trial`: outlives a change of versions, and takes it back when the new one stays away.

The engine starts it just before it ends. It runs on the version that was in use, starts the new
one as soon as engine and tray have gone, and waits until that says by itself that it has come up.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import psutil

from .app_versions import Choice, OwnCopy, environment_for_another, read_choice

log = logging.getLogger(__name__)

LOG_NAME = "version-trial.log"
TRIAL_S = 90.0  # for the new version to come up; measured: 6 s
TRIAL_VARIABLE = "LLAMA_WRANGLER_TRIAL_S"  # another time, for tests and slow machines
ANSWERS_S = 7 * 3600.0  # the engine ends its answers first, however long they take
TRAY_S = 60.0
POLL_S = 0.1
END_S = 15.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be tried, and how the app ran before."""

    copy: OwnCopy
    version: str
    home: Path
    mode: str  # of the engine: "tray", "serve" or "once"
    shown: bool  # the user looks at a window
    tray: bool  # there was one
    trial_s: float  # from its start until it has come up


def main(words: Sequence[str]) -> int:
    """Run one trial; 0 when the new version has come up. Blocks until that is known."""
    form, program, version, home, mode, shown, tray = words
    copy = OwnCopy(Path(program), form == "image")
    order = Order(copy, version, Path(home), mode, shown == "shown", tray == "tray", trial_s())
    logging.basicConfig(
        filename=order.home / "logs" / LOG_NAME,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
    )
    try:
        return 0 if Trial(order).run() else 1
    except Exception:  # barrier: nobody reads what this process raises
        log.exception("the trial of version %s broke off", version)
        return 1


def trial_s(environ: Mapping[str, str] = os.environ) -> float:
    """Seconds that a new version has for coming up."""
    try:
        return min(max(float(environ.get(TRIAL_VARIABLE, "")), 1.0), 3600.0)
    except ValueError:
        return TRIAL_S


class Trial:
    """One change of versions."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._pause = threading.Event()
        self._words = ["serve"]
        self._parent = psutil.Process(os.getppid())  # the engine, also once it is another program

    def run(self) -> bool:
        """Start, watch, and take back where need be. Raises OSError."""
        order = self._order
        started: subprocess.Popen[bytes] | None = None
        if order.mode == "serve":  # such an engine becomes the new one itself: see `daemon`
            if not self._becomes():
                return False
        else:
            if not self._free(order.home / "engine.lock", ANSWERS_S):
                log.error("the engine did not end: nothing is started")
                return False
            changed = self._changed()
            gone = order.tray and self._free(order.home / "tray.lock", TRAY_S if changed else END_S)
            hidden = [] if order.shown else ["--hidden"]
            self._words = ["tray", *hidden] if gone else ["engine", "--mode", order.mode]
            if not changed:  # the engine was killed first, or the disk is full
                log.error("the versions were not changed")
                if gone:
                    self._start()
                return False
            started = self._start()
        problem = self._wait(started)
        if problem is None:
            log.info("version %s has come up", order.version)
            return True
        log.error("version %s did not come up: %s", order.version, problem)
        self._end(started)
        if self._changed():
            order.copy.take_back(problem)
        self._start()
        return False

    def _changed(self) -> bool:
        return read_choice(self._order.copy.pointer).current == self._order.version

    def _becomes(self) -> bool:
        """Wait until the engine has ended its answers; False when it ends as what it was."""
        deadline = time.monotonic() + ANSWERS_S
        while time.monotonic() < deadline:
            if self._changed():
                return True
            if not _alive(self._parent):
                return False
            self._pause.wait(POLL_S)
        return False

    def _wait(self, started: subprocess.Popen[bytes] | None) -> str | None:
        """None once the new version has come up, or it is no longer ours to judge; else why not."""
        order, deadline = self._order, time.monotonic() + self._order.trial_s
        while time.monotonic() < deadline:
            choice: Choice = read_choice(order.copy.pointer)
            if choice.confirmed:
                return None
            if started is None and not _alive(self._parent):
                return "It ended at once."
            status = started.poll() if started is not None else None
            if status:
                return f"It ended at once (exit status {status})."
            if status == 0:  # the user has quit it in the meantime
                return None
            self._pause.wait(POLL_S)
        return f"It did not come up within {order.trial_s:.0f} seconds."

    def _start(self) -> subprocess.Popen[bytes]:
        """The copy's program, which chooses its version. Raises OSError."""
        environment = environment_for_another(os.environ)
        environment["LLAMA_WRANGLER_HOME"] = str(self._order.home)
        argv = [str(self._order.copy.program), *self._words]
        log.info("starting %s", argv)
        flags: dict[str, Any] = {"start_new_session": True}
        if sys.platform == "win32":
            flags = {"creationflags": subprocess.CREATE_NO_WINDOW}
        silent = subprocess.DEVNULL
        return subprocess.Popen(
            argv, stdin=silent, stdout=silent, stderr=silent, env=environment, **flags
        )

    def _end(self, started: subprocess.Popen[bytes] | None) -> None:
        """End what runs of the new version; its models end with their engine."""
        found: list[psutil.Process] = []
        for process in (_process(started) if started else self._parent, self._engine()):
            if process is not None and _alive(process):  # its number may be another's now
                with contextlib.suppress(psutil.Error):
                    found += [process, *process.children(recursive=True)]
        found = [process for process in found if process.pid != os.getpid()]
        for act in (psutil.Process.terminate, psutil.Process.kill):
            deadline = time.monotonic() + END_S
            for process in filter(_alive, found):
                with contextlib.suppress(psutil.Error):  # it has gone by itself
                    act(process)
            while any(map(_alive, found)) and time.monotonic() < deadline:
                self._pause.wait(POLL_S)
        self._free(self._order.home / "engine.lock", END_S)

    def _engine(self) -> psutil.Process | None:
        """The engine of the new version, as it says itself, and the system too."""
        try:
            row = json.loads((self._order.home / "runtime.json").read_text("utf-8"))
            process = psutil.Process(int(row["pid"]))
            began = process.create_time() == row["create_time"]
            return process if began and row["version"] == self._order.version else None
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return None

    def _free(self, path: Path, timeout_s: float) -> bool:
        """Wait until nobody holds a lock."""
        deadline = time.monotonic() + timeout_s
        while _held(path):
            if time.monotonic() > deadline:
                return False
            self._pause.wait(POLL_S)
        return True


def _held(path: Path) -> bool:
    lock = filelock.FileLock(path, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False


def _process(started: subprocess.Popen[bytes]) -> psutil.Process | None:
    try:
        return psutil.Process(started.pid)
    except psutil.Error:
        return None


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
