"""The window as a child process of the tray: at most one, reaped, and gone when the tray is."""

from __future__ import annotations

import logging
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .self_command import self_command, source_root

log = logging.getLogger(__name__)

# The window's exit status when it closed because its tray or its engine went away.
ENDED_FOR_US = 4
# A window that ends with an error this soon never showed anything.
_NEVER_SHOWN_S = 10.0
_END_S = 3.0


def window_command(page: str, reference: str = "") -> list[str]:
    """The command line of the window process. A reference is no secret: it names a model."""
    more = ("--reference", reference) if reference else ()
    return self_command("window", "--page", page, *more, "--owned")


class WindowProcess:
    """Starts the window and waits for its end on a thread of its own.

    The child holds the other end of its stdin: it ends when the tray does, even by SIGKILL.
    `on_end(exit_code, failed)` runs on that thread.
    """

    def __init__(
        self,
        home: Path,
        on_end: Callable[[int, bool], None],
        command: Callable[[str, str], Sequence[str]] = window_command,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._environment = {**environ, "LLAMA_WRANGLER_HOME": str(home)}
        # These are the tray's own: a web page wants the GPU.
        for name in ("GDK_GL", "PYSTRAY_BACKEND"):
            self._environment.pop(name, None)
        self._on_end = on_end
        self._command = command
        self._clock = clock
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Whether a window process runs."""
        with self._lock:
            return self._process is not None and self._process.poll() is None

    def open(self, page: str, reference: str = "") -> bool:
        """Start the window on `page`; False when one runs already. Raises OSError.

        With a `reference` the page asks whether to download that model.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is None:
                return False
            process = subprocess.Popen(
                list(self._command(page, reference)),
                stdin=subprocess.PIPE,
                env=self._environment,
                # A source tree that is not installed is found by the folder it is in.
                cwd=source_root(),
            )
            self._process = process
        threading.Thread(
            target=self._reap, args=(process, self._clock()), name="window-reaper", daemon=True
        ).start()
        return True

    def end(self) -> None:
        """Close the window and wait until its process is gone (at most about 6 s)."""
        with self._lock:
            process = self._process
        if process is None or process.poll() is not None:
            return
        for step in ("hang up", "terminate", "kill"):
            if step == "hang up":
                _hang_up(process)
            elif step == "terminate":
                process.terminate()
            else:
                process.kill()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                continue
            return

    def _reap(self, process: subprocess.Popen[bytes], started: float) -> None:
        code = process.wait()
        _hang_up(process)
        log.info("the window ended", extra={"exit_code": code})
        faulty = code not in (0, ENDED_FOR_US)
        self._on_end(code, faulty and self._clock() - started < _NEVER_SHOWN_S)


def _hang_up(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
