"""The queue of downloads: states, order, what a restart finds, and what goes wrong around it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.unit.engine_kit import wait_until
from tray_app.engine.downloads import queue_ledger
from tray_app.engine.downloads.queue import DownloadQueue, Reporter
from tray_app.engine.downloads.queue_entry import ALLOWED, Entry
from tray_app.engine.downloads.queue_ledger import Ledger
from tray_app.engine.downloads.queue_store import DownloadStore
from tray_app.engine.downloads.values import Download, DownloadState
from tray_app.engine.errors import (
    BadRequest,
    Cancelled,
    DownloadFailed,
    EngineError,
    NotEnoughDisk,
    NotFound,
)
from tray_app.engine.events import DownloadChanged, Event
from tray_app.engine.state import StateDb

QUEUED, RUNNING, PAUSED = DownloadState.QUEUED, DownloadState.RUNNING, DownloadState.PAUSED
WAITING, DONE = DownloadState.WAITING, DownloadState.DONE
FAILED, CANCELLED = DownloadState.FAILED, DownloadState.CANCELLED
PACE_S = 0.002


class Run:
    """One run of the work, which does what the test says through `reporter`, `end` and `fail`."""

    def __init__(self, download: Download, reporter: Reporter) -> None:
        self.download = download
        self.reporter = reporter
        self.kept = reporter.kept
        self.deaf = False  # to being asked to end
        self._ended = threading.Event()
        self._error: BaseException | None = None

    def end(self) -> None:
        self._ended.set()

    def fail(self, error: BaseException) -> None:
        self._error = error
        self._ended.set()

    def __call__(self) -> str:
        while not self._ended.wait(0.001):
            if not self.deaf:
                self.reporter.check()
        if self._error:
            raise self._error
        return f"/models/{self.download.reference}.gguf"


class Rig:
    """A queue with work, listener, clocks and network of its own."""

    def __init__(self, path: Path, **around: Any) -> None:
        self.path = path
        self.now = 1000.0
        self.network = True
        self.limit = 2
        self.asked = 0
        self.around = around
        self.events: list[DownloadChanged] = []
        self.runs: list[Run] = []
        self.discarded: list[tuple[str, Mapping[str, Any]]] = []
        self.busy: list[str] = []  # references that are worked on, or swept
        self.clashes: list[str] = []
        self.discarding = threading.Event()  # may go on
        self.discarding.set()
        self.queues: list[DownloadQueue] = []
        self.db = StateDb(path)
        self.queue = self.open()

    def open(self) -> DownloadQueue:
        self.busy = []
        queue = DownloadQueue(
            self.db,
            self.work,
            self.publish,
            concurrent=self.concurrent,
            clock=lambda: self.now,
            wall=lambda: 1_700_000_000.0 + self.now,
            online=lambda: self.network,
            discard=self.discard,
            **{"pace_s": PACE_S, **self.around},
        )
        self.queues.append(queue)
        return queue

    def work(self, download: Download, reporter: Reporter) -> str:
        run = Run(download, reporter)
        self.runs.append(run)
        with self.alone(download.reference):
            return run()

    @contextlib.contextmanager
    def alone(self, reference: str) -> Iterator[None]:
        """Two at once on the same files would spoil them."""
        busy = self.busy  # of this engine
        if reference in busy:
            self.clashes.append(reference)
        busy.append(reference)
        try:
            yield
        finally:
            busy.remove(reference)

    def concurrent(self) -> int:
        self.asked += 1
        return self.limit

    def rounds(self) -> None:
        """Let the queue look after what runs, once from begin to end."""
        before = self.asked  # asked at the end of each round
        wait_until(lambda: self.asked >= before + 2)

    def publish(self, event: Event) -> None:
        assert isinstance(event, DownloadChanged)
        self.events.append(event)

    def discard(self, download: Download, kept: Mapping[str, Any]) -> None:
        with self.alone(download.reference):
            assert self.discarding.wait(10)
        self.discarded.append((download.reference, kept))

    def restart(self) -> None:
        """Another engine, after this one has ended well."""
        assert self.queue.close(10)
        self.again()

    def again(self) -> None:
        """Another queue on what is on the disk."""
        self.runs = []
        self.queue = self.open()
        self.queue.start()

    def state(self, download: Download) -> DownloadState:
        return self.queue.get(download.id).state

    def until(self, download: Download, state: DownloadState) -> Download:
        wait_until(lambda: self.state(download) is state)
        return self.queue.get(download.id)

    def run_of(self, reference: str, number: int = 0) -> Run:
        def runs() -> list[Run]:
            return [run for run in self.runs if run.download.reference == reference]

        wait_until(lambda: len(runs()) > number)
        return runs()[number]

    def references(self, *states: DownloadState) -> list[str]:
        listed = self.queue.list()
        return [each.reference for each in listed if not states or each.state in states]

    def rows(self) -> dict[str, dict[str, Any]]:
        with self.db.reading() as db:
            found = db.execute("SELECT reference, state, download FROM downloads").fetchall()
        return {row[0]: {**json.loads(row[2]), "state": row[1]} for row in found}

    def rows_ids(self) -> dict[str, dict[str, Any]]:
        """The same by id."""
        with self.db.reading() as db:
            found = db.execute("SELECT id, state FROM downloads").fetchall()
        return {row[0]: {"state": row[1]} for row in found}

    def close(self) -> None:
        self.discarding.set()
        for run in self.runs:
            run.deaf = False
        closed = [queue.close(10) for queue in self.queues]
        wait_until(lambda: not threads())
        self.db.close()
        assert all(closed)
        assert self.clashes == []


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("download")]


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path / "state.db")
    made.queue.start()
    yield made
    made.close()


# -- the way of one download


def test_a_download_runs_reports_and_is_done(rig: Rig) -> None:
    added = rig.queue.add("org/repo:Q4_K_M", "Repo")
    assert (added.reference, added.title, added.state) == ("org/repo:Q4_K_M", "Repo", RUNNING)
    run = rig.run_of("org/repo:Q4_K_M")
    run.reporter.planned("Repo 1B", 1000, ("Its license is unusual.",))
    run.reporter.progress(400, step="Downloading")
    run.end()
    done = rig.until(added, DONE)
    assert done.model_path == "/models/org/repo:Q4_K_M.gguf"
    assert (done.title, done.done_bytes, done.total_bytes) == ("Repo 1B", 400, 1000)
    assert done.warnings == ("Its license is unusual.",)
    assert done.finished_at == 1_700_001_000.0
    assert (done.step, done.rate_bytes_s, done.eta_s, done.error) == ("", None, None, None)
    wait_until(lambda: rig.events[-1].download == done)
    states = [event.download.state for event in rig.events]
    assert [state for state, _ in itertools.groupby(states)] == [QUEUED, RUNNING, DONE]


def test_nothing_runs_before_the_start(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "state.db")
    added = rig.queue.add("a")
    assert (added.state, threads(), rig.runs) == (QUEUED, [], [])
    rig.queue.start()
    rig.run_of("a").end()
    rig.until(added, DONE)
    rig.close()


def test_an_idle_queue_has_no_thread(rig: Rig) -> None:
    assert threads() == []
    rig.queue.add("a")
    assert threads()
    rig.run_of("a").end()
    wait_until(lambda: not threads())
    rig.queue.add("b")
    rig.queue.pause_all()
    wait_until(lambda: not threads())
    assert rig.references(PAUSED) == ["b"]


@pytest.mark.parametrize("reference", ["", "  ", "a\nb", "a\x00", "x" * 2001, "\udcff"])
def test_a_reference_that_names_nothing_is_refused(rig: Rig, reference: str) -> None:
    with pytest.raises(BadRequest):
        rig.queue.add(reference)
    assert rig.queue.list() == ()


def test_an_unknown_download_is_not_found(rig: Rig) -> None:
    queue = rig.queue
    commands = (queue.get, queue.pause, queue.resume, queue.retry, queue.cancel, queue.remove)
    for command in commands:
        with pytest.raises(NotFound):
            command("download-none")
    with pytest.raises(NotFound):
        queue.move("download-none", None)


def test_hostile_words_of_a_hub_are_cut(rig: Rig) -> None:
    added = rig.queue.add("a")
    rig.run_of("a").reporter.planned("t" * 10_000, 1, ("w" * 10_000,) * 1000)
    shown = rig.queue.get(added.id)
    assert (len(shown.title), len(shown.warnings), len(shown.warnings[0])) == (300, 50, 1000)


# -- joining


def test_an_unfinished_download_of_the_same_reference_is_joined(rig: Rig) -> None:
    first = rig.queue.add("a")
    rig.run_of("a")
    assert rig.queue.add(" a ").id == first.id
    rig.queue.pause(first.id)
    rig.until(first, PAUSED)
    assert rig.queue.add("a").id == first.id
    rig.run_of("a", 1).end()
    rig.until(first, DONE)
    assert len(rig.queue.list()) == 1


def test_a_queued_one_is_joined_where_it_stands(rig: Rig) -> None:
    for name in "abcd":
        rig.queue.add(name)
    assert rig.queue.add("c").state is QUEUED
    assert rig.references() == ["a", "b", "c", "d"]


def test_a_failed_one_asked_for_again_goes_on_with_its_bytes(rig: Rig) -> None:
    first = rig.queue.add("a")
    run = rig.run_of("a")
    run.reporter.keep({"commit": "0123abc"})
    run.reporter.progress(700, 1000)
    run.fail(DownloadFailed("The hub refused.", "Retry."))
    assert rig.until(first, FAILED).error is not None
    again = rig.queue.add("a")
    assert (again.id, again.done_bytes, again.error, again.finished_at) == (
        first.id,
        700,
        None,
        None,
    )
    assert rig.run_of("a", 1).kept == {"commit": "0123abc"}


@pytest.mark.parametrize("end", [FAILED, CANCELLED])
def test_one_that_begins_anew_does_so_at_the_end_of_the_queue(rig: Rig, end: DownloadState) -> None:
    first = reach(rig, end)
    for name in "bcd":
        rig.queue.add(name)
    assert rig.queue.retry(first.id).state is QUEUED
    assert rig.references() == ["b", "c", "d", "a"]


def test_a_cancelled_one_asked_for_again_begins_at_nothing(rig: Rig) -> None:
    first = rig.queue.add("a")
    rig.run_of("a").reporter.keep({"commit": "0123abc"})
    rig.run_of("a").reporter.progress(700, 1000)
    rig.queue.cancel(first.id)
    rig.until(first, CANCELLED)
    again = rig.queue.add("a")
    assert (again.id, again.done_bytes, again.total_bytes) == (first.id, 0, None)
    run = rig.run_of("a", 1)
    assert run.kept == {}
    rig.restart()
    rig.run_of("a")
    assert rig.discarded == [("a", {"commit": "0123abc"})]


def test_what_is_done_can_be_downloaded_once_more(rig: Rig) -> None:
    first = rig.queue.add("a")
    rig.run_of("a").end()
    rig.until(first, DONE)
    assert rig.queue.add("a").id != first.id
    assert rig.queue.retry(first.id).state is DONE


# -- pause, resume, cancel


def test_a_pause_ends_the_run_and_a_resume_begins_another(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    run.reporter.progress(500, 1000)
    pausing = rig.queue.pause(added.id)
    assert (pausing.state, pausing.step) == (RUNNING, "Pausing")
    assert (run.reporter.cancel.is_set(), run.reporter.reason) == (True, "pause")
    run.reporter.progress(600, 1000, step="Downloading")
    assert rig.queue.get(added.id).step == "Pausing"
    run.deaf = False
    paused = rig.until(added, PAUSED)
    assert (paused.done_bytes, paused.step, paused.rate_bytes_s) == (600, "", None)
    assert rig.queue.resume(added.id).state is RUNNING
    assert rig.run_of("a", 1).download.done_bytes == 600
    assert rig.discarded == []


def test_a_resume_during_a_pause_runs_again(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    rig.queue.pause(added.id)
    rig.queue.resume(added.id)
    run.deaf = False
    rig.run_of("a", 1).end()
    rig.until(added, DONE)


def test_a_queued_one_pauses_and_comes_back_to_its_place(rig: Rig) -> None:
    a, b, c, d = (rig.queue.add(name) for name in "abcd")
    assert rig.queue.pause(c.id).state is PAUSED
    assert rig.references() == ["a", "b", "c", "d"]
    rig.run_of("a").end()
    rig.run_of("d")
    assert rig.queue.resume(c.id).state is QUEUED
    rig.run_of("b").end()
    rig.run_of("c")
    assert rig.state(a) is rig.state(b) is DONE
    assert rig.state(d) is RUNNING


def test_a_running_one_is_cancelled_and_its_files_removed(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.reporter.keep({"file": "x.part"})
    assert rig.queue.cancel(added.id).step == "Cancelling"
    assert run.reporter.reason == "cancel"
    cancelled = rig.until(added, CANCELLED)
    assert cancelled.finished_at is not None
    wait_until(lambda: rig.discarded == [("a", {"file": "x.part"})])


@pytest.mark.parametrize("state", [QUEUED, PAUSED, WAITING, FAILED])
def test_one_that_does_not_run_is_cancelled_too(rig: Rig, state: DownloadState) -> None:
    added = reach(rig, state)
    assert rig.queue.cancel(added.id).state is CANCELLED
    wait_until(lambda: [name for name, _ in rig.discarded] == ["a"])
    assert rig.queue.cancel(added.id).state is CANCELLED
    assert len(rig.discarded) == 1


def reach(rig: Rig, state: DownloadState, reference: str = "a") -> Download:
    """A download in a state."""
    if state is QUEUED:
        rig.limit = 0
    added = rig.queue.add(reference)
    if state in (QUEUED, RUNNING):
        return added
    run = rig.run_of(reference)
    rig.network = state is not WAITING
    match state:
        case DownloadState.PAUSED:
            rig.queue.pause(added.id)
        case DownloadState.CANCELLED:
            rig.queue.cancel(added.id)
        case DownloadState.DONE:
            run.end()
        case _:
            run.fail(DownloadFailed("The line broke."))
    return rig.until(added, state)


def test_a_cancel_overrides_a_pause_and_not_the_other_way_round(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    rig.queue.pause(added.id)
    rig.queue.cancel(added.id)
    rig.queue.pause(added.id)
    rig.queue.resume(added.id)
    rig.queue.resume_all()
    assert run.reporter.reason == "cancel"
    run.deaf = False
    rig.until(added, CANCELLED)


def test_adding_during_a_cancel_begins_anew_after_the_files_are_gone(rig: Rig) -> None:
    rig.discarding.clear()
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    run.reporter.progress(500, 1000)
    rig.queue.cancel(added.id)
    assert rig.queue.add("a").id == added.id
    run.deaf = False
    queued = rig.until(added, QUEUED)
    assert queued.done_bytes == 0
    rig.queue.add("b")
    rig.run_of("b")  # others are not held up
    assert rig.state(added) is QUEUED
    rig.discarding.set()
    rig.run_of("a", 1)
    assert [name for name, _ in rig.discarded] == ["a"]


def test_success_that_comes_with_a_cancel_is_success(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    rig.queue.cancel(added.id)
    run.end()
    rig.until(added, DONE)
    rig.restart()
    assert rig.state(added) is DONE
    assert rig.discarded == []


def test_an_error_that_comes_with_a_pause_is_a_pause(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    rig.queue.pause(added.id)
    run.fail(ConnectionResetError(errno.ECONNRESET, "closed by us"))
    assert rig.until(added, PAUSED).error is None


def test_all_are_paused_and_resumed_in_their_order(rig: Rig) -> None:
    names = list("abcde")
    for name in names:
        rig.queue.add(name)
    rig.run_of("a").end()
    wait_until(lambda: rig.references(DONE) == ["a"])
    rig.queue.pause_all()
    wait_until(lambda: rig.references(PAUSED) == names[1:])
    rig.queue.resume_all()
    assert rig.references(RUNNING, QUEUED) == names[1:]
    assert rig.references(RUNNING) == ["b", "c"]


@pytest.mark.parametrize("state", list(DownloadState))
def test_each_command_leaves_each_state_only_as_the_table_allows(
    rig: Rig, state: DownloadState
) -> None:
    """`_move` raises for anything else; here each command meets each state."""
    commands: list[Callable[[str], object]] = [
        rig.queue.pause,
        rig.queue.resume,
        rig.queue.retry,
        rig.queue.cancel,
    ]
    added = reach(rig, state)
    for command in commands:
        command(added.id)
        known = rig.queue.get(added.id)
        assert isinstance(known.state, DownloadState)
    assert rig.state(added) in (CANCELLED, DONE, RUNNING)


def test_an_impossible_move_is_a_defect(tmp_path: Path) -> None:
    db = StateDb(tmp_path / "state.db")
    ledger = Ledger(DownloadStore(db), lambda event: None, lambda: 0.0, lambda: 0.0)
    entry = Entry(Download("1", "a", "a"))
    ledger.add(entry)
    with pytest.raises(RuntimeError, match="cannot go from queued to done"):
        ledger.move(entry, DONE)
    assert set(ALLOWED) == set(DownloadState)
    db.close()


# -- order


def test_the_queue_keeps_the_order_of_asking_and_of_moving(rig: Rig) -> None:
    rig.limit = 0
    ids = {name: rig.queue.add(name).id for name in "abcde"}
    rig.queue.move(ids["e"], ids["a"])
    rig.queue.move(ids["a"], None)
    rig.queue.move(ids["c"], ids["b"])
    rig.queue.move(ids["d"], ids["d"])
    assert rig.references() == ["e", "c", "b", "d", "a"]
    rig.limit = 1
    for name in "ecbda":
        rig.run_of(name).end()
    wait_until(lambda: len(rig.references(DONE)) == 5)
    assert [run.download.reference for run in rig.runs] == list("ecbda")


def test_a_move_is_told_and_survives_a_restart(rig: Rig) -> None:
    rig.limit = 0
    ids = {name: rig.queue.add(name).id for name in "abc"}
    moved = rig.queue.move(ids["c"], ids["a"])
    assert rig.events[-1].download == moved
    shown = {event.download.reference: event.download.order for event in rig.events}
    assert sorted(shown, key=shown.__getitem__) == ["c", "a", "b"]
    rig.restart()
    assert rig.references() == ["c", "a", "b"]


def test_places_between_places_never_run_out(rig: Rig) -> None:
    rig.limit = 0
    ids = {name: rig.queue.add(name).id for name in "abc"}
    for _ in range(100):
        rig.queue.move(ids["c"], ids["b"])
        rig.queue.move(ids["b"], ids["c"])
    assert rig.references() == ["a", "b", "c"]
    orders = [each.order for each in rig.queue.list()]
    assert orders == sorted(set(orders))


def test_a_finished_one_has_no_place(rig: Rig) -> None:
    done = reach(rig, DONE)
    waiting = rig.queue.add("b")
    with pytest.raises(BadRequest):
        rig.queue.move(done.id, None)
    with pytest.raises(BadRequest):
        rig.queue.move(waiting.id, done.id)


def test_the_newest_of_the_finished_comes_first_after_the_unfinished(rig: Rig) -> None:
    for name in "abc":
        rig.now += 1
        added = rig.queue.add(name)
        rig.run_of(name).end()
        rig.until(added, DONE)
    rig.queue.add("z")
    assert rig.references() == ["z", "c", "b", "a"]


def test_the_limit_holds_and_its_change_is_heard(rig: Rig) -> None:
    for name in "abcdef":
        rig.queue.add(name)
    assert rig.references(RUNNING) == ["a", "b"]
    rig.limit = 4
    wait_until(lambda: rig.references(RUNNING) == ["a", "b", "c", "d"])
    rig.limit = 1
    rig.run_of("a").end()
    wait_until(lambda: rig.references(DONE) == ["a"])
    assert rig.references(RUNNING) == ["b", "c", "d"]
    for name in "bcd":
        rig.run_of(name).end()
    wait_until(lambda: rig.references(RUNNING) == ["e"])


def test_a_limit_of_none_holds_everything_until_it_is_raised(rig: Rig) -> None:
    rig.limit = 0
    added = rig.queue.add("a")
    assert added.state is QUEUED
    rig.limit = 1
    rig.until(added, RUNNING)


def test_finished_ones_are_removed_and_unfinished_ones_are_not(rig: Rig) -> None:
    done = reach(rig, DONE)
    running = rig.queue.add("b")
    with pytest.raises(BadRequest, match="not finished"):
        rig.queue.remove(running.id)
    rig.queue.remove(done.id)
    assert rig.references() == ["b"]
    assert [event.download.id for event in rig.events if event.removed] == [done.id]
    assert set(rig.rows()) == {"b"}
    assert rig.discarded == []


def test_what_a_failed_one_left_goes_with_it(rig: Rig) -> None:
    rig.discarding.clear()
    added = rig.queue.add("a")
    rig.run_of("a").reporter.keep({"file": "x.part"})
    rig.run_of("a").fail(DownloadFailed("No."))
    rig.until(added, FAILED)
    rig.queue.remove(added.id)
    assert rig.references() == []
    again = rig.queue.add("a")
    assert again.id != added.id
    assert again.state is QUEUED  # not before the files of the removed one are gone
    rig.discarding.set()
    rig.until(again, RUNNING)
    assert rig.discarded == [("a", {"file": "x.part"})]
    wait_until(lambda: len(rig.rows()) == 1)


def test_only_so_many_finished_ones_are_remembered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue_ledger, "KEPT", 3)
    for name in "abcde":
        rig.now += 1
        added = rig.queue.add(name)
        run = rig.run_of(name)
        if name == "a":
            run.fail(DownloadFailed("No."))
        else:
            run.end()
        rig.until(added, FAILED if name == "a" else DONE)
    assert rig.references() == ["e", "d", "c"]
    wait_until(lambda: set(rig.rows()) == set("cde"))
    assert [name for name, _ in rig.discarded] == ["a"]
    assert [event.download.reference for event in rig.events if event.removed] == ["a", "b"]


# -- progress


def test_progress_never_goes_back(rig: Rig) -> None:
    added = rig.queue.add("a")
    reporter = rig.run_of("a").reporter
    reporter.progress(500, 1000)
    reporter.progress(200)
    reporter.progress(-5)
    assert rig.queue.get(added.id).done_bytes == 500
    rig.queue.pause(added.id)
    rig.until(added, PAUSED)
    rig.restart()
    rig.queue.resume(added.id)
    again = rig.run_of("a").reporter
    again.planned("A", 900)
    again.progress(0, 900)
    known = rig.queue.get(added.id)
    assert (known.done_bytes, known.total_bytes) == (500, 900)
    again.planned("A", None)
    again.progress(501)
    known = rig.queue.get(added.id)
    assert (known.done_bytes, known.total_bytes) == (501, None)


def test_the_rate_is_of_the_last_seconds_and_not_of_what_was_there(rig: Rig) -> None:
    added = rig.queue.add("a")
    rig.run_of("a").reporter.progress(10_000_000, 20_000_000)
    rig.queue.pause(added.id)
    rig.until(added, PAUSED)
    rig.queue.resume(added.id)
    reporter = rig.run_of("a", 1).reporter
    for second in range(1, 11):
        rig.now += 1
        reporter.progress(10_000_000 + second * 1000)
    known = rig.queue.get(added.id)
    assert known.rate_bytes_s == pytest.approx(1000)
    assert known.eta_s == pytest.approx((20_000_000 - known.done_bytes) / 1000)


def test_a_silence_lets_the_rate_fall(rig: Rig) -> None:
    added = rig.queue.add("a")
    reporter = rig.run_of("a").reporter
    for second in range(10):
        rig.now += 1
        reporter.progress(second * 1000, 1_000_000)
    before = rig.queue.get(added.id).rate_bytes_s
    rig.now += 20
    wait_until(lambda: (rig.queue.get(added.id).rate_bytes_s or 0) < 0.2 * (before or 0))
    rig.now += 500
    wait_until(lambda: rig.queue.get(added.id).rate_bytes_s == 0.0)
    assert rig.queue.get(added.id).eta_s is None
    wait_until(lambda: rig.events[-1].download.rate_bytes_s == 0.0)


def test_five_events_a_second_and_the_last_count_before_a_silence(rig: Rig) -> None:
    added = rig.queue.add("a")
    reporter = rig.run_of("a").reporter
    before = len(rig.events)
    for step in range(1000):  # one second
        rig.now += 0.001
        reporter.progress(step)
    told = len(rig.events) - before
    assert 4 <= told <= 6
    rig.now += 1
    wait_until(lambda: rig.events[-1].download.done_bytes == 999)
    assert rig.events[-1].download.id == added.id


def test_progress_is_saved_once_a_second(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    saves: list[int] = []
    save = DownloadStore.save

    def counted(store: DownloadStore, rows: Any, gone: Any = ()) -> None:
        saves.extend(row.download.done_bytes for row in rows)
        save(store, rows, gone)

    rig.queue.add("a")
    reporter = rig.run_of("a").reporter
    monkeypatch.setattr(DownloadStore, "save", counted)
    rig.now += 1
    for step in range(1, 31):  # three seconds
        rig.now += 0.1
        reporter.progress(step)
        rig.rounds()
    rig.now += 1
    wait_until(lambda: rig.rows()["a"]["done_bytes"] == 30)
    assert 3 <= len(saves) <= 5
    assert saves == sorted(saves)


def test_a_report_after_the_end_is_not_heard(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.reporter.progress(1, 10)
    rig.queue.pause(added.id)
    rig.until(added, PAUSED)
    run.reporter.progress(9, 10, step="late")
    run.reporter.planned("late", 99)
    run.reporter.keep({"late": True})
    paused = rig.queue.get(added.id)
    assert (paused.done_bytes, paused.title, paused.step) == (1, "a", "")
    rig.queue.resume(added.id)
    run.reporter.progress(9, 10)
    assert rig.run_of("a", 1).kept == {}
    assert rig.queue.get(added.id).done_bytes == 1


def test_reports_from_many_threads_count_once(rig: Rig) -> None:
    added = rig.queue.add("a")
    reporter = rig.run_of("a").reporter

    def count(offset: int) -> None:
        for number in range(offset, 2000, 4):
            reporter.progress(number, 2000)

    counting = [threading.Thread(target=count, args=(n,)) for n in range(4)]
    for thread in counting:
        thread.start()
    for thread in counting:
        thread.join()
    assert rig.queue.get(added.id).done_bytes == 1999
    heard = [event.download.done_bytes for event in rig.events]
    assert heard == sorted(heard)


# -- errors


def test_an_error_of_ours_is_shown_and_can_be_retried(rig: Rig) -> None:
    added = rig.queue.add("a")
    rig.run_of("a").fail(NotEnoughDisk("2 GB are missing.", "Free some disk space."))
    other = rig.queue.add("b")
    failed = rig.until(added, FAILED)
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("not_enough_disk", "2 GB are missing.")
    assert rig.state(other) is RUNNING  # another disk, or a smaller file: others go on
    assert rig.queue.retry(added.id).state is RUNNING
    assert rig.queue.get(added.id).error is None


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("a bug"), "internal"),
        (SystemExit(3), "internal"),
        (Cancelled(), "internal"),  # nobody asked for it
        (OSError(errno.ENOSPC, "full"), "not_enough_disk"),
        (PermissionError(errno.EACCES, "no", "/models/x"), "os_error"),
    ],
)
def test_whatever_the_work_raises_ends_as_an_error(
    rig: Rig, error: BaseException, code: str
) -> None:
    added = rig.queue.add("a")
    rig.run_of("a").fail(error)
    failed = rig.until(added, FAILED)
    assert failed.error is not None
    assert failed.error.code == code
    rig.run_of(rig.queue.add("b").reference).end()
    wait_until(lambda: rig.references(DONE) == ["b"])
    assert rig.discarded == []


def test_a_listener_that_raises_stops_nothing(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(event: Event) -> None:
        raise RuntimeError("a broken listener")

    monkeypatch.setattr(rig, "publish", broken)
    rig.queue = rig.open()
    rig.queue.start()
    added = rig.queue.add("a")
    rig.run_of("a").reporter.progress(5, 10)
    rig.run_of("a").end()
    rig.until(added, DONE)
    assert "could not be published" in caplog.text


def test_a_listener_may_use_the_queue(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "state.db")
    seen: list[DownloadState] = []
    publish = rig.publish

    def answer(event: Event) -> None:
        assert isinstance(event, DownloadChanged)
        publish(event)
        seen.append(rig.queue.get(event.download.id).state)
        if event.download.state is FAILED:
            rig.queue.retry(event.download.id)

    rig.publish = answer  # type: ignore[method-assign]
    rig.queue = rig.open()
    rig.queue.start()
    added = rig.queue.add("a")
    rig.run_of("a").fail(DownloadFailed("No."))
    rig.run_of("a", 1).end()
    rig.until(added, DONE)
    rig.close()


def test_a_sweep_that_fails_is_logged_and_holds_nothing_up(
    rig: Rig, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(download: Download, kept: Mapping[str, Any]) -> None:
        raise OSError(errno.EACCES, "no")

    monkeypatch.setattr(rig, "discard", broken)
    rig.queue = rig.open()
    rig.queue.start()
    added = rig.queue.add("a")
    rig.run_of("a")
    rig.queue.cancel(added.id)
    rig.until(added, CANCELLED)
    rig.queue.add("a")
    rig.run_of("a", 1).end()
    rig.until(added, DONE)
    assert "was not removed" in caplog.text


def test_a_system_without_threads_is_tried_again(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.queue.add("z")  # so that somebody looks after the queue
    rig.run_of("z")
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "download":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    added = rig.queue.add("a")
    assert added.state is QUEUED
    monkeypatch.undo()
    rig.until(added, RUNNING)


# -- the network


def test_a_download_waits_for_the_network_and_goes_on_when_it_is_back(rig: Rig) -> None:
    added = rig.queue.add("a")
    rig.network = False
    rig.run_of("a").reporter.progress(300, 1000)
    rig.run_of("a").fail(DownloadFailed("The host is not reachable.", "Check the network."))
    waiting = rig.until(added, WAITING)
    assert waiting.retry_at == 1_700_001_030.0
    assert waiting.error is not None
    assert waiting.error.message == "The host is not reachable."
    rig.network = True
    running = rig.until(added, RUNNING)
    assert (running.retry_at, running.error, running.done_bytes) == (None, None, 300)


def test_without_a_word_of_the_network_it_tries_after_longer_and_longer_pauses(rig: Rig) -> None:
    added = rig.queue.add("a")
    rig.run_of("a").reporter.progress(7)
    rig.network = False
    for number, pause_s in enumerate((30, 60, 300, 300)):
        rig.run_of("a", number).fail(DownloadFailed("Away."))
        waiting = rig.until(added, WAITING)
        assert waiting.retry_at == 1_700_000_000.0 + rig.now + pause_s
        rig.now += pause_s
    run = rig.run_of("a", 4)
    run.reporter.progress(8)  # a byte came: it is not the same outage
    run.fail(DownloadFailed("Away."))
    assert rig.until(added, WAITING).retry_at == 1_700_000_000.0 + rig.now + 30


def test_a_waiting_one_leaves_its_turn_to_others_and_keeps_its_place(rig: Rig) -> None:
    rig.limit = 1
    a = rig.queue.add("a")
    b = rig.queue.add("http://127.0.0.1:9/b")
    rig.queue.add("c")
    rig.network = False
    rig.run_of("a").fail(TimeoutError("timed out"))
    rig.until(a, WAITING)
    rig.until(b, RUNNING)
    rig.network = True
    rig.until(a, QUEUED)
    rig.run_of(b.reference).end()
    rig.run_of("a", 1)
    assert rig.references() == ["a", "c", b.reference]


@pytest.mark.parametrize(
    ("reference", "network", "error"),
    [
        ("a", True, DownloadFailed("The hub says no.")),
        ("http://127.0.0.1:9/x.gguf", False, DownloadFailed("Refused.")),
        ("a", False, NotEnoughDisk("Full.")),
        ("a", False, NotFound("No such model.")),
        ("a", False, OSError(errno.EIO, "the disk")),
    ],
)
def test_what_the_network_is_not_to_blame_for_fails(
    rig: Rig, reference: str, network: bool, error: Exception
) -> None:
    added = rig.queue.add(reference)
    rig.network = network
    rig.run_of(reference).fail(error)
    rig.until(added, FAILED)


def test_what_is_local_can_be_told_from_outside(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "state.db", local=lambda reference: reference == "mirrored")
    rig.queue.start()
    rig.network = False
    added = rig.queue.add("mirrored")
    rig.run_of("mirrored").fail(DownloadFailed("The mirror on this machine is off."))
    rig.until(added, FAILED)
    rig.close()


@pytest.mark.parametrize("command", ["resume", "retry", "add"])
def test_a_waiting_one_can_be_tried_at_once(rig: Rig, command: str) -> None:
    added = reach(rig, WAITING)
    getattr(rig.queue, command)("a" if command == "add" else added.id)
    rig.run_of("a", 1).fail(DownloadFailed("Away."))
    assert rig.until(added, WAITING).retry_at == 1_700_000_000.0 + rig.now + 30


# -- the next engine


def test_an_engine_that_ends_lets_the_next_one_go_on(rig: Rig) -> None:
    rig.queue.add("a")
    rig.queue.add("b")
    rig.queue.add("c")
    run = rig.run_of("a")
    run.reporter.keep({"commit": "0123abc", "files": [1, 2]})
    run.reporter.planned("A", 1000, ("w",))
    run.reporter.progress(421, step="Downloading")
    assert rig.queue.close(10)
    assert run.reporter.reason == "close"
    assert rig.references(QUEUED) == ["a", "b", "c"]
    assert rig.runs[-1].download.reference != "c"  # nothing new began
    rig.again()
    known = rig.queue.list()[0]
    assert (known.done_bytes, known.total_bytes, known.title, known.warnings) == (
        421,
        1000,
        "A",
        ("w",),
    )
    again = rig.run_of("a")
    assert again.kept == {"commit": "0123abc", "files": [1, 2]}
    assert rig.references(RUNNING) == ["a", "b"]


def test_every_kind_of_state_comes_back(rig: Rig) -> None:
    for state in (DONE, FAILED, PAUSED, CANCELLED, WAITING, QUEUED):
        reach(rig, state, f"the {state} one")
    rig.network = False
    before = rig.queue.list()
    rig.restart()
    assert rig.queue.list() == before
    assert {each.state for each in before} == set(DownloadState) - {RUNNING}


def test_what_waited_goes_on_waiting(rig: Rig) -> None:
    added = reach(rig, WAITING)
    rig.restart()
    waiting = rig.queue.get(added.id)
    assert (waiting.state, waiting.retry_at) == (WAITING, 1_700_000_000.0 + rig.now + 30)
    rig.now += 30
    rig.run_of("a")


def test_a_clock_that_was_set_makes_nobody_wait_for_years(rig: Rig) -> None:
    added = reach(rig, WAITING)
    assert rig.queue.close(10)
    rows = rig.rows()["a"]
    rows["retry_at"] = 2_700_000_000.0
    with rig.db.transaction() as db:
        db.execute("UPDATE downloads SET download = ?", (json.dumps(rows),))
    rig.again()
    assert rig.queue.get(added.id).retry_at == 1_700_000_000.0 + rig.now + 300
    rig.now += 300
    rig.run_of("a")


@pytest.mark.parametrize(
    ("command", "state"), [("pause", PAUSED), ("cancel", CANCELLED), ("close", QUEUED)]
)
def test_a_wish_counts_even_if_the_engine_dies_before_it_is_fulfilled(
    rig: Rig, command: str, state: DownloadState
) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    if command == "close":
        assert not rig.queue.close(0)
    else:
        getattr(rig.queue, command)(added.id)
    rig.limit = 0
    dead, rig.runs = rig.runs, []
    rig.queue = rig.open()  # what a next engine would find
    assert rig.state(added) is state
    rig.queue.start()
    wait_until(lambda: [name for name, _ in rig.discarded] == ["a"] * (command == "cancel"))
    for each in dead:
        each.deaf = False


def test_nothing_is_taken_after_the_end(rig: Rig) -> None:
    added = rig.queue.add("a")
    assert rig.queue.close(10)
    with pytest.raises(EngineError, match="stopping"):
        rig.queue.add("b")
    assert rig.queue.resume(added.id).state is QUEUED
    assert threads() == []
    assert rig.queue.close(10)


def test_an_end_does_not_wait_for_a_deaf_run_for_ever(rig: Rig) -> None:
    rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    run.reporter.progress(55)
    assert not rig.queue.close(0.05)
    assert rig.rows()["a"]["done_bytes"] == 55
    run.deaf = False
    wait_until(lambda: not threads())


@pytest.mark.parametrize(("command", "state"), [("pause", PAUSED), ("cancel", CANCELLED)])
def test_an_end_forgets_no_wish(rig: Rig, command: str, state: DownloadState) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    getattr(rig.queue, command)(added.id)
    assert not rig.queue.close(0.05)
    assert run.reporter.reason == command
    run.deaf = False
    rig.until(added, state)


def test_an_end_does_not_wait_for_those_who_look_after_the_queue(tmp_path: Path) -> None:
    rig = Rig(tmp_path / "state.db", pace_s=60.0)
    rig.queue.start()
    reach(rig, WAITING)
    wait_until(lambda: threads() == ["downloads"])
    assert rig.queue.close(10)
    rig.close()


def test_a_sweep_that_was_cut_off_is_done_by_the_next_engine(rig: Rig) -> None:
    rig.discarding.clear()
    added = rig.queue.add("a")
    rig.run_of("a").reporter.keep({"file": "x.part"})
    rig.queue.cancel(added.id)
    rig.until(added, CANCELLED)
    old = rig.queue
    assert not old.close(0.05)
    rig.again()
    rig.discarding.set()
    wait_until(lambda: rig.discarded == [("a", {"file": "x.part"})] * 2)
    wait_until(lambda: not threads())


def test_an_end_comes_between_two_sweeps(rig: Rig) -> None:
    rig.discarding.clear()
    for name in "ab":
        rig.queue.cancel(reach(rig, FAILED, name).id)
    assert not rig.queue.close(0.05)
    rig.discarding.set()
    wait_until(lambda: not threads())
    assert [name for name, _ in rig.discarded] == ["a"]
    rig.again()
    wait_until(lambda: {name for name, _ in rig.discarded} == {"a", "b"})
    wait_until(lambda: not threads())


def test_one_that_is_to_begin_at_nothing_does_so_after_a_kill_as_well(rig: Rig) -> None:
    added = rig.queue.add("a")
    run = rig.run_of("a")
    run.deaf = True
    run.reporter.progress(500, 1000)
    rig.queue.cancel(added.id)
    rig.queue.add("a")
    killed = rig.queue
    rig.queue = rig.open()
    begins = rig.queue.get(added.id)
    assert (begins.state, begins.done_bytes, begins.total_bytes) == (QUEUED, 0, None)
    run.deaf = False
    assert killed.close(10)


def test_a_broken_row_costs_at_most_itself(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.limit = 0
    ids = {name: rig.queue.add(name).id for name in "abcdefg"}
    assert rig.queue.close(10)
    with rig.db.transaction() as db:

        def spoil(name: str, column: str, value: object) -> None:
            db.execute(f"UPDATE downloads SET {column} = ? WHERE id = ?", (value, ids[name]))

        spoil("a", "download", "{half")
        spoil("b", "state", "exploded")
        spoil("c", "reference", b"\xff\xfe")
        spoil("d", "kept", "[" * 5000)
        spoil("e", "download", b"\xff")
        spoil("e", "place", "nowhere")
        hostile = {
            "title": 7,
            "done_bytes": -1,
            "total_bytes": 10**400,
            "created_at": True,
            "error": {"code": []},
            "warnings": [1, "w"],
            "retry_at": "soon",
        }
        spoil("f", "download", json.dumps(hostile))
        db.execute("UPDATE downloads SET reference = CAST(X'ff' AS TEXT) WHERE id = ?", (ids["g"],))
    rig.again()
    assert rig.references() == ["e", "a", "d", "f"]
    listed = {each.reference: each for each in rig.queue.list()}
    assert {each.state for each in listed.values()} == {QUEUED}
    assert (listed["f"].title, listed["f"].done_bytes, listed["f"].total_bytes) == ("f", 0, None)
    assert listed["f"].warnings == ("w",)
    assert "beyond use" in caplog.text
    assert set(rig.rows_ids()) == {ids[name] for name in "adef"}
    rig.limit = 4
    assert rig.run_of("d").kept == {}


def test_three_hundred_come_back_in_order_with_their_progress(rig: Rig) -> None:
    names = [f"org/m{number}" for number in range(300)]
    ids = [rig.queue.add(name).id for name in names]
    for number in range(0, 300, 7):
        rig.queue.move(ids[number], ids[(number * 31) % 300])
    for name in rig.references(RUNNING):
        rig.run_of(name).reporter.progress(77, 100)
    before = [(each.id, each.done_bytes, each.order) for each in rig.queue.list()]
    rig.limit = 0
    rig.restart()
    assert [(each.id, each.done_bytes, each.order) for each in rig.queue.list()] == before
    assert len(before) == 300
    rig.queue.pause_all()
    assert len(rig.references(PAUSED)) == 300


# -- a database that does not take it


def lock_out(rig: Rig) -> sqlite3.Connection:
    """Another process holds the database. The queue's own patience is cut to nothing."""
    with rig.db.transaction() as db:
        pass
    db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(rig.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    return other


def test_a_locked_database_stops_no_download(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    removed = reach(rig, DONE, "removed")
    added = rig.queue.add("a")
    run = rig.run_of("a")
    wait_until(lambda: rig.rows()["a"]["state"] == "running")
    other = lock_out(rig)
    try:
        run.reporter.keep({"commit": "0123abc"})
        rig.now += 2
        run.reporter.progress(50, 100)
        queued = rig.queue.add("b")
        rig.queue.pause(queued.id)
        rig.queue.remove(removed.id)
        run.end()
        rig.until(added, DONE)
        assert "could not be saved" in caplog.text
        assert set(rig.rows()) == {"a", "removed"}
    finally:
        other.close()
    rig.now += 10
    wait_until(lambda: set(rig.rows()) == {"a", "b"} and rig.rows()["a"]["state"] == "done")
    wait_until(lambda: not threads())
    with rig.db.reading() as db:
        memo = db.execute("SELECT kept FROM downloads WHERE reference = 'a'").fetchone()
    assert json.loads(memo[0]) == {"commit": "0123abc"}


def test_a_full_disk_is_not_tried_all_the_time(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def full(store: DownloadStore, rows: Any, gone: Any = ()) -> None:
        tries.append(rows)
        raise sqlite3.OperationalError("database or disk is full")

    rig.queue.add("a")
    run = rig.run_of("a")
    monkeypatch.setattr(DownloadStore, "save", full)
    rig.now += 1
    run.reporter.progress(1)
    wait_until(lambda: tries)
    for step in range(20):
        rig.now += 0.2
        run.reporter.progress(step)
        rig.rounds()
    assert len(tries) == 1
    rig.now += 5
    wait_until(lambda: len(tries) == 2)
    monkeypatch.undo()
    rig.now += 5
    wait_until(lambda: rig.rows()["a"]["done_bytes"] == 19)


def test_a_closed_database_ends_the_tries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rig = Rig(tmp_path / "state.db")
    rig.queue.start()
    added = rig.queue.add("a")
    rig.run_of("a")
    rig.db.close()
    rig.run_of("a").end()
    rig.until(added, DONE)
    wait_until(lambda: not threads())
    assert "no longer saved" in caplog.text


def test_a_database_that_cannot_be_used_is_said_at_once(rig: Rig) -> None:
    other = lock_out(rig)
    with pytest.raises(OSError, match="list of downloads"):
        rig.open()
    other.close()


# -- everything at once


class Soak:
    """Random commands over some references; what must always hold is checked after each."""

    NAMES = ("a", "b", "c", "d", "e", "http://127.0.0.1:9/f", "g", "h")

    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.counts: dict[str, int] = {}  # bytes that were seen of each
        self.read = 0  # events checked

    def step(self, restarts: bool = True) -> None:
        rig, queue = self.rig, self.rig.queue
        known = [each.id for each in queue.list()] or [queue.add("a").id]
        one, two = self.random.choice(known), self.random.choice(known)
        match self.random.randrange(16):
            case 0 | 1 | 2:
                queue.add(self.random.choice(self.NAMES))
            case 3:
                queue.pause(one)
            case 4 | 5:
                queue.resume(one)
            case 6:
                queue.cancel(one)
            case 7:
                queue.retry(one)
            case 8 if {one, two} <= {e.id for e in queue.list() if e.state.unfinished}:
                self.move(one, two)
            case 9:
                self.remove(one)
            case 10:
                self.random.choice((queue.pause_all, queue.resume_all))()
            case 11:
                rig.network = not rig.network
                rig.limit = self.random.randrange(1, 4)
            case 12 if restarts and self.random.random() < 0.2:
                rig.restart()
            case _:
                self.work_on()
        rig.now += self.random.random() * 10

    def move(self, one: str, two: str) -> None:
        try:
            self.rig.queue.move(one, self.random.choice((two, None)))
        except BadRequest:  # it ended between the look and the command
            assert not all(self.rig.queue.get(each).state.unfinished for each in (one, two))

    def remove(self, one: str) -> None:
        try:
            self.rig.queue.remove(one)
        except BadRequest:
            assert one in {each.id for each in self.rig.queue.list()}

    def work_on(self) -> None:
        for run in self.rig.runs[-4:]:
            run.reporter.progress(self.random.randrange(10_000), 10_000)
            match self.random.randrange(6):
                case 0:
                    run.end()
                case 1:
                    run.fail(DownloadFailed("Away."))
                case 2:
                    run.reporter.keep({"n": self.random.random()})

    def check(self) -> None:
        listed = self.rig.queue.list()
        unfinished = [each for each in listed if each.state.unfinished]
        assert list(listed[: len(unfinished)]) == unfinished
        assert [each.order for each in unfinished] == sorted(e.order for e in unfinished)
        references = [each.reference for each in unfinished]
        assert len(references) == len(set(references)), "one reference is downloaded twice"
        assert sum(each.state is RUNNING for each in listed) <= 3
        assert len({each.id for each in listed}) == len(listed)
        for event in self.rig.events[self.read :]:
            self.hear(event.download)
        self.read = len(self.rig.events)

    def hear(self, download: Download) -> None:
        before = self.counts.get(download.id, 0)
        anew = download.state in (QUEUED, PAUSED) and download.done_bytes == 0
        assert anew or download.done_bytes >= before, "progress went back"
        assert download.total_bytes is None or download.total_bytes >= download.done_bytes
        assert (download.finished_at is None) is download.state.unfinished
        assert (download.retry_at is not None) is (download.state is WAITING)
        assert (download.error is not None) is (download.state in (FAILED, WAITING))
        self.counts[download.id] = download.done_bytes


def test_commands_from_many_threads_leave_a_sound_list(rig: Rig) -> None:
    def command(seed: int) -> None:
        soak = Soak(rig, seed)
        for _ in range(150):
            with contextlib.suppress(NotFound):  # another thread has removed it
                soak.step(restarts=False)

    commanding = [threading.Thread(target=command, args=(seed,)) for seed in range(4)]
    for thread in commanding:
        thread.start()
    for thread in commanding:
        thread.join()
    Soak(rig, 0).check()
    let_all_end(rig)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_lost_in_hundreds_of_random_steps(rig: Rig, seed: int) -> None:
    soak = Soak(rig, seed)
    for _ in range(400):
        soak.step()
        soak.check()
    let_all_end(rig)
    soak.check()


def let_all_end(rig: Rig) -> None:
    """Whatever still wants to run does so; then memory and disk are of one mind."""
    rig.network, rig.limit = True, 3

    def all_end() -> bool:
        rig.queue.resume_all()
        for run in rig.runs:
            run.end()
        return not any(each.state.unfinished for each in rig.queue.list())

    wait_until(all_end)
    wait_until(lambda: not threads())
    assert {key: row["state"] for key, row in rig.rows_ids().items()} == {
        each.id: each.state for each in rig.queue.list()
    }
