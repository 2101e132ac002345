"""Who follows a build: a job, or a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path
from typing import Protocol


class Reporter(Protocol):
    """Who follows a build: a JobContext, or a terminal."""

    cancel: threading.Event
    log_path: Path | None

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None: ...

    def check(self) -> None: ...


class Terminal:
    """A build followed on a terminal: one line for each step, and each tenth of the way."""

    def __init__(self, log_path: Path | None) -> None:
        self.cancel = threading.Event()
        self.log_path = log_path
        self._step = ""
        self._tenth = -1

    def check(self) -> None:
        """Ctrl-C raises KeyboardInterrupt by itself."""

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None:
        if step is not None and step != self._step:
            self._step, self._tenth = step, -1
            sys.stderr.write(f"    {step}\n")
        tenth = done * 10 // total if total else -1
        if tenth > self._tenth:
            self._tenth = tenth
            sys.stderr.write(f"    {step or self._step}: {done:,} of {total:,} {unit}\n")


def tell(reporter: Reporter, text: str) -> None:
    """Make `text` the step that is shown, and keep it in the log."""
    reporter.progress(0, None, "steps", text)
    note(reporter, text)


def note(reporter: Reporter, text: str) -> None:
    """A line in the log only. A log that cannot be written stops no build."""
    if reporter.log_path is not None:
        with contextlib.suppress(OSError), reporter.log_path.open("a", encoding="utf-8") as log:
            log.write(f"== {text}\n")
