"""Long tasks: started, followed, cancelled, and remembered across engine processes.

Threads exist only while there is work. The worker is the barrier for what a task raises.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import logging
import os
import secrets
import sqlite3
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import Cancelled, EngineError, ErrorView, JobNotFound
from .events import Event, JobChanged
from .progress import ProgressMeter
from .state import StateDb
from .values import Job, JobState

log = logging.getLogger(__name__)

ALLOWED: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.INTERRUPTED}),
    JobState.RUNNING: frozenset(
        {JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.INTERRUPTED}
    ),
    JobState.DONE: frozenset(),
    JobState.FAILED: frozenset(),
    JobState.CANCELLED: frozenset(),
    JobState.INTERRUPTED: frozenset(),
}
PUBLISH_S = 0.2  # at most five events a second for each job
KEPT = 200  # finished jobs remembered
_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, created_at REAL NOT NULL, state TEXT NOT NULL, job TEXT NOT NULL)
"""

Work = Callable[["JobContext"], None]


@dataclass(slots=True)
class _Live:
    """A job that is queued or running. `job` is replaced, never changed."""

    job: Job
    work: Work
    log_path: Path | None
    cancel: threading.Event
    meter: ProgressMeter
    dropped: Callable[[], object] = lambda: None
    published_at: float = 0.0
    flush_pending: bool = False


class JobContext:
    """What a task gets: it reports progress, writes its log and asks whether to go on."""

    def __init__(self, runner: JobRunner, live: _Live) -> None:
        self._runner = runner
        self._live = live
        self._log_lock = threading.Lock()
        self.job_id = live.job.id
        self.log_path = live.log_path
        self.cancel: threading.Event = live.cancel

    def check(self) -> None:
        """Raises Cancelled once the job is to end."""
        if self.cancel.is_set():
            raise Cancelled

    def progress(
        self, done: int, total: int | None = None, unit: str = "", step: str | None = None
    ) -> None:
        """Report a count, from any thread; cheap enough for each chunk of a download.

        `done` never goes back while `unit` stays the same. `step` None keeps the last one.
        """
        self._runner._report(self._live, done, total, unit, step)

    def enter(self, number: int, step: str | None = None) -> None:
        """Begin with the step `number` of the job's `steps`; its progress starts at nothing."""
        self._runner._enter(self._live, number, step)

    def log(self, line: str) -> None:
        """Append a line to the job's log, if it has one. Raises OSError."""
        if self.log_path is None:
            return
        with self._log_lock, self.log_path.open("a", encoding="utf-8") as file:
            file.write(line.rstrip("\n") + "\n")


class JobRunner:
    """All jobs of one engine process, and the memory of earlier ones."""

    def __init__(
        self,
        db: StateDb,
        publish: Callable[[Event], object],
        *,
        max_workers: int = 4,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        later: Callable[[float, Callable[[], None]], threading.Timer] = threading.Timer,
    ) -> None:
        """`publish` must not block. What ran when an earlier engine ended is INTERRUPTED now."""
        self._db = db
        self._publish = publish
        self._max_workers = max_workers
        self._clock = clock
        self._wall = wall
        self._later = later
        self._lock = threading.Lock()
        self._live: dict[str, _Live] = {}
        self._queue: deque[_Live] = deque()
        self._workers: set[threading.Thread] = set()
        self._closing = False
        self._load()

    def submit(
        self,
        kind: str,
        title: str,
        work: Work,
        log_path: Path | None = None,
        steps: Sequence[str] = (),
        dropped: Callable[[], object] = lambda: None,
    ) -> Job:
        """Queue `work`; it runs on a worker thread. `log_path` lies in the logs folder.

        `steps` are what it will `enter`, in words. `dropped` is called when it is cancelled before
        its turn came: `work` never is then.
        """
        job = Job(
            id=f"{kind}-{secrets.token_hex(4)}",
            kind=kind,
            title=title,
            state=JobState.QUEUED,
            created_at=self._wall(),
            log_name=log_path.name if log_path else None,
            steps=tuple(steps),
        )
        live = _Live(job, work, log_path, threading.Event(), ProgressMeter(), dropped)
        self._save(job)
        with self._lock:
            if self._closing:
                raise EngineError("The engine is stopping.", "Start it again, then retry.")
            self._live[job.id] = live
            self._queue.append(live)
            self._publish(JobChanged(job))
            if len(self._workers) < self._max_workers:
                worker = threading.Thread(target=self._run_queue, name="job", daemon=True)
                self._workers.add(worker)
                worker.start()
        return job

    def cancel(self, job_id: str) -> Job:
        """Ask a job to end; a finished one stays as it is. Raises JobNotFound. Never waits."""
        with self._lock:
            live = self._live.get(job_id)
            queued = live is not None and live in self._queue
            if live is not None:
                live.cancel.set()
                if queued:
                    self._queue.remove(live)
        if live is not None and queued:
            self._move(live, JobState.CANCELLED)
            live.dropped()
        return self.get(job_id)

    def get(self, job_id: str) -> Job:
        """One job, of now or of earlier. Raises JobNotFound."""
        with self._lock:
            if job_id in self._live:
                return self._live[job_id].job
        with self._db.reading() as db:
            row = db.execute("SELECT job FROM jobs WHERE id = ?", (job_id,)).fetchone()
        if row is None:
            raise JobNotFound(f"There is no job {job_id}.", "Look at the list of jobs.")
        return _from_row(row[0])

    def list(self, limit: int = 50) -> tuple[Job, ...]:
        """The newest jobs first, those in progress always among them."""
        with self._db.reading() as db:
            rows = db.execute(
                "SELECT job FROM jobs ORDER BY created_at DESC, rowid DESC LIMIT ?", (limit,)
            ).fetchall()
        jobs = {job.id: job for job in (_from_row(row[0]) for row in rows)}
        with self._lock:
            jobs.update((job_id, live.job) for job_id, live in self._live.items())
        return tuple(sorted(jobs.values(), key=lambda job: job.created_at, reverse=True))

    def close(self, timeout_s: float = 15.0) -> bool:
        """End all jobs as INTERRUPTED and wait for them. False when one did not end in time."""
        with self._lock:
            self._closing = True
            waiting = list(self._queue)
            self._queue.clear()
            for live in self._live.values():
                live.cancel.set()
            workers = list(self._workers)
        for live in waiting:
            self._move(live, JobState.INTERRUPTED)
        deadline = time.monotonic() + timeout_s
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in workers)

    def _load(self) -> None:
        with self._db.transaction() as db:
            db.execute(_SCHEMA)
            db.execute(
                "DELETE FROM jobs WHERE id NOT IN"
                " (SELECT id FROM jobs ORDER BY created_at DESC LIMIT ?)",
                (KEPT,),
            )
            rows = db.execute(
                "SELECT job FROM jobs WHERE state IN (?, ?)", (JobState.QUEUED, JobState.RUNNING)
            ).fetchall()
        for row in rows:
            job = _from_row(row[0])
            live = _Live(job, lambda _: None, None, threading.Event(), ProgressMeter())
            self._move(live, JobState.INTERRUPTED)

    def _run_queue(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._workers.discard(threading.current_thread())
                    return
                live = self._queue.popleft()
            self._move(live, JobState.RUNNING)
            self._move(live, *self._outcome(live))

    def _outcome(self, live: _Live) -> tuple[JobState, ErrorView | None]:
        """Run the task. This is the barrier: nothing it raises goes further."""
        context = JobContext(self, live)
        try:
            if live.cancel.is_set():  # just when its turn came
                live.dropped()
            context.check()
            live.work(context)
        except Cancelled:
            return (JobState.INTERRUPTED if self._closing else JobState.CANCELLED), None
        except EngineError as exc:
            self._note(context, exc)
            return JobState.FAILED, exc.view()
        except OSError as exc:
            self._note(context, exc)
            return JobState.FAILED, _view_of(exc)
        except Exception as exc:  # noqa: BLE001 - the barrier; `_note` logs it
            self._note(context, exc)
            return JobState.FAILED, ErrorView(
                "internal",
                f"Something unexpected went wrong ({type(exc).__name__}).",
                "The job's log has the details; please report it.",
            )
        return JobState.DONE, None

    def _note(self, context: JobContext, exc: Exception) -> None:
        log.error("job failed", exc_info=exc, extra={"job_id": context.job_id})
        with contextlib.suppress(OSError):
            context.log("".join(traceback.format_exception(exc)))

    def _move(self, live: _Live, state: JobState, error: ErrorView | None = None) -> None:
        """The only place where a job changes state, and where that is told."""
        with self._lock:
            if state not in ALLOWED[live.job.state]:
                raise RuntimeError(f"a job cannot go from {live.job.state} to {state}")
            ended = not ALLOWED[state]
            job = dataclasses.replace(
                live.job,
                state=state,
                error=error,
                finished_at=self._wall() if ended else None,
                rate_per_s=None if ended else live.job.rate_per_s,
                eta_s=None if ended else live.job.eta_s,
                step_number=len(live.job.steps) if state is JobState.DONE else live.job.step_number,
            )
            live.job = job
            self._publish(JobChanged(job))
        try:
            self._save(job)
        except sqlite3.Error as exc:  # a full disk must not end the worker
            log.error("a job's state could not be saved: %s", exc, extra={"job_id": job.id})
        if ended:
            with self._lock:
                self._live.pop(job.id, None)

    def _report(
        self, live: _Live, done: int, total: int | None, unit: str, step: str | None
    ) -> None:
        with self._lock:
            if live.job.state is not JobState.RUNNING:
                return
            now = self._clock()
            reading = live.meter.update(done, total, unit, now)
            live.job = dataclasses.replace(
                live.job,
                step=live.job.step if step is None else step,
                done=reading.done,
                total=reading.total,
                unit=reading.unit,
                rate_per_s=reading.rate_per_s,
                eta_s=reading.eta_s,
            )
            left_s = live.published_at + PUBLISH_S - now
            if left_s <= 0:
                self._publish_progress(live, now)
            elif not live.flush_pending:
                # The last count before a silence must be told too.
                live.flush_pending = True
                timer = self._later(left_s, lambda: self._flush(live))
                timer.daemon = True
                timer.start()

    def _enter(self, live: _Live, number: int, step: str | None) -> None:
        with self._lock:
            if live.job.state is not JobState.RUNNING:
                return
            words = live.job.steps[number] if number < len(live.job.steps) else ""
            live.meter = ProgressMeter()
            live.job = dataclasses.replace(
                live.job,
                step_number=number,
                step=words if step is None else step,
                done=0,
                total=None,
                rate_per_s=None,
                eta_s=None,
            )
            self._publish_progress(live, self._clock())

    def _flush(self, live: _Live) -> None:
        with self._lock:
            if live.flush_pending and live.job.state is JobState.RUNNING:
                self._publish_progress(live, self._clock())

    def _publish_progress(self, live: _Live, now: float) -> None:
        live.published_at = now
        live.flush_pending = False
        self._publish(JobChanged(live.job))

    def _save(self, job: Job) -> None:
        row = (job.id, job.created_at, job.state.value, json.dumps(dataclasses.asdict(job)))
        with self._db.transaction() as db:
            db.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET state = excluded.state, job = excluded.job",
                row,
            )


def _from_row(text: str) -> Job:
    row: dict[str, Any] = json.loads(text)
    known = {f.name for f in dataclasses.fields(Job)}
    values = {key: value for key, value in row.items() if key in known}
    values["state"] = JobState(values["state"])
    values["steps"] = tuple(values.get("steps", ()))
    if values.get("error"):
        values["error"] = ErrorView(**values["error"])
    return Job(**values)


def _view_of(exc: OSError) -> ErrorView:
    """An operating system error in words."""
    where = f": {exc.filename}" if exc.filename else ""
    reason = os.strerror(exc.errno) if exc.errno else str(exc)
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return ErrorView("not_enough_disk", f"{reason}{where}", "Free some disk space, then retry.")
    return ErrorView("os_error", f"{reason}{where}", "The job's log has the details.")
