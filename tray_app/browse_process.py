"""The browse window as a child of the window's process: at most one; its wishes are lines."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence

from .self_command import self_command, source_root

log = logging.getLogger(__name__)

MAX_LINE = 4096  # bytes; a reference has at most 2,000 characters
# Secrets, and a debugging port that is meant for the window alone.
_OURS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "QTWEBENGINE_REMOTE_DEBUGGING")


def browse_command(site: str, endpoint: str | None) -> list[str]:
    """The command line of the browse window."""
    more = ("--endpoint", endpoint) if endpoint else ()
    return self_command("browse", "--site", site, *more, "--owned")


class BrowseProcess:
    """Starts the browse window; `on_wish(reference)` runs on a thread that reads its stdout.

    The child holds the other end of its stdin: it ends when this process does, even by SIGKILL.
    """

    def __init__(
        self,
        on_wish: Callable[[str], None],
        command: Callable[[str, str | None], Sequence[str]] = browse_command,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._on_wish = on_wish
        self._command = command
        self._environment = {k: v for k, v in environ.items() if k not in _OURS}
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._shown: tuple[str, str | None] | None = None

    def open(self, site: str, endpoint: str | None) -> None:
        """Show a site; one that is shown already stays, another is closed first. Raises OSError."""
        with self._lock:
            alive = self._process is not None and self._process.poll() is None
            if alive and self._shown == (site, endpoint):
                return
            self._end()
            self._process = subprocess.Popen(
                list(self._command(site, endpoint)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=self._environment,
                # A source tree that is not installed is found by the folder it is in.
                cwd=source_root(),
            )
            self._shown = site, endpoint
            reader = threading.Thread(
                target=self._read, args=(self._process,), name="browse", daemon=True
            )
            reader.start()

    def end(self) -> None:
        """Close it; returns at once."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with process.stdout as lines:
            while line := lines.readline(MAX_LINE):
                reference = read_wish(line)
                if reference is not None:
                    self._on_wish(reference)
        log.info("the browse window ended", extra={"exit_code": process.wait()})


def read_wish(line: bytes) -> str | None:
    """The reference in a line of the browse window; None for every other line."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    reference = value.get("reference") if isinstance(value, dict) else None
    good = isinstance(reference, str) and 0 < len(reference) <= 2000 and reference.isprintable()
    return reference if good else None
