"""Transfers by real processes: killed at random times, two at once, bounded in memory."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.file_server import FileServer, file_server
from tray_app.engine.downloads.part_file import map_path
from tray_app.engine.downloads.piece_map import read_map
from tray_app.engine.downloads.pieces import Pieces, piece_bytes_for
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Remote

MIB = 1 << 20
SIZE = 96 * MIB + 4321
KILLS = 50
ROOT = Path(__file__).parent.parent.parent

CHILD = """
import re, sys
from pathlib import Path
from tray_app.engine.downloads.transfer import fetch
from tray_app.engine.downloads.values import Remote
url, size, sha256, target, connections = sys.argv[1:]
def status_kb(field):
    try:
        return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
    except OSError:
        return 0
before = status_kb("VmRSS")
def progress(done, total):
    print("done", done, flush=True)
fetch(Remote(url, "f.bin", int(size), sha256), Path(target), connections=int(connections),
      progress=progress)
print("grown_kb", status_kb("VmHWM") - before, flush=True)
"""


@pytest.fixture(scope="module")
def body() -> bytes:
    return random.Random(9).randbytes(SIZE)


@pytest.fixture(scope="module")
def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@pytest.fixture
def server(body: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with file_server() as serving:
        serving.put("/f.bin", body)
        yield serving


def start(server: FileServer, sha256: str, target: Path, connections: int) -> subprocess.Popen[str]:
    command = (sys.executable, "-c", CHILD, server.url("/f.bin"), str(SIZE), sha256)
    return subprocess.Popen(
        (*command, str(target), str(connections)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_in_the_middle(child: subprocess.Popen[str], after_s: float) -> int | None:
    """SIGKILL, so long after its first byte; with how many it began. None when it ended before."""
    assert child.stdout is not None
    first = child.stdout.readline()
    threading.Event().wait(after_s)
    child.send_signal(signal.SIGKILL)
    child.communicate()
    return int(first.split()[1]) if child.returncode == -signal.SIGKILL else None


def mapped_bytes(target: Path) -> int:
    """What the map says is on the disk."""
    kept = read_map(map_path(target))
    if kept is None:
        return 0
    pieces = Pieces(SIZE, piece_bytes_for(SIZE))
    pieces.restore(kept.standing, lambda *_: True)
    return pieces.received_bytes


@pytest.mark.timeout(600)
def test_killed_at_fifty_random_times_it_never_begins_at_zero(
    server: FileServer, sha256: str, tmp_path: Path
) -> None:
    dice = random.Random(os.getpid())
    server.bytes_per_s = 25 * MIB
    target, kills, rounds, lost = tmp_path / "f.bin", 0, 0, 0
    while kills < KILLS:
        rounds += 1
        before, of_this_file = server.sent, 0
        while kills < KILLS:
            mapped = mapped_bytes(target)
            child = start(server, sha256, target, dice.choice((1, 4, 8)))
            began_with = kill_in_the_middle(child, dice.uniform(0, 0.8))
            if began_with is None:
                break
            assert began_with >= mapped
            kills += 1
            of_this_file += 1
        server.bytes_per_s = None
        fetch(Remote(server.url("/f.bin"), "f.bin", SIZE, sha256), target)
        server.bytes_per_s = 25 * MIB
        assert hashlib.sha256(target.read_bytes()).hexdigest() == sha256
        assert os.listdir(tmp_path) == ["f.bin"]
        lost = server.sent - before - SIZE
        # Each kill costs what came since the last map (a second at most, 0.2 s at first), and
        # what was under way in the sockets.
        assert lost < of_this_file * 40 * MIB, f"{of_this_file} kills"
        print(f"{of_this_file} kills, {lost / MIB:.1f} MiB twice")
        target.unlink()
    assert rounds > 1


def test_what_was_mapped_before_a_kill_is_not_fetched_again(
    server: FileServer, sha256: str, tmp_path: Path
) -> None:
    server.bytes_per_s = 12 * MIB
    child = start(server, sha256, tmp_path / "f.bin", 2)
    assert kill_in_the_middle(child, 3.0) is not None
    assert mapped_bytes(tmp_path / "f.bin") > 20 * MIB
    server.bytes_per_s, before = None, server.sent
    assert before > 40 * MIB
    fetch(Remote(server.url("/f.bin"), "f.bin", SIZE, sha256), tmp_path / "f.bin")
    assert server.sent - before < SIZE - before + 2 * 12 * MIB * 2


def test_a_second_process_waits_or_is_told(server: FileServer, sha256: str, tmp_path: Path) -> None:
    server.bytes_per_s = 5 * MIB
    first = start(server, sha256, tmp_path / "f.bin", 2)
    assert first.stdout is not None
    first.stdout.readline()
    second = start(server, sha256, tmp_path / "f.bin", 2)
    _, told = second.communicate(timeout=60)
    assert second.returncode == 1
    assert "is being filled by another download of the same file" in told
    server.bytes_per_s = None
    first.communicate(timeout=60)
    assert first.returncode == 0
    assert hashlib.sha256((tmp_path / "f.bin").read_bytes()).hexdigest() == sha256
    assert os.listdir(tmp_path) == ["f.bin"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak")
def test_eight_connections_take_less_than_64_mb(
    server: FileServer, sha256: str, tmp_path: Path
) -> None:
    server.bytes_per_s = 15 * MIB
    child = start(server, sha256, tmp_path / "f.bin", 8)
    told, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    assert server.most_open == 8
    grown_kb = int(told.rpartition("grown_kb")[2])
    print(f"{grown_kb / 1024:.1f} MiB above idle")
    assert grown_kb < 64 * 1024
