"""The scan worker as a real process: it answers, it is limited, and its death is survived."""

from __future__ import annotations

import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.gguf_maker import make_gguf
from tray_app.engine.gguf_cache import Keep, MetadataCache
from tray_app.engine.library import Library
from tray_app.engine.scan_worker import Reading, ScanWorker
from tray_app.self_command import SCAN_WORKER, part_command

WAIT_S = 20.0


def script(tmp_path: Path, body: str) -> tuple[str, ...]:
    """The command of a misbehaving worker that answers as the real one, but for `body`."""
    path = tmp_path / "worker.py"
    path.write_text(
        "import json, os, sys, time\n"
        f"sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
        "from tray_app.engine.scan_worker import read_one\n"
        "for line in sys.stdin:\n"
        "    path = json.loads(line)['path']\n"
        + textwrap.indent(textwrap.dedent(body), "    ")
        + "\n    print(json.dumps(read_one(path)), flush=True)\n"
    )
    return (sys.executable, str(path))


@pytest.fixture
def worker() -> Iterator[ScanWorker]:
    worker = ScanWorker()
    yield worker
    worker.close()


def test_it_answers_for_good_and_bad_files_in_one_process(
    worker: ScanWorker, tmp_path: Path
) -> None:
    good = make_gguf(tmp_path / "a.gguf")
    half = make_gguf(tmp_path / "b.gguf", keep=0.5)
    reading = worker.read(str(good))
    assert reading.header is not None
    assert reading.header.details
    pid = worker.pid
    assert "incomplete" in (worker.read(str(half)).problem or "")
    missing = worker.read(str(tmp_path / "none.gguf"))
    assert missing.keep is Keep.SCAN
    assert "No such file" in (missing.problem or "")
    assert worker.pid == pid


def test_it_ends_when_stopped_and_starts_again(worker: ScanWorker, tmp_path: Path) -> None:
    path = str(make_gguf(tmp_path / "a.gguf"))
    worker.read(path)
    process = psutil.Process(worker.pid)
    worker.stop()
    assert worker.pid is None
    assert not process.is_running()
    assert worker.read(path).header is not None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads limits through /proc")
def test_it_runs_with_a_memory_limit_and_low_priority(worker: ScanWorker, tmp_path: Path) -> None:
    worker.read(str(make_gguf(tmp_path / "a.gguf")))
    process = psutil.Process(worker.pid)
    assert process.rlimit(psutil.RLIMIT_AS)[0] == 1 << 30
    assert process.nice() >= 10


def test_it_ends_when_the_engine_is_gone(tmp_path: Path) -> None:
    # A worker whose stdin closes is in the place of one whose engine was killed.
    process = psutil.Popen(
        part_command(SCAN_WORKER), stdin=-1, stdout=-1, cwd=Path(__file__).parents[2]
    )
    process.stdin.close()
    assert process.wait(WAIT_S) == 0
    process.stdout.close()


def in_background(worker: ScanWorker, path: str) -> tuple[threading.Thread, list[Reading], int]:
    """A read that waits in a thread, the place its reading goes to, and the worker's pid."""
    readings: list[Reading] = []
    reader = threading.Thread(target=lambda: readings.append(worker.read(path)))
    reader.start()
    deadline = time.monotonic() + WAIT_S
    while worker.pid is None and time.monotonic() < deadline:
        reader.join(0.01)
    assert worker.pid is not None
    return reader, readings, worker.pid


def test_a_killed_worker_costs_one_file_and_is_replaced(tmp_path: Path) -> None:
    paths = [str(make_gguf(tmp_path / name)) for name in ("slow.gguf", "a.gguf")]
    worker = ScanWorker(script(tmp_path, "if 'slow' in path: time.sleep(60)"), time_limit_s=60)
    reader, readings, pid = in_background(worker, paths[0])
    psutil.Process(pid).kill()
    reader.join(WAIT_S)
    assert "signal 9" in (readings[0].problem or "")
    assert readings[0].keep is Keep.SESSION
    assert worker.read(paths[1]).header is not None
    worker.close()


def test_a_worker_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    worker = ScanWorker(script(tmp_path, "time.sleep(60)"), time_limit_s=0.2)
    reading = worker.read(str(make_gguf(tmp_path / "a.gguf")))
    assert "within 0.2 seconds" in (reading.problem or "")
    assert worker.pid is None


def test_a_worker_that_answers_nonsense_costs_one_file(tmp_path: Path) -> None:
    worker = ScanWorker(script(tmp_path, "print('[1, 2]', flush=True); continue"))
    reading = worker.read(str(make_gguf(tmp_path / "a.gguf")))
    worker.close()
    assert reading.problem == "Its header came back garbled."


def test_closing_ends_a_read_that_waits(tmp_path: Path) -> None:
    worker = ScanWorker(script(tmp_path, "time.sleep(60)"), time_limit_s=60)
    reader, readings, _ = in_background(worker, "/a.gguf")
    worker.close()
    reader.join(WAIT_S)
    assert readings[0].keep is Keep.SCAN
    assert worker.read("/b.gguf").problem == "The engine is closing."


def test_a_file_that_kills_the_worker_is_left_out_and_the_others_are_listed(
    tmp_path: Path,
) -> None:
    root = tmp_path / "models"
    for name in ("a", "evil", "z"):
        make_gguf(root / f"{name}-Q4_0.gguf")
    argv = script(tmp_path, "if 'evil' in path: os._exit(7)")
    cache = MetadataCache(tmp_path / "state.db")
    worker = ScanWorker(argv)
    with Library([root], cache, lambda: None, reader=worker) as library:
        library.rescan()
        assert library.wait(WAIT_S)
        assert [model.id for model in library.models()] == ["a:Q4_0", "z:Q4_0"]
        assert all(model.details_known for model in library.models())
        (left,) = library.left_out()
        assert left.path.name == "evil-Q4_0.gguf"
        assert "exit status 7" in left.reason
        assert worker.pid is None  # nothing left to read: no idle process
    cache.close()
