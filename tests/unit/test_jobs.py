"""Jobs: states, progress, cancelling, and what the next engine process finds."""

from __future__ import annotations

import errno
import itertools
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tray_app.engine.errors import DownloadFailed, EngineError, JobNotFound
from tray_app.engine.events import Event, JobChanged
from tray_app.engine.jobs import ALLOWED, JobContext, JobRunner
from tray_app.engine.progress import ProgressMeter
from tray_app.engine.state import StateDb
from tray_app.engine.values import Job, JobState


class Heard:
    """Published events, to wait on."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self.jobs: list[Job] = []

    def __call__(self, event: Event) -> None:
        assert isinstance(event, JobChanged)
        with self._condition:
            self.jobs.append(event.job)
            self._condition.notify_all()

    def wait_for(self, state: JobState) -> Job:
        def found() -> Job | None:
            return next((job for job in self.jobs if job.state is state), None)

        with self._condition:
            job = self._condition.wait_for(found, timeout=10)
        assert job is not None, f"never {state}: {self.jobs}"
        return job


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Later:
    """Timers that fire when told."""

    def __init__(self) -> None:
        self.waiting: list[Callable[[], None]] = []

    def __call__(self, delay_s: float, act: Callable[[], None]) -> threading.Timer:
        self.waiting.append(act)
        return threading.Timer(0, lambda: None)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[StateDb]:
    state = StateDb(tmp_path / "state.db")
    yield state
    state.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def runner(db: StateDb, heard: Heard) -> Iterator[JobRunner]:
    jobs = JobRunner(db, heard)
    yield jobs
    assert jobs.close()


def wait_for_idle(before: int) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if threading.active_count() <= before:
            return
        deadline.wait(0.01)
    pytest.fail(f"threads stay: {threading.enumerate()}")


def test_a_job_runs_reports_and_is_done(runner: JobRunner, heard: Heard) -> None:
    def work(context: JobContext) -> None:
        context.progress(3, 10, "steps", "Compiling")

    job = runner.submit("build_runtime", "Build llama.cpp", work)
    assert job.state is JobState.QUEUED
    done = heard.wait_for(JobState.DONE)
    assert (done.id, done.done, done.total, done.unit, done.step) == (
        job.id,
        3,
        10,
        "steps",
        "Compiling",
    )
    assert done.finished_at is not None
    assert [j.state for j in heard.jobs][:2] == [JobState.QUEUED, JobState.RUNNING]
    assert runner.get(job.id) == done
    assert runner.list() == (done,)


def test_an_idle_runner_has_no_thread(runner: JobRunner, heard: Heard) -> None:
    before = threading.active_count()
    for _ in range(10):
        runner.submit("x", "x", lambda context: context.progress(1))
    wait_for_idle(before)
    assert [job.state for job in runner.list()] == [JobState.DONE] * 10


def test_a_cancelled_job_ends_at_its_next_checkpoint(runner: JobRunner, heard: Heard) -> None:
    started = threading.Event()

    def work(context: JobContext) -> None:
        started.set()
        assert context.cancel.wait(10)
        context.check()
        raise AssertionError("went on after the cancel")

    job = runner.submit("x", "x", work)
    assert started.wait(10)
    runner.cancel(job.id)
    assert heard.wait_for(JobState.CANCELLED).error is None
    assert runner.cancel(job.id).state is JobState.CANCELLED


def test_a_queued_job_is_cancelled_at_once_and_never_runs(db: StateDb, heard: Heard) -> None:
    runner = JobRunner(db, heard, max_workers=1)
    gate, ran = threading.Event(), threading.Event()
    first = runner.submit("x", "first", lambda _: gate.wait(10) and None)
    heard.wait_for(JobState.RUNNING)
    second = runner.submit("x", "second", lambda _: ran.set())
    assert runner.cancel(second.id).state is JobState.CANCELLED
    gate.set()
    assert heard.wait_for(JobState.DONE).id == first.id
    assert runner.close()
    assert not ran.is_set()


def test_work_that_finished_despite_a_cancel_is_done(runner: JobRunner, heard: Heard) -> None:
    started = threading.Event()

    def work(context: JobContext) -> None:
        started.set()
        context.cancel.wait(10)

    job = runner.submit("x", "x", work)
    assert started.wait(10)
    runner.cancel(job.id)
    heard.wait_for(JobState.DONE)


def test_a_known_error_is_shown_as_it_is(runner: JobRunner, heard: Heard) -> None:
    def work(context: JobContext) -> None:
        raise DownloadFailed("The server said 404.", "Check the address.")

    runner.submit("x", "x", work)
    assert (
        heard.wait_for(JobState.FAILED).error
        == DownloadFailed("The server said 404.", "Check the address.").view()
    )


def test_an_unexpected_error_becomes_internal_with_its_traceback_in_the_log(
    runner: JobRunner, heard: Heard, tmp_path: Path
) -> None:
    def work(context: JobContext) -> None:
        context.log("before")
        raise KeyError("secret detail")

    runner.submit("x", "x", work, log_path=tmp_path / "job.log")
    job = heard.wait_for(JobState.FAILED)
    assert job.log_name == "job.log"
    assert job.error is not None
    assert job.error.code == "internal"
    assert "secret detail" not in job.error.message
    text = (tmp_path / "job.log").read_text()
    assert text.startswith("before\nTraceback")
    assert "KeyError: 'secret detail'" in text


def test_a_full_disk_is_told_as_such(runner: JobRunner, heard: Heard) -> None:
    def work(context: JobContext) -> None:
        raise OSError(errno.ENOSPC, "no space", "/x/y")

    runner.submit("x", "x", work)
    error = heard.wait_for(JobState.FAILED).error
    assert error is not None
    assert error.code == "not_enough_disk"
    assert "/x/y" in error.message


def test_a_job_of_a_dead_engine_is_interrupted(db: StateDb, heard: Heard) -> None:
    dead = JobRunner(db, Heard(), max_workers=1)
    gate = threading.Event()
    try:
        running = dead.submit("x", "running", lambda _: gate.wait(10) and None)
        queued = dead.submit("x", "queued", lambda _: None)
        # The first process is as good as dead: a second one starts on the same file.
        runner = JobRunner(db, heard)
        assert {j.id: j.state for j in runner.list()} == {
            running.id: JobState.INTERRUPTED,
            queued.id: JobState.INTERRUPTED,
        }
        assert [j.state for j in heard.jobs] == [JobState.INTERRUPTED] * 2
    finally:
        gate.set()
        dead.close()


def test_closing_interrupts_running_and_queued_jobs(db: StateDb, heard: Heard) -> None:
    runner = JobRunner(db, heard, max_workers=1)

    def work(context: JobContext) -> None:
        context.cancel.wait(10)
        context.check()

    ids = [runner.submit("x", "x", work).id for _ in range(2)]
    heard.wait_for(JobState.RUNNING)
    assert runner.close()
    assert [runner.get(job_id).state for job_id in ids] == [JobState.INTERRUPTED] * 2
    with pytest.raises(EngineError, match="stopping"):
        runner.submit("x", "x", work)


def test_progress_is_told_five_times_a_second_and_the_last_count_always(
    db: StateDb, heard: Heard
) -> None:
    clock, later = Clock(), Later()
    runner = JobRunner(db, heard, clock=clock, later=later)
    counted = threading.Event()
    gate = threading.Event()

    def work(context: JobContext) -> None:
        for n in range(1000):  # one simulated second
            clock.now += 0.001
            context.progress(n, 1000, "bytes", "Downloading")
        counted.set()
        gate.wait(10)

    runner.submit("x", "x", work)
    assert counted.wait(10)
    told = [j.done for j in heard.jobs if j.state is JobState.RUNNING]
    assert 4 <= len(told) - 1 <= 6
    assert told[-1] < 999
    for act in later.waiting:
        act()
    assert heard.jobs[-1].done == 999
    gate.set()
    runner.close()


def test_progress_after_the_end_is_ignored(runner: JobRunner, heard: Heard) -> None:
    kept: list[JobContext] = []
    runner.submit("x", "x", kept.append)
    heard.wait_for(JobState.DONE)
    count = len(heard.jobs)
    kept[0].progress(5, 6)
    assert len(heard.jobs) == count


def test_a_database_error_does_not_end_the_worker(
    runner: JobRunner, heard: Heard, db: StateDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    runner.submit("x", "x", lambda _: gate.wait(10) and None)
    heard.wait_for(JobState.RUNNING)

    def broken() -> object:
        raise sqlite3.OperationalError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(db, "transaction", broken)
        gate.set()
        heard.wait_for(JobState.DONE)
        assert runner.close()


def test_an_unknown_job_is_not_found(runner: JobRunner) -> None:
    with pytest.raises(JobNotFound, match="nothing"):
        runner.get("nothing")
    with pytest.raises(JobNotFound):
        runner.cancel("nothing")


def test_only_the_newest_jobs_are_remembered(db: StateDb) -> None:
    now = Clock()
    runner = JobRunner(db, lambda _: None, wall=now)
    for _ in range(205):
        now.now += 1
        runner.submit("x", "x", lambda _: None)
    runner.close()
    assert len(runner.list(limit=1000)) == 205
    assert len(JobRunner(db, lambda _: None).list(limit=1000)) == 200


def test_an_ended_state_allows_no_other() -> None:
    assert set(ALLOWED) == set(JobState)
    assert [state for state, to in ALLOWED.items() if to] == [JobState.QUEUED, JobState.RUNNING]


def test_the_bar_never_goes_back_and_the_eta_is_calm() -> None:
    meter = ProgressMeter()
    readings = []
    for tick in range(100):  # 10 units a second with jitter, one step back
        done = tick + (3 if tick % 2 else 0)
        readings.append(meter.update(done, 200, "steps", tick * 0.1))
    assert [r.done for r in readings] == sorted(r.done for r in readings)
    assert readings[0].eta_s is None
    for before, after in itertools.pairwise(readings[40:]):
        assert before.eta_s is not None
        assert after.eta_s is not None
        assert abs(after.eta_s - before.eta_s) < 2
    assert readings[-1].rate_per_s == pytest.approx(10, rel=0.2)
    assert readings[-1].eta_s == pytest.approx(10, rel=0.25)


def test_another_unit_starts_over_and_a_total_grows_with_what_is_done() -> None:
    meter = ProgressMeter()
    assert meter.update(50, 100, "bytes", 0.0).done == 50
    reading = meter.update(1, 20, "steps", 1.0)
    assert (reading.done, reading.total, reading.rate_per_s) == (1, 20, None)
    assert meter.update(25, 20, "steps", 2.0).total == 25
    assert meter.update(25, None, "steps", 3.0).total == 25


def test_a_job_cancelled_just_when_its_turn_came_is_dropped_too(db: StateDb) -> None:
    dropped, worked = threading.Event(), threading.Event()

    def publish(event: Event) -> None:
        assert isinstance(event, JobChanged)
        if event.job.state is JobState.RUNNING:  # taken from the queue, not begun
            runner._live[event.job.id].cancel.set()

    runner = JobRunner(db, publish)
    job = runner.submit("test", "Test", lambda context: worked.set(), dropped=dropped.set)
    assert dropped.wait(10)
    assert runner.close()
    assert runner.get(job.id).state in (JobState.CANCELLED, JobState.INTERRUPTED)
    assert not worked.is_set()
