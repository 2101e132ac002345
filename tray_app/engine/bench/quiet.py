"""Whether the machine is quiet enough to measure on, and the wait until it is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import psutil

from tray_app.engine.errors import BenchFailed
from tray_app.engine.jobs import JobContext
from tray_app.engine.values import ModelState

if TYPE_CHECKING:
    from tray_app.engine.core import Engine

LOOK_S = 0.1
QUIET_S = 1.0  # nothing may have happened for so long
AFTER_LOAD_S = 5.0  # between being asked for the way and the load that shows, a fit is made
WAIT_S = 600.0

_MOVING = {
    ModelState.LOADING: "is being loaded",
    ModelState.WAITING: "waits for memory",
    ModelState.STOPPING: "is being unloaded",
    ModelState.BACKOFF: "is being restarted",
}


def in_the_way(engine: Engine, own_job_id: str, *, jobs_too: bool = True) -> str:
    """Who needs the machine now, in words; "" when nobody does.

    The look at jobs asks the database (1 ms); that at models takes nothing.
    """
    for status in engine.residency.statuses().values():
        if status.in_flight or status.waiting:
            return f"{status.model_id} is answering"
        if status.state in _MOVING:
            return f"{status.model_id} {_MOVING[status.state]}"
    if jobs_too:
        for job in engine.jobs.list(1):  # those in progress are always among them
            if job.state.in_progress and job.id != own_job_id:
                return f"“{job.title}” is under way"
    return ""


def wait(
    engine: Engine,
    context: JobContext,
    waved_at: Callable[[], float],
    *,
    wait_s: float = WAIT_S,
) -> float | None:
    """Block until nobody has needed the machine for a second.

    Returns how busy the processor was in that second, in percent of all cores; None: not known.
    `waved_at` is when a load last asked for the way. Raises BenchFailed after `wait_s`, Cancelled.
    """
    deadline = time.monotonic() + wait_s
    quiet_at, before = time.monotonic(), psutil.cpu_times()
    while True:
        now = time.monotonic()
        reason = in_the_way(engine, context.job_id)
        if not reason and now - waved_at() < AFTER_LOAD_S:
            reason = "a model is about to be loaded"
        if not reason and now - quiet_at >= QUIET_S:
            return _busy_percent(before, psutil.cpu_times())
        if reason:
            quiet_at, before = now, psutil.cpu_times()
            context.progress(0, None, "steps", f"Waiting: {reason}")
        if reason and now > deadline:
            raise BenchFailed(
                f"The machine was not free for {wait_s / 60:.0f} minutes: {reason}.",
                "Measure again when the models are idle and no other task runs.",
            )
        context.cancel.wait(LOOK_S)
        context.check()


def in_memory(engine: Engine) -> tuple[str, ...]:
    """The models that hold memory now."""
    statuses = engine.residency.statuses().values()
    return tuple(sorted(status.model_id for status in statuses if status.pid is not None))


def _busy_percent(before: object, after: object) -> float | None:
    """By the system's own count of time; guests are counted with their host."""
    fields = [name for name in getattr(after, "_fields", ()) if not name.startswith("guest")]
    spent = {name: float(getattr(after, name) - getattr(before, name)) for name in fields}
    total = sum(spent.values())
    if total <= 0:
        return None
    idle = spent.get("idle", 0.0) + spent.get("iowait", 0.0)
    return round(100 * min(1.0, max(0.0, 1 - idle / total)), 1)
