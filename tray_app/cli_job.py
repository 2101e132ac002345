"""A long task followed on the command line: its way shown, ended by Ctrl+C, its end told."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from . import cli_text as text
from .client import Client, ClientError

# Exit statuses, as `cli.py` tells them; 130 is what a shell expects after Ctrl+C.
FAILED, WRONG, CANCELLED = 1, 2, 130
IN_PROGRESS = ("queued", "running")
BAR = 20  # characters
STEP_ROOM = 12  # what is left of a step's name on a narrow terminal
Json = dict[str, Any]


class Progress:
    """Shows where a job is: one line drawn over on a terminal, else a line each tenth."""

    def __init__(self, stream: TextIO, columns: Callable[[], int] | None = None) -> None:
        self._stream = stream
        self._columns = columns or (lambda: shutil.get_terminal_size().columns)
        self._alive = stream.isatty()
        self._drawn = 0
        self._said: tuple[str, int | None] | None = None

    def show(self, job: Json) -> None:
        """The state of a job in progress."""
        if self._alive:
            # The last column stays free: some terminals go to the next line after it.
            width = self._columns() - 1
            line = progress_line(job, width)
            # Spaces instead of an erasing escape, which old Windows consoles print.
            self._stream.write("\r" + line.ljust(min(self._drawn, width)))
            self._stream.flush()
            self._drawn = len(line)
            return
        share = _share(job)
        mark = (_step(job), None if share is None else int(share * 10))
        if mark != self._said:
            self._said = mark
            percent = "" if share is None else f": {share:.0%}"
            self._stream.write(f"{mark[0]}{percent}\n")
            self._stream.flush()

    def end(self) -> None:
        """Leave the line that was drawn over, so that others may follow."""
        if self._drawn:
            self._drawn = 0
            self._stream.write("\n")
            self._stream.flush()


def progress_line(job: Json, width: int) -> str:
    """Step, bar, percent, rate and time left in at most `width` characters."""
    share = _share(job)
    parts = []
    if share is not None:
        full = int(share * BAR)
        parts.append(f"[{'#' * full}{'.' * (BAR - full)}] {int(share * 100):3} %")
    if job["unit"] == "bytes":
        whole = f" of {text.size(job['total'])}" if job["total"] else ""
        parts.append(text.size(job["done"]) + whole)
        if job["rate_per_s"]:
            parts.append(f"{job['rate_per_s'] / 1e6:.1f} MB/s")
    elif job["rate_per_s"] and job["unit"] not in ("", "percent"):
        parts.append(f"{job['rate_per_s']:.1f} {text.clean(job['unit'])}/s")
    if job["eta_s"] is not None:
        parts.append(f"{text.duration(job['eta_s'])} left")
    step = _step(job)
    # What fits least is left out from the end, never the step.
    while parts and sum(len(part) + 2 for part in parts) + min(len(step), STEP_ROOM) > width:
        parts.pop()
    room = width - sum(len(part) + 2 for part in parts)
    return "  ".join((step[: max(0, room)], *parts))


def _step(job: Json) -> str:
    if job["state"] == "queued":
        return "Waiting for its turn"
    words, steps = text.clean(job["step"] or job["title"]), job.get("steps") or ()
    return f"{job['step_number'] + 1}/{len(steps)} {words}" if len(steps) > 1 else words


def _share(job: Json) -> float | None:
    total = job["total"]
    return min(1.0, max(0.0, job["done"] / total)) if total else None


def await_event(client: Client, after: int) -> None:
    """Block until the engine tells anything. Raises ClientError when it ends."""
    for _, name, _ in client.events(after):
        if name != "Ping":
            return
    raise _engine_ended()


def settled(client: Client, timeout_s: float = 30.0) -> Json:
    """A snapshot after the scan that a fresh engine makes; whole headers may follow later."""
    deadline = time.monotonic() + timeout_s
    while True:
        snapshot = client.snapshot()
        unread = any(m["available"] and not m["details_known"] for m in snapshot["models"])
        if not (snapshot["scanning"] or unread) or time.monotonic() > deadline:
            return snapshot
        time.sleep(0.02)


def follow(client: Client, job_id: str, show: Callable[[Json], None]) -> Json:
    """Follow a job to its end and return it. Raises ClientError when the engine ends."""
    while True:
        snapshot = client.snapshot()
        job = next((job for job in snapshot["jobs"] if job["id"] == job_id), None)
        if job is None:
            raise ClientError("job_not_found", f"The engine knows no job {job_id}.")
        if job["state"] not in IN_PROGRESS:
            return dict(job)
        show(job)
        with contextlib.closing(_changes(client, job_id, snapshot["seq"])) as changes:
            for changed in changes:
                if changed["state"] not in IN_PROGRESS:
                    return dict(changed)
                show(changed)


def _changes(client: Client, job_id: str, after: int) -> Any:
    """The job at each of its changes; ends when some were missed. Raises ClientError."""
    for _, name, values in client.events(after):
        if name == "Missed":
            return
        if name == "JobChanged" and values["job"]["id"] == job_id:
            yield values["job"]
    raise _engine_ended()


def _engine_ended() -> ClientError:
    return ClientError("engine_unreachable", "The engine ended meanwhile.", "See its log.")


def run_job(client: Client, command: str, args: Json, quiet: bool) -> Json:
    """Start a job by `command` and follow it; Ctrl+C cancels it. Raises ClientError.

    Returns the ended job. Raises KeyboardInterrupt at a second Ctrl+C: the cancelled job then
    ends without us.
    """
    progress = Progress(sys.stdout)

    def show(job: Json) -> None:
        if not quiet:
            progress.show(job)

    job_id = str(client.call(command, **args)["job_id"])
    try:
        return follow(client, job_id, show)
    except KeyboardInterrupt:
        progress.end()
        text.say_hint("Cancelling… (Ctrl+C again: do not wait for it)")
        client.call("cancel_job", job_id=job_id)
        return follow(client, job_id, lambda job: None)
    finally:
        progress.end()


def tell_end(job: Json, home: str) -> int:
    """Say on stderr how a job ended that did not go well; returns the exit status.

    `home` is the engine's home folder, where the log is.
    """
    title, state = str(job["title"]), job["state"]
    if state == "done":
        return 0
    if state == "cancelled":
        text.say_error(f"{title}: cancelled.")
        return CANCELLED
    error = job["error"] or {"message": "The engine ended while it ran.", "remedy": "Try again."}
    text.say_error(f"{title}: {error['message']}", error["remedy"])
    if job["log_name"]:
        text.say_hint(f"Its log: {Path(home) / 'logs' / job['log_name']}")
    return FAILED
