"""Reads a child's output from a pipe, line by line, without ever hanging on it."""

from __future__ import annotations

import logging
import os
import re
import selectors
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)

MAX_LINE_BYTES = 16 * 1024  # a longer line is delivered in pieces
CHUNK_BYTES = 64 * 1024
LINE_END = re.compile(rb"[\r\n]")


class LineSplitter:
    """Cuts a byte stream into text lines; a carriage return alone ends a line too."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._rest = b""
        self._limit = max_line_bytes

    def feed(self, chunk: bytes) -> list[str]:
        """The lines completed by `chunk`, without their ends. Empty lines are left out."""
        *complete, self._rest = LINE_END.split(self._rest + chunk)
        while len(self._rest) > self._limit:
            complete.append(self._rest[: self._limit])
            self._rest = self._rest[self._limit :]
        pieces = (
            line[start : start + self._limit]
            for line in complete
            for start in range(0, len(line), self._limit)
        )
        return [piece.decode("utf-8", "replace") for piece in pieces]

    def rest(self) -> list[str]:
        """What came after the last line end."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []


class OutputReader:
    """A pipe and the thread that reads it into a listener and, if given, a log file."""

    def __init__(self, on_line: Callable[[str], None] | None, log_path: Path | None) -> None:
        self._on_line = on_line
        self._log: BinaryIO | None = log_path.open("ab", buffering=0) if log_path else None
        self._splitter = LineSplitter()
        self._read_end, self.write_end = os.pipe()
        self._wake_read, self._wake_write = os.pipe()
        self._deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="child-output", daemon=True)

    def start(self) -> None:
        """Begin to read; `write_end` belongs to the caller, who gives it to the child."""
        self._thread.start()

    def finish(self, drain_s: float) -> None:
        """Read what is left for at most `drain_s`, then close, whoever still holds the pipe."""
        self._deadline = time.monotonic() + drain_s
        os.write(self._wake_write, b"x")
        if sys.platform == "win32":
            self._thread.join(drain_s)  # the job object has ended every writer: it sees EOF
        else:
            self._thread.join()
        self.close()

    def close(self) -> None:
        """Give back the descriptors, except `write_end`."""
        for descriptor in (self._read_end, self._wake_read, self._wake_write):
            os.close(descriptor)
        if self._log is not None:
            self._log.close()

    def _run(self) -> None:
        while chunk := self._next_chunk():
            if self._log is not None:
                self._log.write(chunk)
            self._deliver(self._splitter.feed(chunk))
        self._deliver(self._splitter.rest())

    def _next_chunk(self) -> bytes:
        """The next output; empty at its end or once the time to drain is over."""
        if os.name != "nt" and not self._wait_for_output():  # Windows cannot select on pipes
            return b""
        return os.read(self._read_end, CHUNK_BYTES)

    def _wait_for_output(self) -> bool:
        with selectors.DefaultSelector() as selector:
            selector.register(self._read_end, selectors.EVENT_READ)
            if self._deadline is None:
                selector.register(self._wake_read, selectors.EVENT_READ)
                selector.select()  # output, or `finish` has set the deadline
                selector.unregister(self._wake_read)
            if self._deadline is None:
                return True
            left_s = self._deadline - time.monotonic()
            return left_s > 0 and bool(selector.select(left_s))

    def _deliver(self, lines: list[str]) -> None:
        if self._on_line is None:
            return
        for line in lines:
            try:
                self._on_line(line)
            except Exception:  # barrier: a stuck pipe would block the child
                log.exception("a listener of a child's output failed")
