"""The process that reads whole GGUF headers, and the library's handle on it.

A header takes 5-100 ms of pure Python, and it comes from the internet: in a process of its
own it neither makes the gateway's streams stutter nor takes the engine down. One JSON line
with a path goes in, one JSON line with the header or the reason against it comes out.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

from tray_app.self_command import SCAN_WORKER, part_command, source_root

from .errors import BadGguf
from .gguf import Header, from_record, read_details, to_record
from .gguf_cache import Keep

# Reading gemma-4's 16 MB header takes 25 MB; the interpreter maps about 100 MB by itself.
ADDRESS_SPACE_BYTES = 1 << 30
TIME_LIMIT_S = 10.0  # for one file: 100 times the slowest real header
NICENESS = 10
END_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one file."""

    header: Header | None
    problem: str | None = None
    keep: Keep = Keep.FOREVER


class ScanWorker:
    """Starts the process when it is needed, and again after it died. One caller at a time."""

    def __init__(
        self, argv: Sequence[str] | None = None, time_limit_s: float = TIME_LIMIT_S
    ) -> None:
        self._argv = tuple(argv or part_command(SCAN_WORKER))
        self._time_limit_s = time_limit_s
        self._lock = threading.Lock()
        self._closed = False
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        process = self._process
        return None if process is None else process.pid

    def read(self, path: str) -> Reading:
        """Have one header read. Blocks for `time_limit_s` at most; never raises for the file.

        Raises OSError when the worker cannot be started at all.
        """
        process = self._running()
        if process is None:
            return Reading(None, "The engine is closing.", Keep.SCAN)
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps({"path": path}).encode() + b"\n")
            process.stdin.flush()
            line = self._answers.get(timeout=self._time_limit_s)
        except queue.Empty:
            self.stop()
            reason = f"Its header could not be read within {self._time_limit_s:g} seconds."
            return Reading(None, reason, Keep.SESSION)
        except (BrokenPipeError, ConnectionError, ValueError):
            line = b""
        if not line:
            status = self.stop()
            reason = f"The process that read its header died ({_exit_text(status)})."
            return Reading(None, reason, Keep.SCAN if self._closed else Keep.SESSION)
        return _from_line(line)

    def stop(self) -> int | None:
        """End the process, if it runs, and return its exit status. A read starts a new one."""
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return None
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        if process.poll() is None:
            process.kill()  # it holds nothing that could be lost
        try:
            return process.wait(END_WAIT_S)
        except subprocess.TimeoutExpired:  # stuck in the kernel, on a dead network drive
            return None

    def close(self) -> None:
        """Stop for good. May be called from another thread while `read` waits."""
        self._closed = True
        self.stop()

    def _running(self) -> subprocess.Popen[bytes] | None:
        with self._lock:
            if self._closed or self._process is not None:
                return None if self._closed else self._process
            process = subprocess.Popen(
                self._argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=source_root(),
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
            self._process, self._answers = process, queue.SimpleQueue()
            assert process.stdout is not None
            threading.Thread(
                target=_pump,
                args=(process.stdout, self._answers),
                name="scan-worker-output",
                daemon=True,
            ).start()
            return process


def _pump(stream: IO[bytes], answers: queue.SimpleQueue[bytes]) -> None:
    # A thread, because a pipe cannot be read with a time limit on every platform.
    with stream:
        for line in stream:
            answers.put(line)
    answers.put(b"")


def _exit_text(status: int | None) -> str:
    if status is None:
        return "it was ended"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _from_line(line: bytes) -> Reading:
    try:
        return reading_from(json.loads(line))
    except (ValueError, TypeError, AttributeError):
        return Reading(None, "Its header came back garbled.", Keep.SESSION)


def reading_from(answer: dict[str, Any]) -> Reading:
    """The worker's answer as a value. Raises ValueError or TypeError if it is none."""
    header = answer.get("header")
    return Reading(
        None if header is None else from_record(header),
        answer.get("problem"),
        Keep(answer.get("keep", Keep.FOREVER.value)),
    )


def problem_text(exc: BadGguf) -> str:
    """A BadGguf as the one line that a left-out file shows."""
    return f"{exc.message} {exc.remedy}".strip()


def read_one(path: str) -> dict[str, Any]:
    """The worker's answer for one file."""
    try:
        return {"header": to_record(read_details(path))}
    except BadGguf as exc:
        return {"problem": problem_text(exc)}
    except OSError as exc:
        reason = f"It cannot be read: {exc.strerror or type(exc).__name__}."
        return {"problem": reason, "keep": Keep.SCAN.value}
    except MemoryError:
        return {"problem": "Its header needs too much memory.", "keep": Keep.SESSION.value}


def _limit_self() -> None:
    if hasattr(os, "nice"):
        os.nice(NICENESS)
    try:
        import resource  # Unix only
    except ImportError:
        return
    with contextlib.suppress(ValueError, OSError):  # a lower limit is already set
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES, ADDRESS_SPACE_BYTES))


def main(words: Sequence[str] = ()) -> int:
    """Answer line by line until stdin ends, which it does when the engine is gone."""
    _limit_self()
    for line in sys.stdin.buffer:
        answer = read_one(json.loads(line)["path"])
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
