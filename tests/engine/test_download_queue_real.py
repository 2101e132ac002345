"""A queue of 300 real transfers whose process is killed, again and again, and goes on."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.file_server import FileServer, file_server
from tray_app.engine.downloads.queue import DownloadQueue
from tray_app.engine.downloads.values import Download, DownloadState
from tray_app.engine.state import StateDb

ROOT = Path(__file__).parent.parent.parent
COUNT = 300
SMALL = 128 * 1024
LARGE = 10 << 20
RATE = 2 << 20  # bytes/s of a connection: the large one takes five seconds, over several lives
KILLS = 6
SAVED_WITHIN_S = 2.0  # progress is saved once a second; the rest is for a busy machine

CHILD = """
import json, random, sys, threading
from pathlib import Path
from tray_app.engine.downloads.queue import DownloadQueue
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Remote
from tray_app.engine.state import StateDb
db, models, plans = sys.argv[1:]
plans = json.loads(Path(plans).read_text())
ended = threading.Event()

def say(*words):
    sys.stdout.write(json.dumps(words) + "\\n")
    sys.stdout.flush()

def publish(event):
    each = event.download
    if not event.removed:
        say("event", each.reference, each.state, each.done_bytes)

def work(download, reporter):
    say("began", download.reference, download.done_bytes, reporter.kept.get("sha256"))
    plan = reporter.kept or plans[download.reference]
    reporter.keep(plan)
    reporter.planned(download.reference, plan["size"])
    remote = Remote(download.reference, "f", plan["size"], plan["sha256"])
    target = Path(models) / plan["name"]
    fetch(remote, target, connections=1, progress=reporter.progress, cancel=reporter.cancel)
    return str(target)

queue = DownloadQueue(StateDb(Path(db)), work, publish, concurrent=lambda: 3)
if not queue.list():
    ids = [queue.add(reference).id for reference in plans]
    dice = random.Random(4)
    for _ in range(100):
        queue.move(dice.choice(ids), dice.choice(ids))
    queue.move(ids[0], queue.list()[0].id)
say("order", *(each.reference for each in queue.list()))
queue.start()
while any(each.state.unfinished for each in queue.list()):
    ended.wait(0.05)
say("closed", queue.close())
"""


@dataclass
class Life:
    """What one process said, and when."""

    order: list[str] = field(default_factory=list)
    began: list[tuple[str, int, str | None]] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    counts: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    closed: bool = False

    def hear(self, kind: str, *words: Any) -> None:
        match kind:
            case "order":
                self.order = list(words)
            case "began":
                self.began.append((words[0], words[1], words[2]))
            case "closed":
                self.closed = words[0]
            case "event":
                reference, state, done_bytes = words
                self.counts.setdefault(reference, []).append((time.monotonic(), done_bytes))
                if state == DownloadState.DONE:
                    self.done.add(reference)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as serving:
        serving.bytes_per_s = RATE
        yield serving


@pytest.fixture
def plans(server: FileServer, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """What each reference comes to; the first one is large, and stays first in the queue."""
    dice = random.Random(300)
    made = {}
    for number in range(COUNT):
        body = dice.randbytes(LARGE if number == 0 else SMALL)
        path = f"/m{number}.gguf"
        server.put(path, body)
        sha256 = hashlib.sha256(body).hexdigest()
        made[server.url(path)] = {"name": path[1:], "size": len(body), "sha256": sha256}
    (tmp_path / "plans.json").write_text(json.dumps(made))
    return made


def live(folder: Path, dies: Callable[[Life], bool]) -> Life:
    """A process, killed as soon as `dies` says so; one that it leaves alone ends by itself."""
    command = (sys.executable, "-c", CHILD, *map(str, (folder / "state.db", folder / "models")))
    child = subprocess.Popen(
        (*command, str(folder / "plans.json")), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    life = Life()
    try:
        assert child.stdout is not None
        for line in child.stdout:
            life.hear(*json.loads(line))
            if dies(life):
                break
    finally:
        if not life.closed:
            child.kill()
        child.communicate(timeout=30)
    return life


def on_disk(folder: Path) -> tuple[Download, ...]:
    """What a next engine finds."""
    db = StateDb(folder / "state.db")
    try:
        return DownloadQueue(db, lambda *_: None, lambda event: None).list()
    finally:
        db.close()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="kills as Unix does")
@pytest.mark.timeout(300)
def test_three_hundred_downloads_survive_kills_in_order_and_with_their_progress(
    server: FileServer, plans: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    dice = random.Random(7)
    large = next(iter(plans))
    before = live(tmp_path, lambda life: life.counts.get(large, [(0, 0)])[-1][1] > LARGE * 0.6)
    known = on_disk(tmp_path)
    place = {reference: number for number, reference in enumerate(before.order)}
    assert len(place) == COUNT
    assert before.order != list(plans)  # they were moved
    assert known[0].reference == large
    assert known[0].done_bytes > 0
    for kill in range(KILLS):
        left = [each.reference for each in known if each.state.unfinished]
        assert left == sorted(left, key=place.__getitem__), "the order was lost"
        assert len(known) == COUNT
        assert {each.state for each in known} == {DownloadState.QUEUED, DownloadState.DONE}
        check_saved(before, known)
        asked, most = len(server.seen), COUNT if kill == KILLS - 1 else dice.randrange(2, 12)
        before = live(tmp_path, lambda life, most=most: len(life.done) >= most)  # type: ignore[misc]
        check_went_on(before, known, left, plans)
        done = {each.reference for each in known if each.state is DownloadState.DONE}
        again = {server.url(request.path) for request in server.seen[asked:]}
        assert not done & again, "what was done was fetched once more"
        known = on_disk(tmp_path)
    assert before.closed
    assert {each.state for each in known} == {DownloadState.DONE}
    assert len(known) == 200  # finished ones remembered
    check_files(tmp_path / "models", plans)


def check_saved(life: Life, known: tuple[Download, ...]) -> None:
    """What was told a while before the kill is on the disk."""
    died = max(at for counts in life.counts.values() for at, _ in counts)
    for download in known:
        for at, done_bytes in life.counts.get(download.reference, ()):
            if died - at > SAVED_WITHIN_S:
                assert download.done_bytes >= done_bytes


def check_went_on(
    life: Life, known: tuple[Download, ...], left: list[str], plans: dict[str, dict[str, Any]]
) -> None:
    """It began with the first ones of the queue, each with its bytes and its pinned plan."""
    saved = {each.reference: each for each in known}
    order = [reference for reference, _, _ in life.began]
    assert left[0] in order
    # Two of three may have been killed just before they could say that they began.
    assert set(order) <= set(left[: len(order) + 2])
    assert len(order) == len(set(order))
    for reference, done_bytes, sha256 in life.began:
        assert done_bytes == saved[reference].done_bytes
        assert sha256 in (None, plans[reference]["sha256"])
        if done_bytes:
            assert sha256, "the plan was forgotten"
        counts = [done_bytes, *(count for _, count in life.counts.get(reference, ()))]
        assert counts == sorted(counts)


def check_files(models: Path, plans: dict[str, dict[str, Any]]) -> None:
    """Each is there, whole, and nothing else is."""
    assert {path.name for path in models.iterdir()} == {plan["name"] for plan in plans.values()}
    for plan in plans.values():
        body = (models / plan["name"]).read_bytes()
        assert hashlib.sha256(body).hexdigest() == plan["sha256"]
